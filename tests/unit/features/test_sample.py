from __future__ import annotations

import numpy as np
import pytest
import torch
from feature_worlds import Text, lookup, world

from monoscope.features.collectors import coactivation as module
from monoscope.features.collectors.coactivation import coactivation
from monoscope.features.collectors.sample import Sample, SequenceSample
from monoscope.features.firings import Firings


def sampled(table: np.ndarray, tokens: torch.Tensor, at_once: int = 4, **bounds: int) -> Sample:
    sample = SequenceSample(table.shape[1], seed=0, **bounds)
    for i, batch in enumerate(Text(tokens, at_once=at_once)):
        sample.update(Firings.of(batch, lookup(table), i * at_once))
    return sample.finish()


def test_everything_is_kept_while_it_fits() -> None:
    tokens, table = world()
    sample = sampled(table, tokens)
    assert sample.sequence.tolist() == list(range(40))
    assert np.array_equal(sample.tokens, tokens.numpy())
    features, places = np.nonzero(table.T)
    assert np.array_equal(sample.feature, features)
    assert np.array_equal(sample.token, places)
    assert np.array_equal(np.diff(sample.bounds), (table != 0).sum(0))


@pytest.mark.parametrize("bounds", [{"max_tokens": 10 * 32}, {"max_entries": 100}])
def test_a_sample_is_bounded_and_the_same_however_it_came(bounds: dict[str, int]) -> None:
    tokens, table = world(sequences=200)
    one, another = sampled(table, tokens, 1, **bounds), sampled(table, tokens, 64, **bounds)
    for name in ("sequence", "feature", "token", "tokens"):
        assert np.array_equal(getattr(one, name), getattr(another, name))
    assert 3 <= len(one.sequence) <= 12
    assert len(one.feature) <= bounds.get("max_entries", 10**6)
    values = table.reshape(200, 32, -1)[one.sequence].reshape(-1, table.shape[1])
    assert np.array_equal(one.token, np.nonzero(values.T)[1])


@pytest.mark.parametrize("at_once", [1, 2**21])
def test_coactivation_is_mutual_information_of_pairs(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAIRS_AT_ONCE", at_once)
    tokens, table = world(density=0.2)
    table[:, 1] = table[:, 0] * (np.random.default_rng(0).random(len(table)) < 0.8)  # fires where 0 does
    columns = coactivation(sampled(table, tokens))
    fired = (table != 0).astype(float)
    together, alone = fired.T @ fired, fired.sum(0)
    for f in range(table.shape[1]):
        ids, pmi = columns.lists["co_features"][f].astype(int), columns.lists["co_pmi"][f]
        assert f not in ids
        assert pmi == pytest.approx(np.log(together[f, ids] * len(table) / (alone[f] * alone[ids])), rel=1e-5)
        others = [g for g in range(table.shape[1]) if g != f and together[f, g] * len(table) > alone[f] * alone[g]]
        assert sorted(ids) == others
    assert columns.lists["co_features"][0][0] == 1


def test_rare_coincidences_are_left_out() -> None:
    tokens, table = world(n_features=2, density=0)
    table[:4] = 1.0
    table[10:20, 0] = 1.0
    lists = coactivation(sampled(table, tokens)).lists
    assert not len(lists["co_features"][0])
