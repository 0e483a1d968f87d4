"""Rows of chosen features, and what becomes of their gradient."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from monoscope import ops
from monoscope.ops import rows

FEATURES = torch.tensor([4, 1, 1, 6])  # one twice, as where padding repeats a feature


def weight(dim: int) -> nn.Parameter:
    """A weight of 7 features along an axis, stored feature by feature."""
    shape = [7, 3, 2]
    return nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(0)).movedim(0, dim))


def loss(w: Tensor, rows_of: Tensor) -> Tensor:
    """A loss of all features, and of chosen ones."""
    return w.pow(3).sum() + rows_of.sin().sum()


@pytest.mark.parametrize("dim", [0, 1, 2])
@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize("alone", [False, True])
def test_the_gradient_is_that_of_indexing(dim: int, waits: bool, alone: bool) -> None:
    ours, theirs = weight(dim), weight(dim)
    part = ops.rows_of(ours, FEATURES, dim)
    assert torch.equal(part, theirs.index_select(dim, FEATURES))
    total = part.sin().sum() if alone else loss(ours, part)
    if waits:
        with ops.adding_rows([ours]):
            total.backward()
    else:
        total.backward()
    wanted = theirs.index_select(dim, FEATURES)
    (wanted.sin().sum() if alone else loss(theirs, wanted)).backward()
    assert ours.grad is not None
    assert theirs.grad is not None
    torch.testing.assert_close(ours.grad, theirs.grad)
    assert ours.grad.stride() == ours.stride()


def test_a_gradient_waits_for_its_own_weight_alone_and_for_no_longer_than_the_block() -> None:
    own, other = weight(0), weight(0)
    total = (ops.rows_of(own, FEATURES) * ops.rows_of(other, FEATURES)).sum()
    with ops.adding_rows([own]):
        total.backward()
        assert own.grad is None
        assert other.grad is not None
    assert own.grad is not None
    assert not rows._waiting


def test_a_backward_pass_that_fails_leaves_nothing_waiting() -> None:
    own = weight(0)
    before = ops.rows_of(own, FEATURES).sum()
    with pytest.raises(ZeroDivisionError), ops.adding_rows([own]):
        before.backward()
        raise ZeroDivisionError
    assert own.grad is None
    assert not rows._waiting
