from __future__ import annotations

import numpy as np
import pytest
import torch
from feature_worlds import Text, lookup, world

from monoscope.features.collectors.activity import Activity
from monoscope.features.columns import Columns
from monoscope.features.firings import Firings


def collected(table: np.ndarray, tokens: torch.Tensor, at_once: int = 4, mask: torch.Tensor | None = None) -> Columns:
    dictionary = lookup(table)
    activity = Activity(table.shape[1], intervals=5)
    for i, batch in enumerate(Text(tokens, mask, at_once=at_once)):
        activity.update(Firings.of(batch, dictionary, i * at_once))
    return activity.finish()


@pytest.mark.parametrize("signed", [False, True])
def test_statistics_are_those_of_the_values_where_a_feature_fires(signed: bool) -> None:
    tokens, table = world(density=0.4)
    if signed:
        table = table * np.where(np.random.default_rng(1).random(table.shape) < 0.3, -1, 1).astype(np.float32)
    table[:, 2] = 0
    columns = collected(table, tokens)
    scalars, lists = columns.scalars, columns.lists
    for f in range(table.shape[1]):
        values = table[:, f][table[:, f] != 0].astype(np.float64)
        assert scalars["n_fired"][f] == len(values)
        assert scalars["is_dead"][f] == (len(values) == 0)
        if not len(values):
            assert scalars["max_act"][f] == 0
            assert not len(lists["act_counts"][f])
            continue
        assert scalars["density"][f] == pytest.approx(len(values) / len(table))
        assert scalars["n_sequences"][f] == (table[:, f].reshape(40, 32) != 0).any(1).sum()
        assert scalars["max_act"][f] == values.max().astype(np.float32)
        assert scalars["mean_act"][f] == pytest.approx(values.mean(), rel=1e-5)
        assert scalars["std_act"][f] == pytest.approx(values.std(), rel=1e-4)
        assert scalars["first_pos_share"][f] == pytest.approx((table[::32, f] != 0).sum() / len(values))
        assert scalars["p999_act"][f] == pytest.approx(np.quantile(values, 0.999, method="inverted_cdf"), rel=0.02)


@pytest.mark.parametrize("signed", [False, True])
def test_histograms_quantiles_and_shares_are_right_to_the_width_of_a_bin(signed: bool) -> None:
    rng = np.random.default_rng(0)
    tokens, table = world(n_features=3, sequences=200, density=1.0)
    table = np.abs(rng.standard_normal(table.shape)).astype(np.float32) * np.float32([1, 1000, 1e-4])
    if signed:
        table *= np.where(rng.random(table.shape) < 0.5, -1, 1).astype(np.float32)
    lists = collected(table, tokens).lists
    for f in range(3):
        values = table[:, f].astype(np.float64)
        reach = np.abs(values).max()
        edges, counts = lists["act_edges"][f].astype(float), lists["act_counts"][f].astype(float)
        low = values.min() if signed else 0.0
        assert edges == pytest.approx(np.linspace(low, values.max(), 51), rel=1e-5, abs=1e-6 * reach)
        assert counts.sum() == len(values)
        below = np.array([(values <= edge).sum() for edge in edges[1:-1]])
        assert np.abs(np.cumsum(counts)[:-1] - below).max() < 0.01 * len(values)
        exact = np.quantile(values, np.linspace(0, 1, 11))
        assert lists["act_quantiles"][f] == pytest.approx(exact, rel=0.02, abs=0.02 * reach)
        assert lists["act_quantiles"][f][[0, 10]].tolist() == [values.min(), values.max()]
        assert lists["interval_edges"][f] == pytest.approx(reach * np.array([1, 0.8, 0.6, 0.4, 0.2, 0]), rel=1e-5)
        bands = np.clip(np.floor((1 - np.abs(values) / reach) * 5), 0, 4)
        assert lists["interval_share"][f] == pytest.approx(
            np.bincount(bands.astype(int), minlength=5) / len(values), abs=0.01
        )
        assert lists["interval_share"][f].sum() == pytest.approx(1)


@pytest.mark.parametrize("octaves", [6, 15])
def test_a_maximum_that_rises_by_orders_of_magnitude_loses_nothing(octaves: int) -> None:
    tokens, table = world(n_features=2, sequences=12, density=1.0)
    table *= np.repeat(np.float32([1, 2.0 ** (octaves / 2), 2.0**octaves]), 4 * 32)[:, None]
    columns = collected(table, tokens, at_once=1)
    for f in range(2):
        assert columns.lists["act_counts"][f].sum() == len(table)
        assert columns.scalars["max_act"][f] == table[:, f].max()
        above = table[:, f] > table[:, f].max() / 2**12
        q = np.linspace(0, 1, 11)
        exact = np.quantile(table[:, f], q, method="inverted_cdf")
        reachable = q > 1 - above.mean() + 0.05
        assert columns.lists["act_quantiles"][f][reachable] == pytest.approx(exact[reachable], rel=0.05)


@pytest.mark.parametrize("value", [2.0, -2.0])
def test_a_feature_with_a_single_value(value: float) -> None:
    tokens, table = world(n_features=1, sequences=2)
    columns = collected(np.full_like(table, value), tokens)
    assert columns.lists["act_counts"][0].sum() == len(table)
    assert columns.lists["interval_share"][0].tolist() == [1, 0, 0, 0, 0]
    assert set(columns.lists["act_quantiles"][0].tolist()) == {value}


def test_masked_tokens_do_not_count() -> None:
    tokens, table = world(density=0.5)
    mask = torch.ones(tokens.shape, dtype=torch.bool)
    mask[:, 0] = False
    columns = collected(table, tokens, mask=mask)
    assert columns.scalars["first_pos_share"].tolist() == [0.0] * 6
    kept = table.reshape(40, 32, 6)[:, 1:]
    assert columns.scalars["density"] == pytest.approx((kept != 0).mean((0, 1)))
