"""Lanes: which rows of which lanes a process reads, and that every number of readers sees the same batches."""

from __future__ import annotations

import json

import pytest
import torch

from monoscope.core.errors import ConfigError
from monoscope.core.mesh import Axis, Mesh
from monoscope.harvest import ActivationSource, from_array, repeat
from monoscope.training.lanes import Lanes, lanes_of, pieces, rows_of

X = torch.arange(60.0)[:, None].expand(60, 3)


def source() -> ActivationSource:
    """Sixty tokens, each of which says its number, in batches of ten."""
    return from_array(X, seed=1, batch_tokens=10)


def lanes(n: int, number: int = 0, of: int = 1) -> Lanes:
    """The lanes of one of several data processes."""
    return Lanes(lambda lane: pieces(repeat(source().part(lane, n)), n), n, Mesh(data=Axis(number, of)))


def read(lanes: Lanes, n: int) -> list[torch.Tensor]:
    """The next batches."""
    stream = iter(lanes)
    return [next(iter(next(stream).activations.values()))[:, 0] for _ in range(n)]


@pytest.mark.parametrize(("n_lanes", "processes"), [(2, 1), (2, 2), (3, 1), (1, 2), (2, 4)])
def test_processes_read_the_batches_of_one_between_them(n_lanes: int, processes: int) -> None:
    alone = read(lanes(n_lanes), 8)
    each = [read(lanes(n_lanes, number, processes), 8) for number in range(processes)]
    for step, batch in enumerate(alone):
        assert torch.equal(torch.cat([own[step] for own in each]), batch)


def test_a_pass_has_every_token_once() -> None:
    batches = read(lanes(2), 6)
    assert [len(batch) for batch in batches] == [10] * 6
    assert sorted(torch.cat(batches).tolist()) == list(range(60))


def test_a_position_is_small_and_gives_the_same_next_batch() -> None:
    first = lanes(2)
    stream = iter(first)
    for _ in range(3):
        next(stream)
    state = json.loads(json.dumps(first.state_dict()))
    expected = [next(iter(next(stream).activations.values())) for _ in range(5)]
    other = lanes(2)
    other.load_state_dict(state)
    found = iter(other)
    for batch in expected:
        assert torch.equal(next(iter(next(found).activations.values())), batch)


def test_lanes_that_cannot_be_shared_are_refused() -> None:
    with pytest.raises(ConfigError, match="3 lanes, which 2 processes cannot share"):
        lanes_of(Axis(0, 2), 3)


def test_rows_are_cut_into_parts_that_differ_by_one_at_most() -> None:
    batch = next(iter(source()))
    parts = [rows_of(batch, number, 4) for number in range(4)]
    assert [len(next(iter(part.activations.values()))) for part in parts] == [3, 3, 2, 2]
