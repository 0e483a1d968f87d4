"""One library's side of the comparison. Runs in that library's environment, and is driven by ``bench_peers.py``.

    python worker.py LIBRARY '{"data": DIRECTORY, "features": 6144, "k": 32, "batch": 4096, "steps": 122, ...}'

Trains by the library's own loop, in turns (``stream.py``); reports the peak memory of this process so far; encodes
batches, in turns; and last, if the job says so, reports how good the dictionary is (``score.py``).
"""

from __future__ import annotations

import importlib
import json
import resource
import sys
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from score import score
from stream import Rows, Turns


@dataclass
class Job:
    """What every library is asked to do: a TopK autoencoder of ``features``, ``k`` active, on ``steps`` batches.

    encodes: batches to encode afterwards
    judge: whether to say how good the dictionary is
    """

    data: str
    d: int
    features: int
    k: int
    batch: int
    steps: int
    seed: int = 0
    encodes: int = 12
    judge: bool = True
    variant: str = ""


def peak_mb() -> float:
    """Most memory this process has had resident, MB: what ``/usr/bin/time -v`` reports of it."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def main(library: str, job: Job) -> None:
    """Train, encode and judge."""
    warnings.filterwarnings("ignore")
    turns = Turns()
    began = time.perf_counter()
    side = importlib.import_module(f"with_{library}")
    turns.wait(import_s=time.perf_counter() - began, threads=torch.get_num_threads())
    torch.manual_seed(job.seed)
    rows = Rows(Path(job.data) / "train.npy", job.batch, job.d)
    dictionary = side.train(job, rows[0], turns.batches(rows, job.steps))
    turns.end(peak_mb=peak_mb())
    if job.encodes:
        with torch.no_grad():
            for x in turns.batches(rows, job.encodes):
                side.encode(dictionary, x)
        turns.end()
    if job.judge:
        turns.say(**score(lambda x: side.reconstruct(dictionary, x), Path(job.data) / "held_out.npy", job.batch))


if __name__ == "__main__":
    main(sys.argv[1], Job(**json.loads(sys.argv[2])))
