"""Batches that are read, and on their way to a device, before they are asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import torch

from monoscope.core.batch import ActivationBatch
from monoscope.core.errors import DataError
from monoscope.harvest import ActivationSource, ahead, from_array

ROWS = torch.arange(20.0)[:, None].repeat(1, 3)


class Counted(ActivationSource):
    """A source that counts what was read of it, and may break."""

    def __init__(self, breaks_at: int | None = None) -> None:
        self.source, self.breaks_at, self.n_read = from_array(ROWS, batch_tokens=4), breaks_at, 0
        self.sites, self.widths, self.n_tokens = self.source.sites, self.source.widths, self.source.n_tokens

    @property
    def info(self) -> dict[str, Any]:
        return self.source.info

    def __iter__(self) -> Iterator[ActivationBatch]:
        for batch in self.source:
            self.n_read += 1
            if self.n_read == self.breaks_at:
                raise DataError("the disk is gone")
            yield batch

    def state_dict(self) -> dict[str, Any]:
        return self.source.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.source.load_state_dict(state)


def _first(batch: ActivationBatch) -> float:
    return next(iter(batch.activations.values()))[0, 0].item()


def test_so_many_batches_are_read_ahead_and_the_position_is_of_those_handed_out() -> None:
    source = Counted()
    stream = ahead(source, "cpu", 2)
    iterator = iter(stream)
    next(iterator)
    position = stream.state_dict()
    assert source.n_read == 2
    second = _first(next(iterator))
    resumed = from_array(ROWS, batch_tokens=4)
    resumed.load_state_dict(position)
    assert _first(next(iter(resumed))) == second, "a position serves the source itself as well"


def test_what_cannot_be_read_is_said_when_it_is_due() -> None:
    iterator = iter(ahead(Counted(breaks_at=3), "cpu", 3))
    assert [_first(next(iterator)), _first(next(iterator))] == [0.0, 4.0]
    with pytest.raises(DataError, match="the disk is gone"):
        next(iterator)


def test_loading_a_position_drops_what_was_read_ahead() -> None:
    stream = ahead(from_array(ROWS, batch_tokens=4), "cpu", 3)
    start = stream.state_dict()
    next(iter(stream))
    stream.load_state_dict(start)
    assert [_first(batch) for batch in stream] == [0.0, 4.0, 8.0, 12.0, 16.0]


@pytest.mark.gpu
def test_batches_arrive_on_the_device_as_they_were() -> None:
    batches = list(ahead(from_array(ROWS, batch_tokens=4), "cuda"))
    assert all(x.is_cuda for batch in batches for x in batch.activations.values())
    torch.testing.assert_close(torch.cat([x for b in batches for x in b.activations.values()]).cpu(), ROWS)
