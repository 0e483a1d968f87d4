"""The comparison of methods on worlds, in a minute: scores lie where they must, and in the order they must."""

from __future__ import annotations

import pytest

from monoscope.evals.worlds.compare import Budget, Row, bounds, compare
from monoscope.evals.worlds.methods import METHODS, Method

SEEDS = ((0, 0, 0), (0, 1, 1))
BUDGET = Budget(tokens=150_000, batch_tokens=512, held_out=8000)


def methods(*labels: str) -> dict[str, Method]:
    return {label: METHODS[label] for label in labels}


def each(row: Row, metric: str) -> list[float]:
    return [value for scores in row.scores if (value := scores[metric]) is not None]


@pytest.mark.slow
def test_superposed_directions_are_found_far_above_the_floors() -> None:
    rows = compare("W1", methods("TopK", "BatchTopK", "frozen decoder"), seeds=SEEDS, budget=BUDGET)
    limits = bounds("W1", seeds=SEEDS[:1], budget=BUDGET)
    frozen, random = rows.pop("frozen decoder"), limits["random"]
    for label, row in rows.items():
        assert row.matched == ["measured"] * 2, label
        assert min(each(row, "mcc_adj")) > max(each(frozen, "mcc_adj")) + 0.2, label
        assert min(each(row, "recovery_90")) > 0.7, label
        assert min(each(row, "f1")) > max(each(frozen, "f1") + each(random, "f1")) + 0.3, label
        assert max(each(row, "f1_hungarian")) < min(each(limits["pursuit at the true L0"], "f1_hungarian")), label
        assert row.pw_mcc is not None
        assert row.pw_mcc > 0.7
    assert max(each(frozen, "recovery_90")) == 0
    assert frozen.pw_mcc is not None
    assert frozen.pw_mcc < 0.35


@pytest.mark.slow
def test_hierarchies_are_absorbed_and_too_narrow_dictionaries_hedge() -> None:
    longer = Budget(tokens=220_000, batch_tokens=512, held_out=8000)
    plain = compare("W3", methods("BatchTopK"), seeds=SEEDS, budget=longer)["BatchTopK"]
    assert sum(each(plain, "leak")) / len(SEEDS) > 0.2
    assert min(each(plain, "absorption_level_0")) > 0.05
    narrow, wide = (
        compare(name, methods("BatchTopK"), seeds=SEEDS[:1], budget=BUDGET)["BatchTopK"]
        for name in ("W5", "W5, wide enough")
    )
    assert min(each(narrow, "hedging_positive")) > 0.4
    assert max(each(narrow, "hedging_negative")) < -0.05
    assert max(each(wide, "hedging_positive")) < min(each(narrow, "hedging_positive")) - 0.2


@pytest.mark.slow
def test_orthogonal_directions_are_found() -> None:
    row = compare("W0", methods("BatchTopK"), seeds=SEEDS, budget=Budget(tokens=300_000, held_out=5000))["BatchTopK"]
    assert min(each(row, "recovery_90")) > 0.9
    assert min(each(row, "f1_hungarian")) > 0.85
