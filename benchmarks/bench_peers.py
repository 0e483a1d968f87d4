"""monoscope against the libraries people use today: the same job in turns, on the same machine, at the same time.

    python benchmarks/bench_peers.py                             every part whose sources have changed
    python benchmarks/bench_peers.py minilm/sae-lens/default     one part, again
    python benchmarks/bench_peers.py --list

A part is one data set, one library and one setting of the allocator. The library, in an environment of its own, and
monoscope, in pure PyTorch and with compiled kernels, each train a TopK autoencoder on the same 500k activations by
their own training loop, a few steps of each in turn; then encode in turn; then are judged by the same code on
activations of other documents. A second, shorter round repeats the times. Results go to
``benchmarks/results/machines/``; ``docs/reference/performance.md`` shows them.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from machine import ROOT, asked_for, record, wait_for_quiet
from turns import ALLOCATORS, PHASES, Side, about, compare, environments, go, ours

DATA = Path(__file__).parent / "peers" / "data.py"
JOBS = {"minilm": {"d": 384, "features": 6144, "k": 32}, "bundled": {"d": 192, "features": 3072, "k": 32}}
BATCH, STEPS, SHORT, TURN = 4096, 122, 42, 4

PEERS = {
    "eai-sparsify": Side("eai-sparsify", "sparsify"),
    "eai-sparsify-adam": Side("eai-sparsify", "sparsify", "adam"),
    "dictionary-learning": Side("dictionary-learning", "dictionary_learning"),
    "overcomplete": Side("overcomplete", "overcomplete"),
    "sae-lens": Side("sae-lens", "sae_lens"),
    "llamascopium": Side("llamascopium", "llamascopium"),
}
PARTS = [f"{data}/{peer}/{allocator}" for data in JOBS for allocator in ALLOCATORS for peer in PEERS]


def measure(part: str) -> dict[str, Any]:
    """Two rounds of a part, as a row."""
    data, peer, allocator = part.split("/")
    sides = {peer: PEERS[peer], **ours()}
    job = JOBS[data] | {"data": str(ROOT / "build" / "bench" / data), "batch": BATCH}
    before = wait_for_quiet()
    rounds = [go(sides, job | {"steps": steps, "judge": steps == STEPS}, allocator, TURN) for steps in (STEPS, SHORT)]
    return {
        "data": data,
        "peer": peer,
        "requirements": environments.REQUIREMENTS[PEERS[peer].environment],
        "allocator": allocator,
        "job": JOBS[data] | {"batch": BATCH, "tokens": BATCH * STEPS},
        "others": {"before": before, "rounds": [each.others for each in rounds]},
        "sides": {name: about(name, rounds) for name in sides},
        "ratios": {
            name: {phase: compare(peer, name, phase, rounds) for phase in PHASES} for name in sides if name != peer
        },
    }


def show(part: str, row: dict[str, Any]) -> None:
    """A part in a few lines."""
    print(f"{part}   others used {row['others']['rounds'][0].get('mean', 0):.1%} of the machine")
    for name, side in row["sides"].items():
        ratio = row["ratios"].get(name)
        times = f"{ratio['train']['median']:.2f} x {ratio['train']['spread']}" if ratio else ""
        print(
            f"  {name:20s} {side['train']['tokens_per_s']:8,} tokens/s {times:22s} "
            f"encode {side['encode']['tokens_per_s']:8,}  {side['peak_mb']:5,} MB  FVU {side['fvu']:.4f}  "
            f"dead {side['dead']:.1%}",
            flush=True,
        )


def main() -> None:
    """Measure what is asked for."""
    parts = asked_for("peers", PARTS, __doc__)
    for data in dict.fromkeys(part.split("/")[0] for part in parts):
        subprocess.run([sys.executable, DATA, data], check=True)
    for part in parts:
        environments.build(PEERS[part.split("/")[1]].environment)
        row = measure(part)
        record("peers", part, row)
        show(part, row)


if __name__ == "__main__":
    main()
