"""The stream every library trains on: batches of one file, handed out in turns, and the time a library takes over each.

What is timed is the library's own loop: from the moment it has a batch to the moment it asks for the next. Reading the
file is not counted. Between two turns the library waits inside this generator, so that others can have theirs.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor


class Rows:
    """Batches of a ``.npy`` file of fp32 rows, read one at a time: a mapped file would count as memory in use."""

    def __init__(self, path: Path, batch: int, d: int) -> None:
        with path.open("rb") as file:
            np.lib.format.read_magic(file)
            (self.n, self.width), _, dtype = np.lib.format.read_array_header_1_0(file)
            self.begins = file.tell()
        assert dtype == np.float32, f"{path} holds {dtype}"
        self.path, self.batch = path, batch
        generator = torch.Generator().manual_seed(0)
        self.turn = None if d == self.width else torch.randn(self.width, d, generator=generator) / self.width**0.5

    def __getitem__(self, number: int) -> Tensor:
        """Batch of a number, [batch, d]; the file begins again where it ends, and other widths are made at random."""
        first = number % (self.n // self.batch) * self.batch
        offset = self.begins + first * self.width * 4
        rows = np.fromfile(self.path, np.float32, self.batch * self.width, offset=offset)
        x = torch.from_numpy(rows.reshape(self.batch, self.width))
        return x if self.turn is None else x @ self.turn


class Turns:
    """Standard input says how many batches to take next; standard output is told what they took, in seconds."""

    def __init__(self) -> None:
        self.out = sys.stdout
        sys.stdout = sys.stderr  # what libraries print is no answer
        self.times: list[float] = []
        self.left = 0

    def say(self, **facts: Any) -> None:
        """Answer."""
        self.out.write(json.dumps(facts) + "\n")
        self.out.flush()

    def wait(self, **facts: Any) -> int:
        """Report the turn that ended, and wait for the next one."""
        self.say(seconds=self.times, **facts)
        self.times = []
        if not (line := sys.stdin.readline()):
            sys.exit()  # nobody waits for more
        return int(line)

    def batches(self, rows: Rows, n: int) -> Iterator[Tensor]:
        """The first n batches, in turns."""
        for number in range(n):
            if not self.left:
                self.left = self.wait()
            x = rows[number]
            began = time.perf_counter()
            yield x
            self.times.append(time.perf_counter() - began)
            self.left -= 1

    def end(self, **facts: Any) -> None:
        """Report the last turn, and wait until the next thing may be done."""
        self.wait(ended=True, **facts)
        self.left = 0
