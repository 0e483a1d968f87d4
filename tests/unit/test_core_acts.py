"""Acts: the dense and the sparse layout say the same."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from monoscope.core.acts import Acts


def sparse_and_dense(batch: tuple[int, ...], n_features: int, k: int, seed: int) -> tuple[Acts, Tensor]:
    """Random signed activations, a third of the entries padding, with the dense tensor they stand for."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.Size(batch).numel()
    picks = [torch.randperm(n_features, generator=generator)[:k] for _ in range(rows)]
    indices = torch.stack(picks).reshape(*batch, k) if rows else torch.zeros(*batch, k, dtype=torch.long)
    values = torch.randn(*batch, k, generator=generator)
    values = values * (torch.rand(*batch, k, generator=generator) > 0.33)
    dense = torch.zeros(*batch, n_features)
    for row in range(rows):
        for entry in range(k):
            flat = dense.view(rows, n_features)
            flat[row, indices.view(rows, k)[row, entry]] = values.view(rows, k)[row, entry]
    return Acts(values, n_features, indices), dense


batches = st.lists(st.integers(0, 3), max_size=2).map(tuple)


@given(batch=batches, n_features=st.integers(1, 9), seed=st.integers(0, 99), data=st.data())
def test_layouts_agree(batch: tuple[int, ...], n_features: int, seed: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(0, n_features))
    sparse, dense = sparse_and_dense(batch, n_features, k, seed)
    twin = Acts(dense, n_features)
    assert sparse.is_sparse
    assert not twin.is_sparse
    assert torch.equal(sparse.dense(), dense)
    assert torch.equal(sparse.l0(), twin.l0())
    assert torch.equal(sparse.fired(), twin.fired())
    m = data.draw(st.integers(1, n_features))
    assert torch.equal(sparse.prefix(m).dense(), twin.prefix(m).dense())
    chosen = torch.tensor(data.draw(st.lists(st.integers(0, n_features - 1), max_size=5)), dtype=torch.long)
    assert torch.equal(sparse.where(chosen), twin.where(chosen))
    assert torch.equal(twin.where(chosen), dense[..., chosen])
    ends = sorted({*data.draw(st.lists(st.integers(1, n_features), max_size=3)), n_features})
    for own, other, a, b in zip(sparse.split(ends), twin.split(ends), [0, *ends], ends, strict=False):
        assert torch.equal(own.dense(), dense[..., a:b])
        assert torch.equal(other.dense(), dense[..., a:b])
    rebuilt = torch.zeros(torch.Size(batch).numel(), n_features)
    rows, features, values = sparse.coo()
    rebuilt[rows, features] = values
    assert torch.equal(rebuilt.view(dense.shape), dense)
    assert torch.equal(rows, rows.sort(stable=True).values)
    assert (values != 0).all()
    for mine, other in zip(twin.coo(), _by_feature(sparse.coo()), strict=True):
        assert torch.equal(mine, other)


def _by_feature(coo: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, ...]:
    rows, features, _ = coo
    order = torch.argsort(rows * 1000 + features)
    return tuple(part[order] for part in coo)


def test_negative_values_fire() -> None:
    acts = Acts(torch.tensor([[-1.0, 0.0]]), 4, torch.tensor([[3, 0]]))
    assert acts.l0().tolist() == [1]
    assert acts.fired().tolist() == [False, False, False, True]
    assert acts.dense().tolist() == [[0.0, 0.0, 0.0, -1.0]]


def test_padding_may_repeat_an_active_index() -> None:
    acts = Acts(torch.tensor([[2.0, 0.0, 0.0]]), 3, torch.tensor([[1, 1, 1]], dtype=torch.int32))
    assert acts.dense().tolist() == [[0.0, 2.0, 0.0]]
    assert acts.where(torch.tensor([1, 1])).tolist() == [[2.0, 2.0]]
    assert [part.tolist() for part in acts.coo()] == [[0], [1], [2.0]]


def test_prefix_beyond_the_features_is_a_mistake() -> None:
    with pytest.raises(AssertionError, match="prefix of 4 of 3"):
        Acts(torch.zeros(1, 3), 3).prefix(4)


def test_ends_that_are_not_all_features_are_a_mistake() -> None:
    with pytest.raises(AssertionError, match="of 3 features"):
        Acts(torch.zeros(1, 3), 3).split([1, 2])


def test_gradients_reach_the_values() -> None:
    values = torch.ones(2, 2, requires_grad=True)
    acts = Acts(values, 5, torch.tensor([[0, 4], [1, 2]]))
    (acts.dense().sum() + acts.where(torch.tensor([4])).sum() + acts.prefix(1).values.sum()).backward()
    assert values.grad is not None
    assert values.grad.tolist() == [[2.0, 2.0], [1.0, 1.0]]
    assert not acts.detach().values.requires_grad


def test_immutable_and_movable() -> None:
    acts = Acts(torch.ones(1, 2), 2)
    with pytest.raises(AttributeError):
        acts.n_features = 3  # pyright: ignore[reportAttributeAccessIssue]
    moved = Acts(torch.ones(1, 1), 2, torch.zeros(1, 1, dtype=torch.long)).to("meta")
    assert moved.values.device.type == moved.indices.device.type == "meta"  # pyright: ignore[reportOptionalMemberAccess]
