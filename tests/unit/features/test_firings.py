from __future__ import annotations

import numpy as np
import pytest
import torch
from feature_worlds import SITE, D, Text, lookup, world

from monoscope.core.batch import ActivationBatch
from monoscope.core.errors import DataError, MismatchError
from monoscope.features.columns import Ragged, order_of, rank_in_runs, spans
from monoscope.features.firings import Firings


def firings_of(table: np.ndarray, tokens: torch.Tensor, mask: torch.Tensor | None = None, **options: bool) -> Firings:
    (batch,) = Text(tokens, mask, at_once=len(tokens))
    return Firings.of(batch, lookup(table, **options), first=3)


@pytest.mark.parametrize("sparse", [False, True])
def test_every_entry_that_counts_is_there_once_ordered_by_feature_and_token(sparse: bool) -> None:
    tokens, table = world(sequences=5, length=8)
    mask = torch.rand(5, 8) < 0.8
    firings = firings_of(table, tokens, mask, sparse=sparse)
    expected = {
        (f, s, p): table[s * 8 + p, f]
        for s in range(5)
        for p in range(8)
        for f in range(table.shape[1])
        if mask[s, p] and table[s * 8 + p, f]
    }
    entries = list(zip(firings.feature, firings.sequence, firings.position, strict=True))
    assert entries == sorted(expected)
    assert np.array_equal(firings.value, np.array([expected[entry] for entry in entries], np.float32))
    assert firings.n_tokens == int(mask.sum())


def test_segments_bound_the_runs_of_a_feature_and_groups_those_within_a_sequence() -> None:
    tokens, table = world(sequences=5, length=8, density=0.3)
    firings = firings_of(table, tokens)
    for i, feature in enumerate(firings.features):
        run = slice(firings.segments[i], firings.segments[i + 1])
        assert (firings.feature[run] == feature).all()
    assert firings.segments[-1] == len(firings.feature) == firings.groups[-1]
    pairs = [(firings.feature[g], firings.sequence[g]) for g in firings.groups[:-1]]
    assert pairs == sorted({*zip(firings.feature.tolist(), firings.sequence.tolist(), strict=True)})


def test_a_batch_without_firings_is_empty() -> None:
    tokens, table = world(sequences=2, length=4)
    assert len(firings_of(table * 0, tokens).feature) == 0
    assert len(firings_of(table, tokens, torch.zeros(2, 4, dtype=torch.bool)).feature) == 0


def test_tokens_out_of_their_sequences_are_refused() -> None:
    tokens, table = world(sequences=2, length=4)
    flat = ActivationBatch({SITE: torch.zeros(8, D)}, tokens.reshape(-1))
    with pytest.raises(MismatchError, match="whole sequences"):
        Firings.of(flat, lookup(table), 0)


def test_activations_that_are_not_finite_are_refused() -> None:
    tokens, table = world(sequences=2, length=4)
    table[5, 2] = np.nan
    with pytest.raises(DataError, match="token 5"):
        firings_of(table, tokens)


def test_columns() -> None:
    key = np.random.default_rng(0).integers(0, 2**61, 1000)
    assert np.array_equal(order_of(key), np.argsort(key, kind="stable"))
    assert np.array_equal(order_of(key % 7), np.argsort(key % 7, kind="stable"))
    assert rank_in_runs(np.array([4, 4, 7, 7, 7, 4])).tolist() == [0, 1, 0, 1, 2, 0]
    assert spans(np.array([5, 0, 9]), np.array([2, 0, 3])).tolist() == [5, 6, 9, 10, 11]
    lists = Ragged(np.arange(5), np.array([0, 2, 2, 5]))
    assert [part.tolist() for part in (lists.take(np.array([2, 0]))[0], lists[1])] == [[2, 3, 4], []]
    assert Ragged.from_groups(np.array([8, 9]), np.array([1, 1]), 3).lengths.tolist() == [0, 2, 0]
