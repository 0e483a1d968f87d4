"""Directions against planted directions: known answers, floors, and what must not matter."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch.nn.functional import normalize

from monoscope.core.errors import DataError
from monoscope.evals.worlds import match, matching, mean_max_cosine, pw_mcc, recovery
from monoscope.evals.worlds.matching import (
    composition,
    greedy_mcc,
    hedging,
    leak,
    mcc,
    splitting,
    uniqueness,
    uniqueness_bounds,
)
from monoscope.evals.worlds.score import adjusted


def unit(n: int, d: int, seed: int = 0) -> torch.Tensor:
    return normalize(torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=1)


def test_planted_directions_are_found_whatever_their_order_sign_and_length() -> None:
    directions = unit(6, 40)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    rows = torch.cat([-3 * directions[order], torch.zeros(2, 40)])
    found = match(rows, directions)
    assert found.partner.tolist() == [*order.tolist(), -1, -1]
    assert found.feature_of().tolist() == order.argsort().tolist()
    assert mcc(found) == pytest.approx(1)
    assert mean_max_cosine(rows, directions) == pytest.approx(1)
    assert recovery(rows, directions) == 1
    half = torch.cat([directions[:3], torch.zeros(5, 40)])
    assert recovery(half, directions) == 0.5
    between = normalize(directions + unit(6, 40, seed=1), dim=1)
    assert recovery(between, directions, threshold=0.9) == 0
    assert recovery(between, directions, threshold=0.4) == 1


def test_the_assignment_is_the_best_of_all() -> None:
    rows, directions = unit(5, 4), unit(5, 4, seed=1)
    found = match(rows, directions)
    best = max(
        sum(found.cosines[j, i].abs().item() for j, i in enumerate(order)) for order in itertools.permutations(range(5))
    )
    assert mcc(found) == pytest.approx(best / 5)
    assert greedy_mcc(found) <= mcc(found)


@pytest.mark.parametrize(
    ("d", "n", "hungarian", "mmcs"), [(16, 32, 0.527, 0.561), (64, 128, 0.328, 0.344), (64, 256, 0.354, 0.369)]
)
def test_random_rows_score_the_floor(d: int, n: int, hungarian: float, mmcs: float) -> None:
    found = [match(unit(n, d, seed), unit(n, d, 100 + seed)) for seed in range(10)]
    assert sum(map(mcc, found)) / 10 == pytest.approx(hungarian, abs=0.01)
    assert sum(x.cosines.abs().amax(0).mean().item() for x in found) / 10 == pytest.approx(mmcs, abs=0.01)
    if n == 128:
        assert sum(map(greedy_mcc, found)) / 10 == pytest.approx(0.319, abs=0.01)


def test_uniqueness_of_random_rows_is_its_floor() -> None:
    for share, floor in ((1, 0.632), (2, 0.788), (4, 0.885)):
        assert uniqueness_bounds(512 // share, 512)[0] == pytest.approx(floor, abs=1e-3)
    found = [uniqueness(match(unit(256, 64, seed), unit(1024, 64, 100 + seed))) for seed in range(10)]
    mean = sum(found) / 10
    assert mean == pytest.approx(0.885, abs=0.01)
    assert adjusted(mean, *uniqueness_bounds(256, 1024)) == pytest.approx(0, abs=0.1)


def test_duplicates_halve_uniqueness_and_count_as_splits() -> None:
    directions = unit(20, 30)
    once, twice = match(directions, directions), match(directions.repeat(2, 1), directions)
    assert (uniqueness(once), uniqueness(twice)) == (1.0, 0.5)
    assert (splitting(once), splitting(twice)) == (0.0, 1.0)
    assert mcc(twice) == pytest.approx(1)
    assert uniqueness_bounds(40, 20)[1] == 0.5


def test_features_made_of_several_planted_ones_are_counted() -> None:
    directions = torch.eye(10, dtype=torch.float64)
    rows = directions.clone()
    rows[0], rows[1] = directions[0] + directions[1], directions[1] - directions[2]
    assert composition(match(rows, directions)) == 0.2
    assert composition(match(directions, directions)) == 0


def test_a_wide_dictionary_is_matched_among_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    directions = unit(120, 32)
    rows = torch.cat([directions + 0.3 * unit(120, 32, seed=1), unit(40, 32, seed=2)])
    exact = match(rows, directions)
    monkeypatch.setattr(matching, "MOST_DENSE", 100)
    sparse = match(rows, directions)
    assert exact.is_exact
    assert not sparse.is_exact
    assert mcc(sparse) == pytest.approx(mcc(exact), abs=1e-9)
    assert mcc(match(directions, rows)) == pytest.approx(mcc(exact), abs=1e-9)


def test_alive_and_frequent_features_are_scored_alone() -> None:
    directions = torch.eye(8, dtype=torch.float64)
    rows = torch.cat([directions[:4], directions[4:] + 2 * directions[:4]])
    found = match(rows, directions)
    alive = torch.arange(8) < 4
    assert mcc(found, alive=alive) == pytest.approx(1)
    assert mcc(found, alive=~alive) == pytest.approx(2 / 5**0.5)
    assert mcc(found, alive=torch.zeros(8, dtype=torch.bool)) == 0
    assert mcc(found, planted=alive) == pytest.approx(1)
    assert mcc(found) == pytest.approx((4 + 4 / 5**0.5) / 8)


def test_stability_between_dictionaries_needs_no_truth() -> None:
    a = unit(30, 20)
    assert pw_mcc(a, -2 * a.flip(0)) == pytest.approx(1)
    assert pw_mcc(a, unit(30, 20, seed=1)) == pytest.approx(pw_mcc(unit(30, 20, seed=1), a))
    assert pw_mcc(a, unit(30, 20, seed=1)) < 0.6


def test_hedging_is_what_a_row_holds_of_another_direction() -> None:
    directions = torch.eye(6, dtype=torch.float64)
    partner = torch.tensor([3, 4, -1, 0, 1, -1])
    rows = directions[:3].clone()
    rows[0] += 0.5 * directions[3]
    rows[1] = -(directions[1] - 0.5 * directions[4])  # flipped: the sign of the row does not matter
    leaning = hedging(match(rows, directions), directions, partner)
    share = 0.5 / 1.25**0.5
    torch.testing.assert_close(leaning, torch.tensor([share, -share], dtype=torch.float64))
    torch.testing.assert_close(
        hedging(match(rows, directions), directions), torch.tensor([share, share, 0.0], dtype=torch.float64)
    )
    crowded = unit(40, 20)
    assert hedging(match(crowded, crowded), crowded).abs().max() < 1e-9


def test_leak_is_the_parent_in_the_children() -> None:
    directions = torch.eye(5, dtype=torch.float64)
    parent = torch.tensor([-1, 0, 0, -1, -1])
    assert leak(match(directions, directions), directions, parent) == 0
    leaky = directions.clone()
    leaky[1] = directions[1] + directions[0]
    assert leak(match(leaky, directions), directions, parent) == pytest.approx(0.5 / 2**0.5)
    assert leak(match(directions, directions), directions, torch.full((5,), -1)) is None


def test_scale_sign_and_order_of_rows_change_nothing() -> None:
    directions, rows = unit(40, 16), unit(30, 16, seed=1)
    changed = (rows * torch.randn(30, 1, dtype=torch.float64))[torch.randperm(30)]
    for metric in (mcc, greedy_mcc, uniqueness, splitting, composition):
        assert metric(match(changed, directions)) == pytest.approx(metric(match(rows, directions)))
    leaning = [hedging(match(x, directions), directions).sort().values for x in (rows, changed)]
    torch.testing.assert_close(*leaning)


def test_rows_that_are_not_finite_raise() -> None:
    rows = unit(9, 3)
    rows[5, 1] = torch.nan
    with pytest.raises(DataError, match="decoder rows hold a value that is not finite; the first is in row 5 of 9"):
        match(rows, unit(4, 3))
