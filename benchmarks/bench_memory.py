"""Memory predicted before a run against the peak of its process, over widths, batches, functions, precisions, sources.

    python benchmarks/bench_memory.py [--out benchmarks/results/bench_memory.json] [--only train]

Every run is a process of its own, the verb itself on the bundled model; the peak is the most memory that the operating
system says it held (``ru_maxrss``). The prediction is the line that the verb prints before it starts.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

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
}
HARVEST: dict[str, dict[str, Any]] = {
    "harvest, fp32, shards of 2^16": {"shard_tokens": 2**16},
    "harvest, bf16, shards of 2^17": {"shard_tokens": 2**17, "store_dtype": "bf16", "text_tokens": 2**17 + 2**14},
}


def peak(arguments: list[str]) -> tuple[float, float]:
    """Bytes predicted, and the most that were held, by a process of ``monoscope``."""
    with tempfile.TemporaryFile("w+") as told:
        process = subprocess.Popen(
            [sys.executable, "-m", "monoscope", *arguments, "--json"], stdout=subprocess.DEVNULL, stderr=told
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        told.seek(0)
        lines = told.read().splitlines()
    if process.returncode:
        raise SystemExit("\n".join(lines[-5:]))
    memory = next(row["memory"] for row in map(json.loads, lines) if "memory" in row)
    return memory["predicted"], usage.ru_maxrss * 1024


def measure(only: str) -> list[dict[str, Any]]:
    """A row for each run."""
    import tomli_w

    rows = []
    with tempfile.TemporaryDirectory() as place:
        here = Path(place)

        def row(name: str, verb: str, table: dict[str, Any]) -> None:
            (here / "run.toml").write_text(tomli_w.dumps(table))
            predicted, held = peak([verb, str(here / "run.toml"), "--out", str(here / f"out{len(rows)}"), "--force"])
            rows.append({"run": name, "predicted": predicted, "peak": held, "ratio": round(predicted / held, 3)})
            print(f"{name:34} {predicted / 1e6:8.0f} MB predicted {held / 1e6:8.0f} MB peak {predicted / held:6.2f}")

        base: dict[str, Any] = {"model": "bundled", "device": "cpu", "text_tokens": 60_000}
        store = base | {"sites": [SITE]}
        for name, changes in HARVEST.items():
            if only in name:
                row(name, "harvest", store | {"text_tokens": 2**16 + 2**13} | changes)
        if any("stored" in name and only in name for name in TRAIN):
            peak(["harvest", _written(here / "h.toml", store), "--out", str(here / "acts")])
        for name, changes in TRAIN.items():
            if only not in name:
                continue
            table = base | {"reads": [SITE]}
            if "activations" in changes:
                table = {"activations": str(here / "acts"), "reads": [SITE]}
            table |= {
                "recipe": {
                    "wiring": {"kind": "autoencoder", "n_features": 3072},
                    "function": {"kind": "topk", "k": 32},
                },
                "training": {"tokens": 40960, "batch_tokens": 4096, "shuffle_tokens": 2**15},
            }
            for key, value in changes.items():
                if key != "activations":
                    _put(table, key, value)
            row(name, "train", table)
        if only in "analyze":
            dictionary = next(path for path in sorted(here.glob("out*")) if (path / "weights.safetensors").exists())
            row(
                "analyze",
                "analyze",
                {"dictionary": str(dictionary), "text_tokens": 100_000, "analysis": {"tokens": 90_000}},
            )
    return rows


def _written(path: Path, table: dict[str, Any]) -> str:
    import tomli_w

    path.write_text(tomli_w.dumps(table))
    return str(path)


def _put(table: dict[str, Any], key: str, value: Any) -> None:
    *outer, last = key.split(".")
    for name in outer:
        table = table.setdefault(name, {})
    table[last] = value


def main() -> None:
    """Measure, print, and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--only", default="", help="runs whose name holds this")
    arguments = parser.parse_args()
    rows = measure(arguments.only)
    if arguments.out:
        import torch

        machine = {"machine": platform.machine(), "python": platform.python_version(), "torch": torch.__version__}
        arguments.out.write_text(json.dumps({**machine, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
