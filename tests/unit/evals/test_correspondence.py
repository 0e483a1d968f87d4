from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.sparse import csc_array
from torch.nn.functional import normalize

from monoscope.core.errors import MismatchError
from monoscope.evals import correspondence
from monoscope.evals.correspondence import by_activation, by_direction, chance, correlations, nearest_other
from monoscope.evals.worlds.matching import match


@pytest.fixture
def rows():
    return normalize(torch.randn(40, 16, generator=torch.Generator().manual_seed(0)), dim=1)


@pytest.fixture
def permuted(rows):
    """The first 30 in another order and other lengths, slightly turned; and 10 of its own."""
    generator = torch.Generator().manual_seed(1)
    order = torch.randperm(30, generator=generator)
    turned = rows[:30][order] + 0.02 * torch.randn(30, 16, generator=generator)
    own = torch.randn(10, 16, generator=generator)
    return order, torch.cat([3 * turned, own])


@pytest.fixture(params=[2**24, 100])
def cells(request, monkeypatch):
    """In one block, and in many."""
    monkeypatch.setattr(correspondence, "CELLS", request.param)


def test_a_permutation_is_found(cells, rows, permuted):
    order, others = permuted
    found = by_direction(rows, others, 0.9)
    assert {(int(i), int(j)) for i, j in found.pairs.T} == {(int(i), j) for j, i in enumerate(order)}
    cosines = (normalize(rows) @ normalize(others).T)[tuple(found.pairs)]
    torch.testing.assert_close(found.similarity, cosines)
    assert found.similarity.tolist() == sorted(found.similarity.tolist(), reverse=True)
    alone_a, alone_b = found.alone()
    assert sorted(alone_a.tolist()) == list(range(30, 40))
    assert sorted(alone_b.tolist()) == list(range(30, 40))
    assert found.best_a[alone_a].tolist() == sorted(found.best_a[alone_a].tolist())


def test_best_similarities_are_those_of_the_whole_table(cells, rows, permuted):
    table = normalize(rows) @ normalize(permuted[1]).T
    found = by_direction(rows, permuted[1], 0.5)
    torch.testing.assert_close(found.best_a, table.amax(1))
    torch.testing.assert_close(found.best_b, table.amax(0))
    assert torch.equal(found.nearest_a, table.argmax(1))
    assert torch.equal(found.nearest_b, table.argmax(0))


def test_the_assignment_is_the_one_of_largest_total(rows):
    """Where every pair is near enough, the Hungarian assignment of the whole table."""
    others = rows + 0.8 * torch.randn(40, 16, generator=torch.Generator().manual_seed(3))
    table = normalize(rows) @ normalize(others).T
    found = by_direction(rows[:20], others[:20], 1e-6)
    from scipy.optimize import linear_sum_assignment

    i, j = linear_sum_assignment(table[:20, :20].clamp_min(0).numpy(), maximize=True)
    assert float(found.similarity.sum()) == pytest.approx(float(table[i, j].clamp_min(0).sum()), rel=1e-5)


def test_a_feature_that_splits_and_one_that_merges(rows):
    split = torch.cat([rows[:5], normalize(rows[:1] + 0.1 * rows[6:7]), normalize(rows[:1] - 0.1 * rows[6:7])])
    found = by_direction(rows[:5], split, 0.9)
    assert found.splits() == {0: [0, 5, 6]}
    assert found.merges() == {}
    back = by_direction(split, rows[:5], 0.9)
    assert back.merges() == {0: [0, 5, 6]}
    assert back.splits() == {}
    assert back.pairs.shape[1] == 5, "partners are one to one"


def test_opposite_directions_are_one_feature_only_if_signs_do_not_matter(rows):
    assert by_direction(rows, -rows, 0.9).pairs.shape[1] == 0
    assert by_direction(rows, -rows, 0.9, signed=False).pairs.shape[1] == 40


def test_rows_of_different_widths_are_refused(rows):
    with pytest.raises(MismatchError, match="16 and 8 numbers"):
        by_direction(rows, rows[:, :8], 0.5)


def test_nothing_in_common_leaves_no_pairs(rows):
    found = by_direction(rows[:3], rows[10:13] - rows[:3] * 9, 0.99)
    assert found.pairs.shape == (2, 0)
    assert [len(side) for side in found.alone()] == [3, 3]


def activations(seed: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return np.where(generator.random((200, 12)) < 0.2, generator.random((200, 12)) * 3, 0.0)


def test_correlation_of_activations_is_numpy_s(cells):
    a, b = activations(0), activations(1)
    b[:, 3] = 2 * a[:, 7]
    b[:, 4] = 0.0
    table = np.corrcoef(a.T, np.where(np.arange(12) == 4, np.arange(200)[:, None], b).T)[:12, 12:]
    found = by_activation(csc_array(a), csc_array(b), 0.9)
    np.testing.assert_allclose(found.best_a.numpy(), np.delete(table, 4, axis=1).max(1).clip(0), atol=1e-6)
    assert found.pairs.T.tolist() == [[7, 3]]
    pairs = torch.tensor([[0, 7, 2], [0, 3, 4]])
    np.testing.assert_allclose(correlations(csc_array(a), csc_array(b), pairs), [table[0, 0], 1.0, 0.0], atol=1e-12)


def test_chance_and_nearest_other(rows):
    assert chance(64, 64, 16) == pytest.approx(0.6, abs=0.1)
    assert chance(64, 64, 16, signed=False) > chance(64, 64, 16)
    assert chance(2000, 8, 4096) < 0.1
    table = rows @ rows.T
    table.fill_diagonal_(-2)
    assert nearest_other(rows) == pytest.approx(float(table.amax(1).median()))
    assert nearest_other(rows[:1]) is None


def test_it_agrees_with_the_matching_of_worlds(rows, permuted):
    """Beyond the threshold both give the same partners."""
    worlds = match(permuted[1], rows)
    found = by_direction(permuted[1], rows, 0.9)
    assert worlds.partner[found.pairs[0]].tolist() == found.pairs[1].tolist()
