"""A source read a few batches ahead, with its batches on the device that trains.

A GPU works through what it was given while the processor goes on. So the next batches are read, and on their way to it,
while a step is under way: copied to pinned memory, from where they travel without anybody waiting, on a stream of their
own. Pinned memory is used again as soon as a copy is done, so that no more of it is held than the batches under way.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from monoscope.core.batch import ActivationBatch
from monoscope.harvest.source import ActivationSource

BATCHES = 2  # one that is trained on, and one under way


class Ahead(ActivationSource):
    """A source whose batches are ready before they are asked for. See ``ahead``."""

    def __init__(self, source: ActivationSource, device: torch.device, batches: int) -> None:
        assert batches >= 1, f"at least one batch is read ahead, found {batches}"
        self.source, self.device, self.batches = source, device, batches
        self.sites, self.widths, self.n_tokens, self.first_row, self.models = (
            source.sites, source.widths, source.n_tokens, source.first_row, source.models
        )  # fmt: skip
        self._copies = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._forget()

    def _forget(self) -> None:
        self._stream: Iterator[ActivationBatch] | None = None
        self._ready: deque[_Ready] = deque()
        self._position, self._info = self.source.state_dict(), self.source.info

    @property
    def info(self) -> dict[str, Any]:
        """Provenance of the source, and what was excluded up to the last batch handed out."""
        return self._info

    def __iter__(self) -> Iterator[ActivationBatch]:
        """The source's batches. What it raises is raised where the batch is due that could not be read."""
        while True:
            while len(self._ready) < self.batches and not (self._ready and self._ready[-1].batch is None):
                self._ready.append(self._read())
            first = self._ready.popleft()
            self._position, self._info = first.position, first.info
            if first.batch is None:
                self._stream = None
                if first.error is not None:
                    raise first.error
                return
            yield self._received(first)

    def state_dict(self) -> dict[str, Any]:
        """The source's position behind the last batch handed out, whatever was read ahead."""
        return self._position

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Move to a position, and drop what was read ahead."""
        self.source.load_state_dict(state)
        self._forget()

    def part(self, number: int, of: int) -> ActivationSource:
        """One of several consecutive parts of the source."""
        return ahead(self.source.part(number, of), self.device, self.batches)

    def _read(self) -> _Ready:
        self._stream = self._stream or iter(self.source)
        batch = error = None
        try:
            batch = next(self._stream, None)
        except Exception as raised:
            error = raised
        ready = _Ready(batch, self.source.state_dict(), self.source.info, error)
        if batch is not None and self._copies is None:
            ready.batch = batch.to(self.device)
        elif batch is not None and self._copies is not None:
            with torch.cuda.stream(self._copies):
                ready.batch = _each(
                    batch, lambda x: x if x.is_cuda else x.pin_memory().to(self.device, non_blocking=True)
                )
                ready.arrival = torch.cuda.Event()
                ready.arrival.record()
        return ready

    def _received(self, ready: _Ready) -> ActivationBatch:
        assert ready.batch is not None, "the end of a source holds no batch"
        if ready.arrival is None:
            return ready.batch
        stream = torch.cuda.current_stream(self.device)
        stream.wait_event(ready.arrival)

        def used(x: Tensor) -> Tensor:
            x.record_stream(stream)  # it was allocated on the other stream, which must not use it again too soon
            return x

        return _each(ready.batch, used)


@dataclass
class _Ready:
    """A batch read ahead, and the source behind it; without a batch the end, or what prevented its reading."""

    batch: ActivationBatch | None
    position: dict[str, Any]
    info: dict[str, Any]
    error: Exception | None
    arrival: torch.cuda.Event | None = None


def _each(batch: ActivationBatch, change: Callable[[Tensor], Tensor]) -> ActivationBatch:
    def changed(x: Tensor | None) -> Tensor | None:
        return None if x is None else change(x)

    return ActivationBatch(
        {site: change(x) for site, x in batch.activations.items()},
        tokens=changed(batch.tokens),
        mask=changed(batch.mask),
        positions=changed(batch.positions),
        documents=changed(batch.documents),
    )


def ahead(source: ActivationSource, device: torch.device | str, batches: int = BATCHES) -> Ahead:
    """The source's batches on a device, read and sent there up to ``batches`` before they are asked for.

    Positions are the source's own, of the last batch handed out: a run goes on with the same batch on another device,
    or read ahead by another number.
    """
    return Ahead(source, torch.device(device), batches)
