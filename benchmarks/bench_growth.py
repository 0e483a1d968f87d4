"""How monoscope's speed grows with a dictionary: tokens/s against n_features, d, k and the batch.

    python benchmarks/bench_growth.py                     every part whose sources have changed
    python benchmarks/bench_growth.py features=131072     one part, again
    python benchmarks/bench_growth.py --list

Each part trains by the library's own loop at one size, in turns with the reference job (d 384, 6,144 features, k 32,
4,096 tokens), so that its ratio does not depend on what the machine does meanwhile. Both are the first steps of a long
run, in which no feature counts as dead yet: AuxK is not in them. Activations are those of MiniLM, multiplied by a
random matrix where d is another one.
"""

from __future__ import annotations

import subprocess
import sys
from typing import Any

from bench_peers import DATA
from machine import ROOT, Parts, record
from turns import Side, compare, go, ours

REFERENCE = {"d": 384, "features": 6144, "k": 32, "batch": 4096}
SIZES = {
    "features": (12288, 24576, 49152, 131072),
    "d": (192, 768, 1536),
    "k": (8, 64, 128),
    "batch": (1024, 16384),
}
PARTS = [f"{axis}={size}" for axis, sizes in SIZES.items() for size in sizes]
STEPS = 12  # each a turn


def measure(part: str) -> dict[str, Any]:
    """One size beside the reference job, in pure PyTorch and compiled."""
    axis, size = part.split("=")
    there = REFERENCE | {axis: int(size)}
    job = REFERENCE | {"data": str(ROOT / "build" / "bench" / "minilm"), "steps": STEPS, "encodes": 0, "judge": False}
    sides: dict[str, Side] = {}
    for name, side in ours().items():
        sides[name] = Side("", side.module, "long", side.env)
        sides[f"{name}, {part}"] = Side("", side.module, "long", side.env, there)
    found = go(sides, job, "default", 1)
    row: dict[str, Any] = {"axis": axis, "size": int(size), "job": there, "reference": REFERENCE, "sides": {}}
    row |= {"others": [found["others"]], "seconds": round(found["seconds"])}
    for name in ours():
        ratio = compare(found, name, f"{name}, {part}", "train", there["batch"] / REFERENCE["batch"])
        row["sides"][name] = {
            "reference": found["sides"][name],
            "here": found["sides"][f"{name}, {part}"],
            "ratio": ratio,
            "ratio_by_work": round(ratio["median"] * there["features"] / REFERENCE["features"], 3),
        }
    return row


def show(part: str, row: dict[str, Any]) -> None:
    """A part in a few lines."""
    print(f"{part}   others used {row['others'][0].get('mean', 0):.1%} of the machine")
    for name, side in row["sides"].items():
        here, ratio = side["here"], side["ratio"]
        print(
            f"  {name:20s} {here['train']['tokens_per_s']:8,} tokens/s, {ratio['median']:.3f} x the reference job "
            f"{ratio['spread']}, tokens/s x F {side['ratio_by_work']:.2f} x, {here['peak_mb']:,} MB",
            flush=True,
        )


def main() -> None:
    """Measure what is asked for."""
    parts = Parts("growth", PARTS, __doc__, typical=90)
    if parts.names:
        subprocess.run([sys.executable, DATA, "minilm"], check=True)
    for part in parts:
        row = measure(part)
        record("growth", part, row)
        show(part, row)


if __name__ == "__main__":
    main()
