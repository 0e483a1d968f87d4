"""A short training in every process that torchrun started, or in one alone; stopped, or failing, where that is asked.

python mesh_run.py OUT FEATURES LANES [--stop BATCH] [--fail BATCH] [--lose FILE] [--resume]
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import torch

from monoscope.cli.session import session
from monoscope.core.batch import ActivationBatch
from monoscope.core.errors import DataError
from monoscope.core.progress import silent
from monoscope.core.site import Site
from monoscope.core.stores.remote import Remote
from monoscope.harvest.array import ArraySource
from monoscope.training import Parallel, train

RECIPE = {
    "wiring": {"kind": "autoencoder", "n_features": 64},
    "function": {"kind": "batch_topk", "k": 4},
}
TRAINING = {"tokens": 12 * 64, "batch_tokens": 64, "log_every": 1, "dead_after": 128, "encode_dtype": "fp32"}
OPTIMIZER = {"kind": "adam", "lr": 0.01, "eps": 0.01}


class Troubled(ArraySource):
    """An array of which the first process is told to stop, or another fails, while it reads a batch."""

    stop_at = fail_at = n_read = 0

    def __iter__(self) -> Iterator[ActivationBatch]:
        """Batches, and trouble."""
        for batch in super().__iter__():
            Troubled.n_read += 1
            is_first = os.environ.get("RANK", "0") == "0"
            if Troubled.n_read == self.stop_at and is_first:
                os.kill(os.getpid(), signal.SIGINT)
            if Troubled.n_read == self.fail_at and not is_first:
                raise DataError("a batch cannot be read")
            yield batch

    def part(self, number: int, of: int) -> Troubled:
        """A part, in the same trouble."""
        rows = super().part(number, of)
        own = Troubled(rows.x, rows.site, rows.seed, rows.batch_tokens, rows.dtype, False)
        own.stop_at, own.fail_at = self.stop_at, self.fail_at
        return own


def lose(at: int) -> None:
    """Kill a process other than the first when it is about to put a file, counting from 1, into a store."""
    put, files = Remote.put, []

    def put_or_die(place: Remote, file: Path) -> None:
        files.append(file)
        if len(files) == at and os.environ.get("RANK", "0") != "0":
            os.kill(os.getpid(), signal.SIGKILL)
        put(place, file)

    Remote.put = put_or_die  # type: ignore[method-assign]


def main(out: str, features: int, lanes: int, *, stop: int, fail: int, lost: int, resume: bool) -> None:
    """Train, or go on; where a process is to be lost, with a checkpoint after every step."""
    torch.set_num_threads(1)
    if lost:
        lose(lost)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(768, 32, generator=generator) @ torch.randn(32, 16, generator=generator)
    source = Troubled(x, Site.parse("x:out"), 0, 64, torch.float32, False)
    source.stop_at, source.fail_at = stop, fail
    with session(as_json=False), silent(), suppress(KeyboardInterrupt):
        train(
            RECIPE,
            source,
            out=out,
            resume=resume,
            parallel=Parallel(features=features, lanes=lanes),
            optimizer=OPTIMIZER,
            **({"checkpoint_every": 0} if lost else {}),
            **TRAINING,
        )


if __name__ == "__main__":
    given = dict(zip(sys.argv, sys.argv[1:], strict=False))
    numbers = {name: int(given.get(f"--{name}", 0)) for name in ("stop", "fail", "lose")}
    lost = numbers.pop("lose")
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), **numbers, lost=lost, resume="--resume" in sys.argv)
