from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from monoscope.core.batch import ActivationBatch
from monoscope.core.errors import MismatchError
from monoscope.harvest import ActivationSource, from_array, repeat, shuffle


def numbered(n: int, batch_tokens: int = 7) -> ActivationSource:
    """A source whose token i has the activation [i, -i]."""
    x = torch.arange(n).float()
    return from_array(torch.stack([x, -x], 1), batch_tokens=batch_tokens)


def order(source: ActivationSource) -> Tensor:
    """The tokens of a numbered source in the order they come."""
    batches = [batch.activations[source.sites[0]] for batch in source]
    x = torch.cat(batches)
    assert torch.equal(x[:, 0], -x[:, 1])
    return x[:, 0].long()


def displacement(tokens: Tensor) -> Tensor:
    """Places that each token moved."""
    places = torch.empty_like(tokens)
    places[tokens] = torch.arange(len(tokens))
    return places - torch.arange(len(tokens))


@given(st.integers(1, 400), st.integers(1, 150), st.integers(1, 50), st.integers(1, 40))
def test_no_token_is_lost_or_repeated(n: int, tokens: int, batch_tokens: int, source_batch: int) -> None:
    source = shuffle(numbered(n, source_batch), tokens, seed=1, batch_tokens=batch_tokens)
    assert order(source).sort().values.tolist() == list(range(n))


@given(st.integers(1, 300), st.integers(1, 100), st.integers(1, 50))
def test_batches_have_one_size_and_the_last_what_is_left(n: int, tokens: int, batch_tokens: int) -> None:
    source = shuffle(numbered(n), tokens, batch_tokens=batch_tokens)
    sizes = [batch.n_tokens for batch in source]
    assert sizes == [batch_tokens] * (n // batch_tokens) + [n % batch_tokens] * bool(n % batch_tokens)


def test_how_far_tokens_move() -> None:
    buffer, n = 2000, 40_000
    tokens = order(shuffle(numbered(n, 50), buffer, batch_tokens=100))
    moved = displacement(tokens).abs().float() / buffer
    assert 0.38 < moved[2 * buffer : -2 * buffer].mean() < 0.44
    assert moved[: -2 * buffer].max() < 1.05
    assert moved.max() < 1.65
    apart = displacement(tokens).diff().abs().float() / buffer
    assert 0.50 < apart.mean() < 0.57
    # Where a token goes does not depend on its place in its chunk of 800.
    places = tokens.argsort()[8000:8800].float()
    assert abs(torch.corrcoef(torch.stack([places, torch.arange(800.0)]))[0, 1]) < 0.1


def test_a_batch_takes_few_tokens_of_any_window() -> None:
    window, buffer, batch = 50, 2500, 100
    tokens = order(shuffle(numbered(50_000, 100), buffer, batch_tokens=batch))
    windows = tokens[10_000:40_000].reshape(-1, batch) // window
    same = (windows[:, :, None] == windows[:, None, :]).float().mean() * batch / (batch - 1) - 1 / (batch - 1)
    # A batch drawn from 1.6 buffers of tokens holds a pair from one window with this chance; one buffer gives 0.020.
    assert same < 1.1 * window / (1.6 * buffer)


def test_memory_stays_within_the_bound() -> None:
    buffer, source_batch = 1000, 50
    source = shuffle(numbered(20_000, source_batch), buffer, batch_tokens=64)
    for _ in source:
        held = source._pool.capacity  # type: ignore[attr-defined]
    assert held <= buffer + 4 * source_batch


def test_seeds_and_passes_shuffle_differently() -> None:
    source = shuffle(numbered(500), 200, seed=3)
    first, second = order(source), order(source)
    assert not torch.equal(first, second)
    assert torch.equal(order(shuffle(numbered(500), 200, seed=3)), first)
    assert not torch.equal(order(shuffle(numbered(500), 200, seed=4)), first)


def test_resuming_reads_no_more_than_the_chunks_of_one_box() -> None:
    buffer, n = 1000, 50_000
    source = shuffle(numbered(n, 10), buffer, batch_tokens=100)
    batches = iter(source)
    for _ in range(300):
        next(batches)
    state = json.loads(json.dumps(source.state_dict()))
    inner = numbered(n, 10)
    resumed = shuffle(inner, buffer, batch_tokens=100)
    resumed.load_state_dict(state)
    start = inner.state_dict()["row"]
    assert torch.equal(next(iter(resumed)).activations[inner.sites[0]], next(batches).activations[inner.sites[0]])
    assert 0 < inner.state_dict()["row"] - start <= 1.6 * buffer + 2 * 100


def test_the_batch_size_may_change_on_resuming() -> None:
    source = shuffle(numbered(1000), 200, batch_tokens=64)
    batches = iter(source)
    next(batches), next(batches)
    resumed = shuffle(numbered(1000), 200, batch_tokens=10)
    resumed.load_state_dict(source.state_dict())
    assert torch.equal(order(resumed), order(source))


def test_a_position_of_another_shuffle_is_refused() -> None:
    state = shuffle(numbered(1000), 200, seed=1).state_dict()
    with pytest.raises(MismatchError, match="its seed is 1, here it is 2"):
        shuffle(numbered(1000), 200, seed=2).load_state_dict(state)
    with pytest.raises(MismatchError, match="its tokens is 200, here it is 100"):
        shuffle(numbered(1000), 100, seed=1).load_state_dict(state)


def test_tokens_keep_their_ids_and_positions() -> None:
    class Text(ActivationSource):
        def __init__(self) -> None:
            self.inner = numbered(24, 4)
            self.sites, self.widths, self.n_tokens = self.inner.sites, self.inner.widths, 18
            self.info = {}  # type: ignore[misc]

        info = {}  # type: ignore[assignment]  # noqa: RUF012

        def __iter__(self) -> object:
            for batch in self.inner:
                x = batch.activations[self.sites[0]][None]
                ids = x[..., 0].int()
                yield ActivationBatch({self.sites[0]: x}, ids, ids % 4 != 0, ids + 100, ids[:, 0])

        def state_dict(self) -> dict[str, object]:
            return self.inner.state_dict()

        def load_state_dict(self, state: object) -> None:
            self.inner.load_state_dict(state)  # type: ignore[arg-type]

    (batch,) = shuffle(Text(), 100)
    assert batch.mask is None
    assert batch.documents is None
    assert torch.equal(batch.tokens.float(), next(iter(batch.activations.values()))[:, 0])
    assert torch.equal(batch.positions, batch.tokens + 100)
    assert batch.tokens.sort().values.tolist() == [i for i in range(24) if i % 4]


def test_a_repeated_source_is_shuffled_across_its_seams() -> None:
    tokens = order(shuffle(repeat(numbered(100), 5), 80, batch_tokens=16))
    assert tokens.bincount().tolist() == [5] * 100
