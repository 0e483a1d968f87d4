"""What else can happen to a run. Each case tries its fault some times, and counts the tries that lost nothing."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from fault_processes import PATIENCE, Process, start
from fault_runs import Attempt, undisturbed
from fault_verbs import VERBS, broken, content, step_of

from monoscope.core.io import remove
from monoscope.core.site import Site
from monoscope.core.tensors import read_tensors
from monoscope.models import LanguageModel
from monoscope.training.checkpoint import checkpoints
from monoscope.training.shared import shared_checkpoints

Case = Callable[[Path, int, np.random.Generator], dict[str, Any]]
TRAIN = VERBS["train"]
ONE_THREAD = {"OMP_NUM_THREADS": "1"}  # the order of sums, and so the last bits, follow the threads


class Tries:
    """Tries of a case, and what went wrong in them."""

    def __init__(self) -> None:
        self.tried, self.failures = 0, list[str]()

    @contextmanager
    def one(self) -> Iterator[None]:
        """A try, which fails where an assertion in it does."""
        self.tried += 1
        try:
            yield
        except AssertionError as error:
            self.failures.append(str(error)[-500:])

    def summary(self) -> dict[str, Any]:
        """How often it was tried, and how often all was well."""
        return {"runs": self.tried, "held": self.tried - len(self.failures), "failures": self.failures}


def expect(holds: object, why: str) -> None:
    """Fails the try, unless ``holds``."""
    if not holds:
        raise AssertionError(why)


def finished(attempt: Attempt, expected: dict[str, str]) -> None:
    """The run goes on to its end, and equals the undisturbed one."""
    result = attempt.finish(expected)
    expect(result["exact"] and not result["broken"], f"{result['why']} {result['broken']}")


def asked_to_stop(work: Path, times: int, rng: np.random.Generator) -> dict[str, Any]:
    """SIGTERM, SIGINT and SIGHUP at random moments, every third time twice: a checkpoint, and exit code 130."""
    expected, seconds, _ = undisturbed(TRAIN, work)
    tries, saved = Tries(), 0
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        for i in range(times):
            with tries.one():
                attempt = Attempt(TRAIN, work, f"{number.name}{i}")
                process = attempt.start()
                process.send(number, after=float(rng.uniform(0.3, 1.0)) * seconds)
                if twice := i % 3 == 2:
                    process.send(number)
                code = process.wait()
                # Before the loop begins there is nothing to save, and the system ends the process.
                expect(code in (0, 130, -number), f"{number.name}: exit code {code}: {process.said[-300:]}")
                if stopped := re.search(r"stopped at step (\d+)", process.said):
                    newest = checkpoints(attempt.out)[0].name
                    expect(f"-{int(stopped[1]):08d}." in newest, f"{stopped[0]}, and the newest is {newest}")
                    saved += 1
                expect(stopped or twice or code != 130 or "interrupted" in process.said, process.said)
                finished(attempt, expected)
    return tries.summary() | {"checkpoints_on_request": saved}


def full_disk(work: Path, times: int, rng: np.random.Generator) -> dict[str, Any]:
    """A disk that fills at a random checkpoint: what was complete stays, the error says sizes, the run goes on."""
    expected, _, _ = undisturbed(TRAIN, work)
    tries, small = Tries(), work / "small"
    small.mkdir()
    for i in range(times):
        size = int(rng.integers(500, 1500))
        if subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}k", "none", small], capture_output=True
        ).returncode:
            small.rmdir()
            return tries.summary() | {"left_out": "a file system of a chosen size can be mounted by root alone"}
        try:
            with tries.one():
                attempt = Attempt(TRAIN, small, f"full{i}")
                attempt.work = work
                process = attempt.start()
                code = process.wait()
                expect(code == 1, f"{size} kB: exit code {code}: {process.said[-300:]}")
                expect(
                    re.search(r"takes [\d,]+ bytes, and [\d,]+ are free|[\d,]+ bytes are free", process.said),
                    process.said,
                )
                expect(not broken(attempt.out), f"broken: {broken(attempt.out)}")
                subprocess.run(["mount", "-o", "remount,size=64m", small], check=True)
                finished(attempt, expected)
        finally:
            subprocess.run(["umount", small], check=True)
    small.rmdir()
    return tries.summary()


def killed_in_training(attempt: Attempt, seconds: float, rng: np.random.Generator) -> None:
    """The run has at least two checkpoints, and its process is gone."""
    process = attempt.start()
    deadline = time.monotonic() + PATIENCE
    while len(checkpoints(attempt.out)) < 2 and not process.ended() and time.monotonic() < deadline:
        time.sleep(0.002)
    time.sleep(float(rng.uniform(0, seconds / 4)))
    process.send(signal.SIGKILL)
    attempt.after_kill(process)


def damaged_checkpoint(work: Path, times: int, rng: np.random.Generator) -> dict[str, Any]:
    """A random bit of the newest checkpoint is flipped, or its end is lost: the one before it is used."""
    expected, seconds, _ = undisturbed(TRAIN, work)
    tries = Tries()
    for i in range(times):
        with tries.one():
            attempt = Attempt(TRAIN, work, f"damaged{i}")
            killed_in_training(attempt, seconds, rng)
            newest = checkpoints(attempt.out)[0]
            damage(newest, rng, cut=i % 2 == 1)
            process = attempt.start()
            expect(process.wait() == 0, process.said[-300:])
            expect(f"{newest.name} was changed" in process.said, f"not named: {process.said[-300:]}")
            finished(attempt, expected)
    return tries.summary()


def damage(path: Path, rng: np.random.Generator, *, cut: bool) -> None:
    """Flip a random bit of a file, or cut its end off."""
    data = bytearray(path.read_bytes())
    place = int(rng.integers(len(data)))
    if cut:
        del data[place:]
    else:
        data[place] ^= 1 << int(rng.integers(8))
    path.write_bytes(data)


def damaged_shard(work: Path, times: int, rng: np.random.Generator) -> dict[str, Any]:
    """A stored shard is damaged: it is named, or by choice left out; once it is mended, all is as ever."""
    expected, _, _ = undisturbed(TRAIN, work)
    tries = Tries()
    for i in range(times):
        store = work / f"acts{i}"
        shutil.copytree(work / "acts", store)
        shard = sorted(store.glob("shard-*.safetensors"))[int(rng.integers(4))]
        damage(shard, rng, cut=i % 2 == 1)
        with tries.one():
            attempt = Attempt(TRAIN, work, f"shard{i}")
            here = ["--set", f"activations={store}"]
            stopped = start(work, [*TRAIN.args(attempt.out), *here])
            expect(stopped.wait() == 1, f"read a damaged shard: {stopped.said[-300:]}")
            expect(shard.name in stopped.said, f"not named: {stopped.said[-300:]}")
            without = work / f"without{i}"
            skipping = start(work, [*TRAIN.args(without), *here, "--set", "on_corrupt=skip"])
            expect(skipping.wait() == 0, skipping.said[-300:])
            expect(shard.name in skipping.said, f"left out in silence: {skipping.said[-300:]}")
            shutil.copy(work / "acts" / shard.name, shard)
            mended = start(work, [*TRAIN.args(attempt.out), *here])
            expect(mended.wait() == 0, mended.said[-300:])
            finished(attempt, expected)
        shutil.rmtree(store)
    return tries.summary()


def leaping_clock(work: Path, times: int, rng: np.random.Generator) -> dict[str, Any]:
    """Training whose clock leaps by decades between any two looks at it, killed once."""
    expected, seconds, _ = undisturbed(TRAIN, work)
    tries = Tries()
    for i in range(times):

        def leaping(seed: int = i) -> None:
            random = Random(seed)
            time.time = lambda: random.uniform(-1e9, 4e9)
            time.time_ns = lambda: random.randrange(-(10**18), 4 * 10**18)

        with tries.one():
            attempt = Attempt(TRAIN, work, f"leap{i}")
            process = attempt.start(leaping)
            process.send(signal.SIGKILL, after=float(rng.uniform(0.3, 1.0)) * seconds)
            attempt.after_kill(process)
            again = attempt.start(leaping)
            expect(again.wait() == 0, again.said[-300:])
            finished(attempt, expected)
    return tries.summary()


def not_finite(work: Path, times: int, rng: np.random.Generator) -> dict[str, Any]:
    """NaN or infinity in some windows: named, and nothing is learned; or by choice left out, and resumed exactly."""
    tries = Tries()
    skips = ["--set", "training.on_nonfinite=skip"]
    for i in range(times):
        which, value = int(rng.integers(13)), float(rng.choice([np.nan, np.inf, -np.inf]))

        def poisoned(which: int = which, value: float = value) -> None:
            read = LanguageModel.read

            def reads(self: LanguageModel, tokens: torch.Tensor, *rest: Any, **more: Any) -> dict[Site, torch.Tensor]:
                found = read(self, tokens, *rest, **more)
                for x in found.values():
                    x[tokens.sum(1) % 13 == which, 40:41] = value
                return found

            LanguageModel.read = reads

        with tries.one():
            out = work / f"none{i}"
            args = ["train", "live.toml", "--out", str(out)]
            stopped = start(work, args, poisoned)
            expect(stopped.wait() == 1, f"trained on {value}: {stopped.said[-300:]}")
            named = "1.resid_post are NaN or infinite" in stopped.said and "window" in stopped.said
            expect(named and not checkpoints(out), stopped.said)
            whole = start(work, [*args, *skips], poisoned)
            expect(whole.wait() == 0, whole.said[-300:])
            weights = read_tensors(out / "weights.safetensors")
            expect(all(torch.isfinite(x).all() for x in weights.values()), "weights that are not finite")
            expected = content(out)
            expect("tokens left out" in whole.said, "none were left out, or in silence")
            remove(out)
            killed = start(work, [*args, *skips], poisoned)
            _wait_until(lambda out=out: len(checkpoints(out)) > 1, killed)
            killed.send(signal.SIGKILL)
            killed.wait()
            again = start(work, [*args, *skips, "--resume"], poisoned)
            expect(again.wait() == 0, again.said[-300:])
            expect(content(out) == expected, "resumed to something else")
    return tries.summary()


def two_processes(work: Path, times: int, rng: np.random.Generator) -> dict[str, Any]:
    """A second process on one output refuses, and names the first; killed, the first is no hindrance any more."""
    tries = Tries()
    for verb in VERBS.values():
        expected, _, _ = undisturbed(verb, work)
        for i in range(times):
            with tries.one():
                attempt = Attempt(verb, work, f"both{i}")
                first = attempt.start()
                holder = f"{first.pid} on {os.uname().nodename}"
                _wait_until(lambda holder=holder: _is_held_by(holder, work), first)
                first.send(signal.SIGSTOP)
                second = attempt.start()
                expect(second.wait() == 1, f"the second did not refuse: {second.said[-300:]}")
                expect(f"in use by process {holder}" in second.said, f"not named: {second.said[-300:]}")
                first.send(signal.SIGKILL)
                attempt.after_kill(first)
                finished(attempt, expected)
    return tries.summary()


def lost_rank(work: Path, times: int, rng: np.random.Generator) -> dict[str, Any]:
    """A training that is torchrun's only process is killed: torchrun starts it anew, and it goes on by itself."""
    return _ranks_lost(work, times, rng, 1, undisturbed(TRAIN, work)[0])


def lost_of_two(work: Path, times: int, rng: np.random.Generator) -> dict[str, Any]:
    """One of two processes that share a dictionary's features is killed: torchrun starts both anew, and they go on."""
    whole = work / "whole2"
    job, said = torchrun(work, whole, 2)
    ended(job, said)
    expected = content(whole)
    remove(whole)
    return _ranks_lost(work, times, rng, 2, expected)


def _ranks_lost(
    work: Path, times: int, rng: np.random.Generator, ranks: int, expected: dict[str, str]
) -> dict[str, Any]:
    tries, restarts = Tries(), 0
    for i in range(times):
        with tries.one():
            out = work / f"elastic{ranks}-{i}"
            job, said = torchrun(work, out, ranks)
            after, victim = int(rng.integers(1, 10)), int(rng.integers(ranks))
            _wait_until(lambda out=out, job=job, after=after: job.poll() is not None or newest_step(out) >= after)
            with suppress(ProcessLookupError):
                os.kill(rank_of(job.pid, victim), signal.SIGKILL)
                restarts += 1
            ended(job, said)
            found = content(out)
            expect(found == expected, f"differs: {[name for name in expected if found.get(name) != expected[name]]}")
    return tries.summary() | {"restarts": restarts}


def ended(job: subprocess.Popen[bytes], said: Path) -> None:
    """A job of torchrun ends by itself, and well; else it is made to."""
    try:
        code = job.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        job.terminate()  # it takes its processes along
        job.wait(PATIENCE)
        code = f"nothing in {PATIENCE:.0f} s"
    expect(code == 0, f"torchrun ended with {code}: {said.read_text()[-500:]}")


def torchrun(work: Path, out: Path, ranks: int) -> tuple[subprocess.Popen[bytes], Path]:
    """A training by processes that share a dictionary's features, and what they say."""
    said = work / f"{out.name}.txt"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    command += ["--max-restarts", "3", "--monitor-interval", "0.1", "-m", "monoscope"]
    command += [*TRAIN.args(out), "--set", f"parallel.features={ranks}"]
    with said.open("w") as file:
        return subprocess.Popen(command, cwd=work, stdout=file, stderr=file, env=os.environ | ONE_THREAD), said


def rank_of(job: int, number: int) -> int:
    """Process id of one of the processes that torchrun, itself ``job``, has started. Raises ProcessLookupError."""
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == job and f"RANK={number}" in (path / "environ").read_text().split("\0"):
                return int(path.name)
    raise ProcessLookupError(f"process {number} has ended")


def newest_step(out: Path) -> int:
    """Step of the newest checkpoint, -1 where there is none."""
    alone, shared = checkpoints(out), shared_checkpoints(out)
    return max([-1, *map(step_of, alone), *(step for step, _ in shared)])


def _is_held_by(holder: str, work: Path) -> bool:
    return any(lock.read_text() == holder for lock in work.rglob(".lock"))


def _wait_until(is_so: Callable[[], bool], process: Process | None = None) -> None:
    deadline = time.monotonic() + PATIENCE
    while not is_so():
        if time.monotonic() > deadline or (process is not None and process.ended()):
            raise AssertionError(f"waited in vain{f'; it said {process.said[-300:]}' if process else ''}")
        time.sleep(0.001)


CASES: dict[str, Case] = {
    "asked to stop": asked_to_stop,
    "full disk": full_disk,
    "damaged checkpoint": damaged_checkpoint,
    "damaged shard": damaged_shard,
    "leaping clock": leaping_clock,
    "two processes": two_processes,
    "not finite": not_finite,
    "lost rank": lost_rank,
    "lost of two": lost_of_two,
}
EACH = {"asked to stop": 3, "two processes": len(VERBS)}
"""Runs that a try comes to, where it is not one: of each signal, of each verb."""
