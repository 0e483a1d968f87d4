from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from feature_worlds import world

from monoscope.features import FeatureBundle
from monoscope.features.collectors import contexts as module

Make = Callable[..., FeatureBundle]
SHAPE = (400, 32)


@pytest.fixture(scope="module")
def activations() -> tuple[torch.Tensor, np.ndarray]:
    """Five features on tokens that never repeat: one rare, one signed, one dead."""
    tokens, table = world(n_features=5, sequences=SHAPE[0], length=SHAPE[1], density=0.05)
    tokens = torch.arange(tokens.numel()).view(tokens.shape)
    table[:, 1] *= np.random.default_rng(5).random(len(table)) < 0.02
    table[:, 2] *= np.where(np.random.default_rng(6).random(len(table)) < 0.5, -1, 1)
    table[:, 3] = 0
    return tokens, table


def peaks(table: np.ndarray, f: int) -> np.ndarray:
    """The value of largest magnitude of each sequence."""
    values = table[:, f].reshape(SHAPE)
    return np.take_along_axis(values, np.abs(values).argmax(1)[:, None], axis=1)[:, 0]


def test_the_strongest_contexts_are_the_strongest_sequences(make: Make, activations: tuple) -> None:
    tokens, table = activations
    bundle = make(tokens, table, top=10)
    for f in (0, 1, 4):
        expected = np.sort(peaks(table, f))[::-1]
        expected = expected[expected > 0][:10]
        assert [c.max_act for c in bundle.feature(f).interval(0)] == expected.tolist()


def test_of_a_signed_feature_both_ends_are_shown(make: Make, activations: tuple) -> None:
    tokens, table = activations
    shown = [c.max_act for c in make(tokens, table, top=10).feature(2).interval(0)]
    signed = np.sort(peaks(table, 2))
    assert sorted(shown) == [*signed[:5].tolist(), *signed[-5:].tolist()]
    assert shown == sorted(shown, key=abs, reverse=True)


def test_every_context_shows_its_tokens_and_what_fires_there(make: Make, activations: tuple) -> None:
    tokens, table = activations
    bundle = make(tokens, table, window=12)
    values = table.reshape(*SHAPE, -1)
    for f in range(5):
        for context in bundle.feature(f).contexts:
            row = int(context.token_ids[0]) // SHAPE[1]  # tokens count through the corpus
            where = slice(context.start, context.stop)
            assert list(context.token_ids) == tokens[row, where].tolist()
            assert context.acts == pytest.approx(values[row, where, f], rel=2**-11)
            assert context.stop - context.start == 12
            assert context.start <= context.max_pos < context.stop
            if context.interval >= -1:
                assert context.max_act == values[row, context.max_pos, f]
                assert abs(context.max_act) == np.abs(values[row, :, f]).max()
            else:
                assert not context.acts.any()


def test_intervals_hold_what_belongs_to_them_and_a_sequence_gives_one_context(make: Make, activations: tuple) -> None:
    bundle = make(*activations, top=20, per_interval=4, random=6, negative=5)
    for f in (0, 1, 2, 4):
        feature = bundle.feature(f)
        assert len({c.sequence for c in feature.contexts}) == len(feature.contexts)
        for band in feature.intervals:
            inside = feature.interval(band.number)
            assert all(band.low <= abs(c.max_act) <= band.high for c in inside)
            assert [abs(c.max_act) for c in inside] == sorted((abs(c.max_act) for c in inside), reverse=True)
            assert [c.rank for c in inside] == list(range(len(inside)))
        assert len(feature.interval(-2)) == 5
    counts = [len(bundle.feature(0).interval(i)) for i in (0, 5, -1)]
    assert counts == [20, 4, 6]
    assert not bundle.feature(3).contexts


def test_samples_do_not_depend_on_how_text_is_batched(
    make: Make, activations: tuple, monkeypatch: pytest.MonkeyPatch
) -> None:
    def described(bundle: FeatureBundle) -> list[tuple]:
        return [
            (f, c.interval, c.rank, c.max_act, c.max_pos, c.token_ids, c.dup_of)
            for f in range(5)
            for c in bundle.feature(f).contexts
        ]

    whole = described(make(*activations, {"at_once": 400}))
    monkeypatch.setattr(module, "BUFFER", 1)
    assert described(make(*activations, {"at_once": 7})) == whole


def test_bands_are_sampled_without_preference(make: Make) -> None:
    rng = np.random.default_rng(0)
    tokens = torch.arange(3000 * 4).view(3000, 4)
    table = np.zeros((3000 * 4, 60), np.float32)
    table[::4] = rng.random((3000, 60)) * 0.999
    table[0] = 1.0
    bundle = make(tokens, table, {"at_once": 500}, top=1, per_interval=5, negative=0)
    for band in range(1, 6):
        sampled = [c.max_act for f in range(60) for c in bundle.feature(f).interval(band)]
        low = 1 - band / 5
        assert len(sampled) == 300
        # The mean of 300 draws from a band of width 0.2 has a standard error of 0.0033.
        assert np.mean(sampled) == pytest.approx(low + 0.1, abs=0.012)
    at_random = [c.max_act for f in range(60) for c in bundle.feature(f).interval(-1)]
    assert np.mean(at_random) == pytest.approx(0.5, abs=0.04)


def test_near_identical_contexts_are_folded(make: Make) -> None:
    rng = np.random.default_rng(0)
    passage = rng.integers(1000, 2000, 20)
    tokens = torch.from_numpy(rng.integers(0, 1000, (60, 40)))
    table = np.zeros((60 * 40, 1), np.float32)
    for row in range(20):  # a passage that repeats, wherever it stands, and is the strongest
        tokens[row, row : row + 20] = torch.from_numpy(passage)
        table[row * 40 + row + 12] = 10 - row / 100
    for row in range(20, 60):
        table[row * 40 + 15] = 5 - row / 100
    contexts = make(tokens, table, top=10).feature(0).interval(0)
    twins = [c for c in contexts if c.dup_of is not None]
    assert [c.dup_of for c in twins] == [0]
    assert [c.max_act for c in contexts if c.dup_of is None] == pytest.approx(
        [10, *(5 - r / 100 for r in range(20, 29))]
    )
    everywhere = [c for c in make(tokens, table, top=10).feature(0).contexts if 2000 > c.token_ids[c.peak] >= 1000]
    assert len(everywhere) == 2


def test_look_alikes_stand_on_the_features_token_and_it_is_silent_there(make: Make) -> None:
    rng = np.random.default_rng(0)
    tokens = torch.from_numpy(rng.integers(0, 20, (80, 32)))
    flat = tokens.reshape(-1).numpy()
    table = ((flat == 7) & (np.arange(len(flat)) < 40 * 32)).astype(np.float32)[:, None]  # fires in the first half
    feature = make(tokens, table, window=8).feature(0)
    silent = feature.interval(-2)
    assert len(silent) == 10
    assert [c.token_ids[c.peak] == 7 for c in silent[:5]] == [True] * 5
    assert not any(c.acts.any() for c in silent)


def test_a_feature_that_fires_everywhere_has_no_silent_context(make: Make) -> None:
    tokens, table = world(n_features=1, sequences=10, density=1.0)
    assert not make(tokens, table).feature(0).interval(-2)


def test_padding_and_positions_that_do_not_count_stay_out(make: Make) -> None:
    tokens, table = world(n_features=2, sequences=30, length=16, density=0.3)
    mask = torch.ones(tokens.shape, dtype=torch.bool)
    mask[:, 0] = False
    mask[5:, 10:] = False
    bundle = make(tokens, table, {"mask": mask}, window=8)
    assert bundle.manifest["data"]["skip_first"] == 1
    for f in range(2):
        for context in bundle.feature(f).contexts:
            assert context.stop <= (16 if context.sequence < 5 else 10)
            assert context.max_pos > 0
            assert context.start > 0 or context.acts[0] == 0


def test_the_floor_of_a_context_is_its_document(make: Make) -> None:
    tokens, table = world(n_features=1, sequences=12, density=0.5)
    tokens = torch.arange(tokens.numel()).view(tokens.shape)
    documents = torch.arange(12) // 3 + 100
    for context in make(tokens, table, {"documents": documents}).feature(0).contexts:
        assert context.document == 100 + context.token_ids[0] // tokens.shape[1] // 3
