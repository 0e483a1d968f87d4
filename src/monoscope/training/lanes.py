"""Lanes: a source read in several parts at once, so that processes can share the reading.

    batch of a step = the batches of lanes 0, 1, ..., L - 1, one behind the other

Which tokens a step sees follows from the number of lanes alone, whoever reads them: a process reads several lanes, or
one, or takes some rows of one that others read too. A run keeps its lanes for good, and can go on with more processes
or fewer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from monoscope.core.batch import ActivationBatch
from monoscope.core.errors import ConfigError, MismatchError
from monoscope.core.mesh import Axis, Mesh
from monoscope.harvest.source import ActivationSource
from monoscope.parallel.mesh import collect


class Lanes(ActivationSource):
    """The rows of this process of a source's lanes, batch by batch."""

    def __init__(self, open_lane: Callable[[int], ActivationSource], n_lanes: int, mesh: Mesh) -> None:
        self.n_lanes, self.mesh = n_lanes, mesh
        self.own, self._cut, self._cuts = lanes_of(mesh.data, n_lanes)
        self.lanes = {number: open_lane(number) for number in self.own}
        first = self.lanes[self.own[0]]
        self.sites, self.widths, self.n_tokens, self.models = first.sites, first.widths, None, first.models

    @property
    def info(self) -> dict[str, Any]:
        """Provenance of the source, and in how many lanes it is read."""
        return self.lanes[self.own[0]].info | ({"lanes": self.n_lanes} if self.n_lanes > 1 else {})

    def __iter__(self) -> Iterator[ActivationBatch]:
        """Batches until a lane ends."""
        for parts in zip(*self.lanes.values(), strict=False):
            yield rows_of(joined(parts), self._cut, self._cuts)

    def state_dict(self) -> dict[str, Any]:
        """The position of every lane, those of other processes included."""
        mine = {number: lane.state_dict() for number, lane in self.lanes.items()}
        every = {number: state for states in collect(self.mesh, mine) for number, state in states.items()}
        return {"lanes": [every[number] for number in range(self.n_lanes)]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Move every lane to its position."""
        if len(state["lanes"]) != self.n_lanes:
            raise MismatchError(f"the run to resume reads {len(state['lanes'])} lanes, found {self.n_lanes}")
        for number, lane in self.lanes.items():
            lane.load_state_dict(state["lanes"][number])


def lanes_of(data: Axis, n_lanes: int) -> tuple[range, int, int]:
    """The lanes a process reads; and which rows of them are its own, as part so-and-so of how many.

    Raises ConfigError where neither lanes nor processes divide evenly among the others.
    """
    if n_lanes % data.size == 0:
        each = n_lanes // data.size
        return range(data.number * each, (data.number + 1) * each), 0, 1
    if data.size % n_lanes == 0:
        readers = data.size // n_lanes
        lane = data.number // readers
        return range(lane, lane + 1), data.number % readers, readers
    raise ConfigError(
        f"the run reads its activations in {n_lanes} lanes, which {data.size} processes cannot share equally; start as "
        "many as divide them, or give the others features to hold: parallel.features"
    )


class Pieces(ActivationSource):
    """A source whose batches are handed out in equal pieces. See ``pieces``."""

    def __init__(self, source: ActivationSource, of: int) -> None:
        self.source, self.of = source, of
        self.sites, self.widths, self.n_tokens = source.sites, source.widths, source.n_tokens
        self._used, self._before = 0, source.state_dict()

    @property
    def info(self) -> dict[str, Any]:
        """Provenance of the source."""
        return self.source.info

    def __iter__(self) -> Iterator[ActivationBatch]:
        """The pieces of every batch; of a batch that has fewer rows than there are pieces, as many as it has."""
        stream, used = iter(self.source), self._used
        while True:
            self._before, self._used = self.source.state_dict(), used
            batch = next(stream, None)
            if batch is None:
                return
            n_pieces = min(self.of, len(next(iter(batch.activations.values()))))
            for number in range(used, n_pieces):
                self._used = number + 1
                yield rows_of(batch, number, n_pieces)
            used = 0

    def state_dict(self) -> dict[str, Any]:
        """The source's position before the batch in hand, and how many of its pieces have left."""
        return {"used": self._used, "source": self._before}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Move to a position; the batch in hand is read again when its next piece is asked for."""
        self.source.load_state_dict(state["source"])
        self._used, self._before = state["used"], state["source"]


def pieces(source: ActivationSource, of: int) -> ActivationSource:
    """Every batch of the source in ``of`` pieces, one after the other."""
    return source if of == 1 else Pieces(source, of)


def rows_of(batch: ActivationBatch, number: int, of: int) -> ActivationBatch:
    """One of several parts of a batch, by its first axis."""
    if of == 1:
        return batch

    def cut(x: Tensor) -> Tensor:
        return x.tensor_split(of)[number]

    rest = {f.name: getattr(batch, f.name) for f in fields(batch) if f.name != "activations"}
    return ActivationBatch(
        {site: cut(x) for site, x in batch.activations.items()},
        **{name: None if x is None else cut(x) for name, x in rest.items()},
    )


def joined(batches: Sequence[ActivationBatch]) -> ActivationBatch:
    """Batches one behind the other; sequences are padded to the longest, and their padding does not count."""
    if len(batches) == 1:
        return batches[0]
    first = next(iter(batches[0].activations.values()))
    if first.ndim == 2:
        return _concatenated(batches)
    longest = max(next(iter(batch.activations.values())).shape[1] for batch in batches)
    return _concatenated([_padded(batch, longest) for batch in batches])


def _concatenated(batches: Sequence[ActivationBatch]) -> ActivationBatch:
    def join(name: str) -> Tensor | None:
        parts = [getattr(batch, name) for batch in batches]
        return None if any(part is None for part in parts) else torch.cat(parts)

    sites = batches[0].activations
    return ActivationBatch(
        {site: torch.cat([batch.activations[site] for batch in batches]) for site in sites},
        **{f.name: join(f.name) for f in fields(batches[0]) if f.name != "activations"},
    )


def _padded(batch: ActivationBatch, longest: int) -> ActivationBatch:
    x = next(iter(batch.activations.values()))
    mask = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device) if batch.mask is None else batch.mask

    def pad(values: Tensor) -> Tensor:
        return torch.nn.functional.pad(values, (0, 0) * (values.ndim - 2) + (0, longest - values.shape[1]))

    return ActivationBatch(
        {site: pad(values) for site, values in batch.activations.items()},
        tokens=None if batch.tokens is None else pad(batch.tokens),
        mask=pad(mask),
        positions=None if batch.positions is None else pad(batch.positions),
        documents=batch.documents,
    )
