"""Processes that train and encode in turns, and the times they take: what the comparisons are made of."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from machine import ROOT, Usage, middle, quantile, wait_for_quiet

sys.path.append(str(ROOT / "tests" / "interop"))
import environments

WORKER = Path(__file__).parent / "peers" / "worker.py"
PHASES = ("train", "encode")

ALLOCATORS: dict[str, dict[str, str]] = {
    "default": {},
    "tuned": {
        "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
        "MALLOC_MMAP_MAX_": "0",
        "MALLOC_TRIM_THRESHOLD_": str(8 << 30),
        "MALLOC_TOP_PAD_": str(512 << 20),
    },
}


@dataclass(frozen=True)
class Side:
    """One side of a comparison.

    environment: where its library is installed; "": here
    module: what drives the library, in ``peers/``
    variant: of its settings, as that module understands it
    env: environment variables it is started with
    job: what differs from the job of the others
    """

    environment: str
    module: str
    variant: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    job: Mapping[str, Any] = field(default_factory=dict)


PURE, COMPILED = "monoscope", "monoscope, compiled"


def ours() -> dict[str, Side]:
    """Sides of monoscope: in pure PyTorch, and with compiled kernels where this machine can have them."""
    sides = {PURE: Side("", "monoscope", env={"MONOSCOPE_NATIVE": "0"})}
    code = "import sys; from monoscope.ops import native; sys.exit(native.kernels() is None)"
    env = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    if subprocess.run([sys.executable, "-c", code], env=env, capture_output=True).returncode == 0:
        sides[COMPILED] = Side("", "monoscope")
    return sides


class Worker:
    """A process that trains one dictionary, in turns."""

    def __init__(self, name: str, side: Side, job: Mapping[str, Any], allocator: str) -> None:
        self.name, self.job = name, {**job, **side.job, "variant": side.variant}
        self.times: dict[str, list[list[float]]] = {phase: [] for phase in PHASES}
        log = ROOT / "build" / "bench" / "logs" / f"{name.replace(', ', '-')}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        self.errors = log.open("w")
        python = environments.python_of(side.environment) if side.environment else sys.executable
        self.process = subprocess.Popen(
            [python, WORKER, side.module, json.dumps(self.job)],
            env=_environment(side, allocator),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
        )
        self.facts = self._answer()

    def send(self, number: int) -> dict[str, Any]:
        """Let it go on, and wait until it has."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{number}\n")
        self.process.stdin.flush()
        return self._answer()

    def turn(self, phase: str, steps: int) -> bool:
        """Let it take some steps; whether those were the last ones."""
        said = self.send(steps)
        if said["seconds"]:
            self.times[phase].append(said["seconds"])
        self.facts |= {key: said[key] for key in ("peak_mb",) if key in said}
        return said.get("ended", False)

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()
        self.errors.close()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()
            sys.exit(f"{self.name} ended with {self.process.returncode}: {Path(self.errors.name).read_text()[-2000:]}")
        return json.loads(line)


def go(sides: Mapping[str, Side], job: Mapping[str, Any], allocator: str, steps: int) -> dict[str, Any]:
    """Train, encode and judge every side, ``steps`` steps a turn; what each did, and what others took meanwhile."""
    began = time.monotonic()
    before = wait_for_quiet()
    workers: dict[str, Worker] = {}
    shares: list[float] = []
    try:
        for name, side in sides.items():
            workers[name] = Worker(name, side, job, allocator)
            workers[name].send(0)  # builds its dictionary before the next one starts
        usage = Usage([worker.process.pid for worker in workers.values()])
        for phase in PHASES if job.get("encodes", True) else ("train",):
            if phase == "encode":
                for worker in workers.values():
                    worker.send(0)
            ended = False
            while not ended:
                ended = all([worker.turn(phase, steps) for worker in workers.values()])
                shares += [share for share in [usage.others()] if share is not None]
        for worker in workers.values():
            if worker.job["judge"]:
                worker.facts |= worker.send(0)
    finally:
        for worker in workers.values():
            worker.close()
    return {
        "sides": {name: about(worker) for name, worker in workers.items()},
        "times": {name: worker.times for name, worker in workers.items()},
        "others": {"before": before, "mean": sum(shares) / len(shares), "worst": max(shares)} if shares else {},
        "seconds": time.monotonic() - began,
    }


def about(worker: Worker) -> dict[str, Any]:
    """One side: its speed, memory and quality."""
    found = worker.facts
    facts: dict[str, Any] = {key: round(found[key], 4) for key in ("fvu", "dead", "l0") if key in found}
    facts |= {"peak_mb": round(found["peak_mb"]), "import_s": round(found["import_s"], 1), "threads": found["threads"]}
    for phase in (phase for phase in PHASES if worker.times[phase]):
        speed = [worker.job["batch"] / second for turn in worker.times[phase][1:] for second in turn]
        facts[phase] = {
            "tokens_per_s": round(middle(speed)),
            "spread": [round(quantile(speed, share)) for share in (0.1, 0.9)],
            "steps": len(speed),
        }
    return facts


def compare(a_round: Mapping[str, Any], base: str, name: str, phase: str, scale: float = 1.0) -> dict[str, Any]:
    """How many times faster a side is than another, turn by turn after the first: the median and the middle 80 %."""
    theirs, ours = (a_round["times"][side][phase][1:] for side in (base, name))
    ratios = [scale * middle(their) / middle(our) for their, our in zip(theirs, ours, strict=False)]
    spread = [round(quantile(ratios, share), 3) for share in (0.1, 0.9)]
    return {"median": round(middle(ratios), 3), "spread": spread, "turns": len(ratios)}


def _environment(side: Side, allocator: str) -> dict[str, str]:
    """The environment here, without what would change who is measured, and with as many threads as there are cores."""
    ours = {"PYTHONPATH", "MONOSCOPE_NATIVE", *ALLOCATORS["tuned"]}
    env = {key: value for key, value in os.environ.items() if key not in ours}
    env |= {"OMP_NUM_THREADS": str(os.cpu_count()), "OMP_WAIT_POLICY": "passive"}
    env |= {"HF_HUB_OFFLINE": "1", "WANDB_MODE": "disabled", "TOKENIZERS_PARALLELISM": "false"}
    if not side.environment:
        env["PYTHONPATH"] = str(ROOT / "src")
    return env | ALLOCATORS[allocator] | dict(side.env)
