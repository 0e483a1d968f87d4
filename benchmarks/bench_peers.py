"""monoscope against the libraries people use today: the same job in turns, on the same machine, at the same time.

    python benchmarks/bench_peers.py                             every part whose sources have changed
    python benchmarks/bench_peers.py minilm/sae-lens/default     one part, again
    python benchmarks/bench_peers.py --list

A part is one data set, one library and one setting of the allocator. The library, in an environment of its own, and
monoscope, in pure PyTorch and with compiled kernels, each train a TopK autoencoder on the same 500k activations by
their own training loop, a few steps of each in turn; then encode in turn; then are judged by the same code on
activations of other documents. A second round repeats the times; with the other allocator there is one, and nothing is
judged. Every round is the whole job: when a feature counts as dead depends on how long a run is, so that a shorter one
is another. Results go to ``benchmarks/results/machines/``; ``docs/reference/performance.md`` shows them.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from machine import ROOT, Parts, middle, record, results, sources
from turns import ALLOCATORS, PHASES, Side, compare, environments, go, ours

DATA = Path(__file__).parent / "peers" / "data.py"
JOBS = {"minilm": {"d": 384, "features": 6144, "k": 32}, "bundled": {"d": 192, "features": 3072, "k": 32}}
BATCH, TURN = 4096, 4
STEPS = 122
ROUNDS = {"default": 2, "tuned": 1}  # how memory is had changes no dictionary

PEERS = {
    "eai-sparsify": Side("eai-sparsify", "sparsify"),
    "eai-sparsify-adam": Side("eai-sparsify", "sparsify", "adam"),
    "dictionary-learning": Side("dictionary-learning", "dictionary_learning"),
    "overcomplete": Side("overcomplete", "overcomplete"),
    "sae-lens": Side("sae-lens", "sae_lens"),
    "llamascopium": Side("llamascopium", "llamascopium"),
}
PARTS = [f"{data}/{peer}/{allocator}" for data in JOBS for allocator in ALLOCATORS for peer in PEERS]


def measure(part: str, number: int) -> dict[str, Any]:
    """A round of a part; what comes out of the first is judged."""
    data, peer, allocator = part.split("/")
    sides = {peer: PEERS[peer], **ours()}
    job = JOBS[data] | {"data": str(ROOT / "build" / "bench" / data), "batch": BATCH}
    job |= {"steps": STEPS, "judge": number == 0 and allocator == "default"}
    found = go(sides, job, allocator, TURN)
    others = [name for name in sides if name != peer]
    found["ratios"] = {name: {phase: compare(found, peer, name, phase) for phase in PHASES} for name in others}
    del found["times"]
    return found


def together(part: str, rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """The row of a part: quality and memory of the first round, speeds and ratios of both."""
    data, peer, allocator = part.split("/")
    row: dict[str, Any] = {"data": data, "peer": peer, "allocator": allocator}
    row["requirements"] = environments.REQUIREMENTS[PEERS[peer].environment]
    row["job"] = JOBS[data] | {"batch": BATCH, "tokens": BATCH * STEPS}
    row["sides"] = {name: dict(side) for name, side in rounds[0]["sides"].items()}
    row["ratios"] = {}
    for name, side in row["sides"].items():
        for phase in PHASES:
            speeds = [each["sides"][name][phase] for each in rounds]
            side[phase] = {"tokens_per_s": round(middle([speed["tokens_per_s"] for speed in speeds]))} | ends(speeds)
            if name != peer:
                ratios = [each["ratios"][name][phase] for each in rounds]
                median = round(middle([ratio["median"] for ratio in ratios]), 3)
                row["ratios"].setdefault(name, {})[phase] = {"median": median} | ends(ratios)
    return row | {
        "others": [each["others"] for each in rounds],
        "rounds": rounds,
        "seconds": round(sum(each["seconds"] for each in rounds)),
        "complete": len(rounds) == ROUNDS[allocator],
    }


def ends(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """The spread of several rounds: from the lowest end to the highest."""
    return {"spread": [min(each["spread"][0] for each in rounds), max(each["spread"][1] for each in rounds)]}


def show(part: str, row: dict[str, Any]) -> None:
    """A part in a few lines."""
    print(f"{part}, round {len(row['rounds'])}   others used {row['others'][-1].get('mean', 0):.1%} of the machine")
    for name, side in row["sides"].items():
        ratio = row["ratios"].get(name)
        times = f"{ratio['train']['median']:.2f} x {ratio['train']['spread']}" if ratio else ""
        print(
            f"  {name:20s} {side['train']['tokens_per_s']:8,} tokens/s {times:22s} "
            f"encode {side['encode']['tokens_per_s']:8,}  {side['peak_mb']:5,} MB"
            + (f"  FVU {side['fvu']:.4f}  dead {side['dead']:.1%}" if "fvu" in side else ""),
            flush=True,
        )


def main() -> None:
    """Measure what is asked for."""
    parts = Parts("peers", PARTS, __doc__, typical=150)
    for data in dict.fromkeys(part.split("/")[0] for part in parts.names):
        subprocess.run([sys.executable, DATA, data], check=True)
    for part in parts:
        environments.build(PEERS[part.split("/")[1]].environment)
        there = results().get("peers", {}).get(part, {})
        is_begun = there.get("sources") == sources() and not there["complete"]
        rounds = there["rounds"] if is_begun else []
        for number in range(len(rounds), ROUNDS[part.split("/")[2]]):
            if rounds:
                parts.begin(rounds[0]["seconds"])
            rounds.append(measure(part, number))
            row = together(part, rounds)
            record("peers", part, row)
            show(part, row)


if __name__ == "__main__":
    main()
