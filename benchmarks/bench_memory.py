"""Memory predicted before a run against the peak of its process, over widths, batches, functions, precisions, sources.

    python benchmarks/bench_memory.py                          every part whose sources have changed
    python benchmarks/bench_memory.py "live, F 16384"          one part, again
    python benchmarks/bench_memory.py --list

Every part is the verb itself on the bundled model, in a process of its own, or two that share the work. The peak is the
most memory that the operating system says one held (``ru_maxrss``), the prediction what the verb prints before it
starts. How busy the machine is makes no difference. ``docs/how-to/train.md`` shows what was found.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

import tomli_w
from machine import ROOT, Parts, record, results_file

SITE = "2.resid_post"

TRAIN: dict[str, dict[str, Any]] = {
    "live, F 3072, batch 4096, topk": {},
    "live, F 16384": {"recipe.wiring.n_features": 16384},
    "live, F 16384, batch 1024": {"recipe.wiring.n_features": 16384, "training.batch_tokens": 1024},
    "live, F 16384, bf16": {"recipe.wiring.n_features": 16384, "training.encode_dtype": "bf16"},
    "live, F 16384, batch_topk": {"recipe.wiring.n_features": 16384, "recipe.function.kind": "batch_topk"},
    "live, relu, F 6144": {
        "recipe.wiring.n_features": 6144,
        "recipe.function": {"kind": "relu"},
        "recipe.terms": {"reconstruction": {"kind": "squared_error"}, "sparsity": {"kind": "l1"}},
    },
    "live, jumprelu, F 6144": {
        "recipe.wiring.n_features": 6144,
        "recipe.function": {"kind": "jumprelu"},
        "recipe.terms": {"reconstruction": {"kind": "squared_error"}, "sparsity": {"kind": "l0"}},
    },
    "live, shuffle 2^17": {"training.shuffle_tokens": 2**17, "training.tokens": 163840},
    "stored, F 3072": {"activations": True},
    "stored, F 65536": {"activations": True, "recipe.wiring.n_features": 65536, "training.tokens": 8192},
    "two processes, features 2, F 16384": {"processes": 2, "recipe.wiring.n_features": 16384, "parallel.features": 2},
    "two processes, features 2, stored, F 65536": {
        "processes": 2,
        "activations": True,
        "recipe.wiring.n_features": 65536,
        "training.tokens": 8192,
        "parallel.features": 2,
    },
    "two processes, features 2, relu, F 6144": {
        "processes": 2,
        "recipe.wiring.n_features": 6144,
        "recipe.function": {"kind": "relu"},
        "recipe.terms": {"reconstruction": {"kind": "squared_error"}, "sparsity": {"kind": "l1"}},
        "parallel.features": 2,
    },
    "two processes, data 2, F 16384": {"processes": 2, "recipe.wiring.n_features": 16384},
}
HARVEST: dict[str, dict[str, Any]] = {
    "harvest, fp32, shards of 2^16": {"shard_tokens": 2**16},
    "harvest, bf16, shards of 2^17": {"shard_tokens": 2**17, "store_dtype": "bf16", "text_tokens": 2**17 + 2**14},
}


ANALYZE = "analyze, F 3072"
PARTS = [*HARVEST, *TRAIN, ANALYZE]
HERE = ROOT / "build" / "bench" / "memory"
PAGE = ROOT / "docs" / "how-to" / "train.md"


def peak(arguments: list[str], processes: int = 1) -> tuple[float, float]:
    """Bytes predicted, and the most that were held, by a process of ``monoscope``, or the largest of several."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    meeting |= {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes)}
    started, held = [], []
    for number in range(processes):
        told = (HERE / f"said{number}.txt").open("w+")
        place = {} if processes == 1 else meeting | {"RANK": str(number), "LOCAL_RANK": str(number)}
        command = [sys.executable, "-m", "monoscope", *arguments, "--json"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=told, env=os.environ | place)
        started.append((process, told))
    for process, told in started:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            for other, _ in started:
                other.kill()
            told.seek(0)
            raise SystemExit("".join(told.readlines()[-5:]))
        held.append(usage.ru_maxrss * 1024)
    told = started[0][1]
    told.seek(0)
    memory = next(row["memory"] for row in map(json.loads, told) if "memory" in row)
    return memory["predicted"], max(held)


def measure(part: str) -> dict[str, Any]:
    """What was predicted for a run, and what it took."""
    began, verb, processes = time.monotonic(), "train", 1
    base: dict[str, Any] = {"model": "bundled", "device": "cpu", "text_tokens": 60_000}
    if part in HARVEST:
        verb, table = "harvest", base | {"sites": [SITE], "text_tokens": 2**16 + 2**13} | HARVEST[part]
    elif part == ANALYZE:
        verb = "analyze"
        made = made_once("sae", "train", training(base | {"reads": [SITE]}))
        table = {"dictionary": made, "text_tokens": 100_000, "analysis": {"tokens": 90_000}}
    else:
        changes = dict(TRAIN[part])
        processes = changes.pop("processes", 1)
        table = base | {"reads": [SITE]}
        if changes.pop("activations", False):
            table = {"activations": made_once("acts", "harvest", base | {"sites": [SITE]}), "reads": [SITE]}
        table = training(table)
        for key, value in changes.items():
            _put(table, key, value)
    out = HERE / f"out{'.mono' if verb == 'analyze' else ''}"
    shutil.rmtree(out, ignore_errors=True)
    predicted, held = peak([verb, written("run", table), "--out", str(out)], processes)
    shutil.rmtree(out)
    seconds = round(time.monotonic() - began)
    return {"predicted": predicted, "peak": held, "ratio": round(predicted / held, 3), "seconds": seconds}


def training(table: dict[str, Any]) -> dict[str, Any]:
    """A table of ``train``, with the dictionary that the parts change."""
    recipe = {"wiring": {"kind": "autoencoder", "n_features": 3072}, "function": {"kind": "topk", "k": 32}}
    how = {"tokens": 40960, "batch_tokens": 4096, "shuffle_tokens": 2**15, "device": "cpu"}
    return table | {"recipe": recipe, "training": how}


def made_once(name: str, verb: str, table: dict[str, Any]) -> str:
    """Something that parts begin with: a store, or a dictionary."""
    if not (HERE / name).exists():
        peak([verb, written(name, table), "--out", str(HERE / name)])
    return str(HERE / name)


def written(name: str, table: dict[str, Any]) -> str:
    """The path of a configuration."""
    path = HERE / f"{name}.toml"
    path.write_text(tomli_w.dumps(table))
    return str(path)


def _put(table: dict[str, Any], key: str, value: Any) -> None:
    *outer, last = key.split(".")
    for name in outer:
        table = table.setdefault(name, {})
    table[last] = value


def rendered(page: str, machines: Mapping[str, Any]) -> str:
    """A page in Markdown with what was measured, on each machine, in the place it has for that."""
    body = "".join(f"{line}\n" for one in machines.values() if one.get("memory") for line in _table(one))
    return re.sub(
        r"<!-- figures: memory -->\n.*?<!-- end -->",
        lambda _: f"<!-- figures: memory -->\n{body}\n<!-- end -->",
        page,
        flags=re.DOTALL,
    )


def _table(machine: dict[str, Any]) -> Iterator[str]:
    rows = machine["memory"]
    yield f"\nOn {machine['machine']['system']}, {machine['machine']['processor']}:\n"
    yield "| run | predicted | peak | predicted / peak |\n| --- | ---: | ---: | ---: |"
    for part in PARTS:
        if part in rows:
            predicted, held = (f"{rows[part][name] / 1e6:,.0f} MB" for name in ("predicted", "peak"))
            yield f"| {part} | {predicted} | {held} | {rows[part]['ratio']:.2f} |"


def machines() -> dict[str, Any]:
    """What has been measured anywhere, by the names of machines."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(results_file().parent.glob("*.json"))}


def main() -> None:
    """Measure what is asked for."""
    HERE.mkdir(parents=True, exist_ok=True)
    for part in Parts("memory", PARTS, __doc__, typical=60):
        row = measure(part)
        record("memory", part, row)
        PAGE.write_text(rendered(PAGE.read_text(), machines()))
        predicted, held = (f"{row[name] / 1e6:6,.0f} MB {name}" for name in ("predicted", "peak"))
        print(f"{part:44} {predicted} {held} {row['ratio']:6.2f}", flush=True)


if __name__ == "__main__":
    main()
