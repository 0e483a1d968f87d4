"""The rule of a win, and how scores meet at one L0."""

from __future__ import annotations

import math

import numpy as np
import pytest

from monoscope.evals.worlds.claims import claims, difference, holm
from monoscope.evals.worlds.compare import at_l0, l0_calibration
from monoscope.evals.worlds.methods import METHODS
from monoscope.evals.worlds.named import WORLDS

CLEAR = [0.80, 0.81, 0.79, 0.80, 0.82]
WORSE = [0.70, 0.71, 0.70, 0.69, 0.72]
METRICS = ("mcc_adj", "f1_hungarian", "ev")


def everywhere(values: list[float]) -> dict[str, list[float]]:
    return dict.fromkeys(METRICS, values)


def test_a_clear_difference_is_a_win_one_way_and_a_loss_the_other() -> None:
    assert claims(everywhere(CLEAR), everywhere(WORSE)) == dict.fromkeys(METRICS, 1)
    assert claims(everywhere(WORSE), everywhere(CLEAR)) == dict.fromkeys(METRICS, -1)
    assert claims(everywhere(CLEAR), everywhere(CLEAR)) == dict.fromkeys(METRICS, 0)


@pytest.mark.parametrize(
    "worse",
    [
        pytest.param([0.79, 0.80, 0.78, 0.79, 0.81], id="below the tolerance"),
        pytest.param([0.90, 0.40, 0.95, 0.60, 0.50], id="within the spread of seeds"),
        pytest.param([0.70, 0.83, 0.81, 0.69, 0.71], id="of two signs"),
    ],
)
def test_what_is_no_win(worse: list[float]) -> None:
    assert claims(everywhere(CLEAR), everywhere(worse)) == dict.fromkeys(METRICS, 0)


def test_seeds_drawn_alike_are_seldom_told_apart() -> None:
    generator = np.random.default_rng(0)
    claimed = 0
    for _ in range(300):
        ours, theirs = ({m: generator.normal(0.8, 0.1, 5).tolist() for m in METRICS} for _ in range(2))
        claimed += any(claims(ours, theirs).values())
    assert claimed / 300 < 0.05


def test_the_parts_of_a_difference() -> None:
    found = difference([1.0, 2.0, 3.0], [0.0, 1.0, 2.5])
    assert found.mean == pytest.approx(2.5 / 3)
    assert found.least == pytest.approx(2 * math.sqrt((1 + np.var([0, 1, 2.5], ddof=1)) / 2) * math.sqrt(2 / 3))
    assert found.share_of_sign == 1
    assert found.p == pytest.approx(0.0377, abs=1e-4)  # t = 5 with 2 degrees of freedom
    assert found.interval[0] <= found.mean <= found.interval[1]


def test_holm_compares_the_smallest_with_the_strictest_level() -> None:
    assert holm({"a": 0.01, "b": 0.02, "c": 0.04}) == {"a", "b", "c"}
    assert holm({"a": 0.01, "b": 0.03, "c": 0.04}) == {"a"}
    assert holm({"a": 0.02, "b": 0.001, "c": 0.06}) == {"a", "b"}


def test_scores_meet_at_one_l0() -> None:
    low, high = {"l0": 4.0, "f1": 0.6, "leak": None}, {"l0": 9.0, "f1": 0.8, "leak": None}
    assert at_l0([low, high], 4.05) == (low, "measured")
    scores, how = at_l0([high, low], 6.0)
    assert how == "interpolated"
    assert scores["l0"] == pytest.approx(4 + 5 * math.log(1.5) / math.log(2.25))
    assert scores["f1"] == pytest.approx(0.7)
    assert scores["leak"] is None
    assert at_l0([low, high], 12.0) == (high, "off")


def test_l0_calibration_is_where_f1_peaks() -> None:
    grid = (0.5, 0.8, 1.0, 1.25, 2.0)
    curve = [{"l0_over_true": x, "f1": 0.9 - math.log(x / 1.1) ** 2} for x in grid]
    assert l0_calibration(curve) == pytest.approx(1.1)
    assert l0_calibration([{"l0_over_true": x, "f1": x} for x in grid]) == pytest.approx(2.0)


def test_every_method_says_how_its_l0_is_met() -> None:
    for label, method in METHODS.items():
        assert method.at_l0 or method.weight or method.worlds == (), label
        for name, world in WORLDS.items():
            if method.applies(name):
                assert len(method.recipes(name, world)) >= 1, (label, name)
    recipes = METHODS["TopK"].recipes("W0", WORLDS["W0"])
    assert [recipe["function"]["k"] for recipe in recipes] == [2, 3, 4]
    assert METHODS["JumpReLU, target L0"].recipes("W1", WORLDS["W1"], 3.0)[0]["terms"]["sparsity"]["target"] == 3.0
