from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from feature_worlds import Text, lookup, world

from monoscope.features import FeatureBundle, analyze
from monoscope.features.interesting import Finding, interesting

Make = Callable[..., FeatureBundle]
S, T = 120, 40
ON, AFTER, RANDOM, DENSE, DEAD, RARE, TWIN, FIRST, ONE_DOCUMENT, BEFORE, REPEATS, LOOSE = range(12)


@pytest.fixture(scope="module")
def constructed() -> tuple[torch.Tensor, np.ndarray, torch.Tensor]:
    """Tokens 100 to 199 at random, and features that fire by rule, stronger or weaker at random."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(100, 200, (S, T))
    tokens[:, 20:24] = tokens[:, 5:9]  # a passage of four tokens comes again in each sequence
    fires = np.zeros((S, T, 12), bool)
    fires[..., ON] = fires[..., TWIN] = tokens == 150
    fires[:, 1:, AFTER] = tokens[:, :-1] == 151
    fires[:, :-1, BEFORE] = tokens[:, 1:] == 152
    fires[..., RANDOM] = rng.random((S, T)) < 0.01
    fires[..., DENSE] = (rng.random((S, T)) < 0.4) & (tokens % 2 == 0)
    fires[:6, :, RARE] = tokens[:6] == 153
    fires[:, 0, FIRST] = True
    fires[..., ONE_DOCUMENT] = (tokens == 154) & (np.arange(S) < 50)[:, None]
    fires[:, 22, REPEATS] = True
    fires[..., LOOSE] = (tokens == 155) | ((rng.random((S, T)) < 0.02) & (tokens > 170))
    strength = np.exp(0.5 * rng.standard_normal(fires.shape))
    documents = torch.from_numpy(np.where(np.arange(S) < 50, 0, np.arange(S)))
    return torch.from_numpy(tokens), (strength * fires).astype(np.float32).reshape(S * T, 12), documents


@pytest.fixture
def bundle(make: Make, constructed: tuple) -> FeatureBundle:
    tokens, table, documents = constructed
    return make(tokens, table, {"documents": documents, "at_once": 40})


def test_consistent_features_come_and_others_do_not(bundle: FeatureBundle) -> None:
    found = {interest.feature: interest for interest in interesting(bundle, 12)}
    assert not found.keys() & {DENSE, DEAD, RARE, FIRST, ONE_DOCUMENT}
    for consistent in (ON, AFTER, BEFORE, REPEATS):
        assert found[consistent].score > 5 * (found[RANDOM].score if RANDOM in found else 0)
        assert found[consistent].score > found[LOOSE].score
    assert [interest.feature for interest in interesting(bundle, 3)] == list(found)[:3]


def test_what_the_contexts_have_in_common_is_found(bundle: FeatureBundle) -> None:
    found = {interest.feature: interest.findings for interest in interesting(bundle, 12)}
    assert found[ON] == (Finding("on", "<150>", 1.0),)
    assert found[AFTER] == (Finding("after", "<151>", 1.0),)
    assert found[BEFORE] == (Finding("before", "<152>", 1.0),)
    assert found[REPEATS] == (Finding("repeats", "", 1.0),)


def test_a_second_feature_of_the_same_token_comes_late(bundle: FeatureBundle) -> None:
    order = [interest.feature for interest in interesting(bundle, 12)]
    first, second = sorted(order.index(f) for f in (ON, TWIN))
    assert second > max(order.index(f) for f in (AFTER, BEFORE, REPEATS)) > first


def test_features_of_the_same_direction_do_not_follow_each_other(tmp_path: Path, constructed: tuple) -> None:
    tokens, table, _ = constructed
    dictionary = lookup(table)
    with torch.no_grad():
        dictionary.W_dec[AFTER] = dictionary.W_dec[ON]
    bundle = analyze(dictionary, Text(tokens, at_once=40), tmp_path / "same.mono")
    order = [interest.feature for interest in interesting(bundle, 12)]
    assert max(order.index(ON), order.index(AFTER)) > max(order.index(BEFORE), order.index(REPEATS))


def test_without_candidates_nothing_is_interesting(make: Make) -> None:
    tokens, table = world(density=0.5)
    assert interesting(make(tokens, table)) == []
    assert interesting(make(tokens, table * 0)) == []


def test_the_end_of_a_signed_feature_that_agrees_speaks_for_it(make: Make, constructed: tuple) -> None:
    tokens, table, documents = constructed
    two_ended, turned = table.copy(), table.copy()
    two_ended[:, ON] = table[:, RANDOM] - table[:, ON] * (table[:, RANDOM] == 0)
    turned[:, ON] = -table[:, ON]
    plain, both, other = (
        {i.feature: i for i in interesting(make(tokens, x, {"documents": documents, "at_once": 40}), 12)}
        for x in (table, two_ended, turned)
    )
    for found in (both, other):
        assert found[ON].is_negative
        assert found[ON].findings == plain[ON].findings
    assert other[ON].score == pytest.approx(plain[ON].score)
    assert not any(interest.is_negative for feature, interest in both.items() if feature != ON)
