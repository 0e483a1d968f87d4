from __future__ import annotations

import numpy as np
import pytest
import torch
from feature_worlds import Text, lookup, world

from monoscope.features.collectors import tokens as module
from monoscope.features.collectors.tokens import TokenStatistics
from monoscope.features.columns import Columns
from monoscope.features.firings import Firings


def collected(table: np.ndarray, tokens: object, *, saved: bool = False) -> Columns:
    statistics = TokenStatistics(table.shape[1])
    for i, batch in enumerate(Text(tokens, at_once=4)):
        if saved:
            state, statistics = statistics.state(), TokenStatistics(table.shape[1])
            statistics.load(state)
        statistics.update(Firings.of(batch, lookup(table), 4 * i))
    return statistics.finish()


def test_what_was_saved_and_went_on_is_the_same_to_the_last_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BUFFER", 1000)
    tokens, table = world(density=0.5, vocab=5)
    whole, saved = collected(table, tokens), collected(table, tokens, saved=True)
    assert len(whole.lists["token_mean_act"].values) > 20
    for name, values in whole.lists.items():
        assert values.values.tobytes() == saved.lists[name].values.tobytes(), name


@pytest.mark.parametrize("buffer", [1, 2**21])
def test_most_frequent_tokens_their_shares_and_means(buffer: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BUFFER", buffer)
    tokens, table = world(density=0.5, vocab=30)
    table[:, 3] = 0
    columns = collected(table, tokens)
    flat = tokens.reshape(-1).numpy()
    for f in range(table.shape[1]):
        values, fired = table[:, f], flat[table[:, f] != 0]
        ids, share, mean = (columns.lists[name][f] for name in ("token_ids", "token_share", "token_mean_act"))
        assert len(ids) == min(20, len(set(fired)))
        if not len(fired):
            assert columns.scalars["top_token_share"][f] == 0
            continue
        count = np.bincount(fired, minlength=30)
        assert share == pytest.approx(np.sort(count)[::-1][:20] / len(fired))
        assert share == pytest.approx(count[ids] / len(fired))
        assert mean == pytest.approx([values[(flat == i) & (values != 0)].mean() for i in ids], rel=1e-5)
        assert (columns.scalars["top_token"][f], columns.scalars["top_token_share"][f]) == (ids[0], share[0])


def test_a_table_that_is_full_forgets_rare_tokens_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BUFFER", 1)
    monkeypatch.setattr(module, "MOST", 24)
    monkeypatch.setattr(module, "KEPT", 20)
    tokens, table = world(n_features=2, sequences=400, density=1.0, vocab=5000)
    often = np.random.default_rng(0).random(tokens.shape) < 0.3
    tokens = tokens.masked_fill(torch.from_numpy(often), 7)
    columns = collected(table, tokens)
    assert columns.scalars["top_token"].tolist() == [7, 7]
    assert columns.scalars["top_token_share"] == pytest.approx([often.mean()] * 2, abs=1e-3)
