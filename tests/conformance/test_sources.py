"""What every source of activations must do, whatever it reads."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_text_model import TEXT, chats, tiny_lm, tiny_tokenizer

from monoscope.core.batch import ActivationBatch
from monoscope.core.errors import MismatchError
from monoscope.harvest import (
    ActivationSource,
    ActivationStore,
    SkipPolicy,
    TokenWindows,
    World,
    ahead,
    from_array,
    harvest,
    live,
    repeat,
    sequences,
    shuffle,
    synthetic,
    take,
    together,
)

SITES = ["0.resid_post", "1.mlp_out"]
ELSEWHERE = "memory://conformance/acts"
BATCHES = 24  # read of a source, at most


def windows(n: int | None = None) -> TokenWindows:
    return TokenWindows.from_text(TEXT, tiny_tokenizer(), context=12)[:n]


def reading(**options: Any) -> ActivationSource:
    return live(tiny_lm(), windows(), SITES, windows_per_batch=4, **options)


def chatting() -> ActivationSource:
    texts = ("".join(f"<bos>{m['content']}<eos>" for m in messages) for messages in chats(40))
    made = TokenWindows.from_sequences(texts, tiny_tokenizer(), context=40)
    return live(tiny_lm(), made.shuffled(0, at_once=4), SITES, windows_per_batch=4, skip=SkipPolicy(special=True))


def both(**options: Any) -> ActivationSource:
    models = {"base": tiny_lm(), "tuned": tiny_lm(1)}
    return together({name: live(lm, windows(), SITES, windows_per_batch=4, **options) for name, lm in models.items()})


def rows(seed: int | None = None) -> ActivationSource:
    return from_array(torch.randn(50, 3, generator=torch.Generator().manual_seed(0)), seed=seed, batch_tokens=8)


def world(tokens: int | None = 100) -> ActivationSource:
    return synthetic(World(n_features=9, d=4, p_max=0.3, noise=0.1), tokens=tokens, batch_tokens=16)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("store") / "acts"
    harvest(reading(), path, shard_tokens=40)
    harvest(reading(), ELSEWHERE, shard_tokens=40)
    return path


SOURCES: dict[str, Callable[[Path], ActivationSource]] = {
    "live": lambda store: reading(),
    "live, skipping norms": lambda store: reading(skip=SkipPolicy(norm=1.2)),
    "live, window order shuffled": lambda store: live(tiny_lm(), windows().shuffled(1), SITES, windows_per_batch=2),
    "stored": lambda store: ActivationStore(store),
    "stored elsewhere": lambda store: ActivationStore(ELSEWHERE),
    "stored, other batches": lambda store: ActivationStore(store, rows_per_batch=4),
    "array": lambda store: rows(),
    "array, shuffled": lambda store: rows(seed=2),
    "synthetic": lambda store: world(),
    "synthetic, endless": lambda store: world(None),
    "shuffled live": lambda store: shuffle(reading(), 40, 1, batch_tokens=10),
    "shuffled store": lambda store: shuffle(ActivationStore(store), 30, 2, batch_tokens=7),
    "shuffled whole": lambda store: shuffle(rows(), 10_000, batch_tokens=9),
    "shuffled twice": lambda store: shuffle(shuffle(rows(), 20, batch_tokens=5), 10, batch_tokens=4),
    "repeated": lambda store: repeat(reading(), 2),
    "repeated without end": lambda store: repeat(rows(seed=0)),
    "shuffled, repeated": lambda store: repeat(shuffle(rows(), 20, batch_tokens=12), 3),
    "repeated, shuffled": lambda store: shuffle(repeat(reading()), 60, batch_tokens=16),
    "sequences": lambda store: sequences(reading(), 60),
    "sequences, repeated": lambda store: sequences(repeat(reading()), 84),
    "sequences of a store": lambda store: repeat(sequences(ActivationStore(store), 24), 2),
    "sequences, shuffled": lambda store: shuffle(sequences(reading(), 36), 40, batch_tokens=9),
    "two models": lambda store: both(),
    "two models, skipping norms": lambda store: both(skip=SkipPolicy(norm=1.2)),
    "a store and a model": lambda store: together({"": ActivationStore(store), "live": reading()}),
    "two models, shuffled": lambda store: shuffle(both(), 40, 1, batch_tokens=10),
    "two models, sequences": lambda store: sequences(both(), 60),
    "conversations": lambda store: chatting(),
    "conversations, shuffled": lambda store: shuffle(chatting(), 60, 1, batch_tokens=16),
    "conversations, sequences": lambda store: sequences(chatting(), 100),
    "taken": lambda store: take(repeat(rows(seed=1)), 120),
    "taken, shuffled": lambda store: shuffle(take(repeat(ActivationStore(store)), 300), 50, batch_tokens=16),
    "endless world, shuffled": lambda store: shuffle(world(None), 64, batch_tokens=16),
    "read ahead": lambda store: ahead(reading(skip=SkipPolicy(norm=1.2)), "cpu"),
    "store, shuffled, read ahead": lambda store: ahead(shuffle(ActivationStore(store), 30, batch_tokens=7), "cpu", 5),
    "repeated without end, read ahead": lambda store: ahead(repeat(rows(seed=0)), "cpu", 1),
}


ENDLESS = {
    "synthetic, endless",
    "repeated without end",
    "repeated, shuffled",
    "sequences, repeated",
    "endless world, shuffled",
    "repeated without end, read ahead",
}


@pytest.fixture(params=SOURCES)
def make(request: pytest.FixtureRequest, stored: Path) -> Callable[[], ActivationSource]:
    """Makes the same source again and again."""
    return lambda: SOURCES[request.param](stored)


@pytest.fixture(params=[name for name in SOURCES if name not in ENDLESS])
def make_ending(request: pytest.FixtureRequest, stored: Path) -> Callable[[], ActivationSource]:
    """Makes the same source, of data that end, again and again."""
    return lambda: SOURCES[request.param](stored)


def read(source: ActivationSource, n: int = BATCHES) -> list[ActivationBatch]:
    return list(islice(source, n))


def tensors(batch: ActivationBatch) -> Iterator[torch.Tensor]:
    yield from batch.activations.values()
    yield from (x for x in (batch.tokens, batch.mask, batch.positions, batch.documents) if x is not None)


def same(a: list[ActivationBatch], b: list[ActivationBatch]) -> bool:
    return len(a) == len(b) and all(
        torch.equal(x, y)
        for left, right in zip(a, b, strict=True)
        for x, y in zip(tensors(left), tensors(right), strict=True)
    )


def test_resuming_gives_the_same_batches(make: Callable[[], ActivationSource]) -> None:
    uninterrupted = read(make())
    for n in {0, 1, 5, 12, len(uninterrupted) - 1, len(uninterrupted)}:
        if n > len(uninterrupted):
            continue
        stopped = make()
        batches = iter(stopped)
        for _ in range(n):
            next(batches)
        resumed = make()
        resumed.load_state_dict(json.loads(json.dumps(stopped.state_dict())))
        assert same(read(resumed, BATCHES - n), uninterrupted[n:]), f"after {n} batches"


def test_resuming_crosses_into_the_next_pass(make_ending: Callable[[], ActivationSource]) -> None:
    source = make_ending()
    n = sum(1 for _ in source)
    expected = read(source)
    stopped = make_ending()
    batches = iter(stopped)
    for _ in range(n):
        next(batches)
    resumed = make_ending()
    resumed.load_state_dict(json.loads(json.dumps(stopped.state_dict())))
    assert read(resumed) == []
    assert same(read(resumed), expected)


def test_an_iteration_given_up_goes_on_where_it_stopped(make: Callable[[], ActivationSource]) -> None:
    uninterrupted, source = read(make()), make()
    first = read(source, 2)
    assert same(first + read(source, BATCHES - 2), uninterrupted)


def test_loading_a_position_goes_back(make: Callable[[], ActivationSource]) -> None:
    source = make()
    start = source.state_dict()
    first = read(source, 3)
    source.load_state_dict(start)
    assert same(read(source, 3), first)


def test_the_next_pass_has_the_same_tokens(make_ending: Callable[[], ActivationSource]) -> None:
    source = make_ending()
    passes = [list(source), list(source)]
    for site in source.sites:
        a, b = (torch.cat([batch.flat().activations[site] for batch in batches]) for batches in passes)
        assert torch.equal(a.sort(0).values, b.sort(0).values)


def test_sites_and_widths_are_true(make: Callable[[], ActivationSource]) -> None:
    source = make()
    assert set(source.widths) == set(source.sites)
    for batch in read(source):
        assert tuple(batch.activations) == source.sites
        assert {site: x.shape[-1] for site, x in batch.activations.items()} == source.widths
        shapes = {x.shape[:-1] for x in batch.activations.values()}
        shapes |= {x.shape for x in (batch.tokens, batch.mask, batch.positions) if x is not None}
        assert len(shapes) == 1


def test_tokens_are_as_many_as_said(make_ending: Callable[[], ActivationSource]) -> None:
    source = make_ending()
    if source.n_tokens is not None:
        assert sum(batch.n_tokens for batch in source) == source.n_tokens


def test_flat_batches_hold_the_tokens_that_count(make: Callable[[], ActivationSource]) -> None:
    for batch in read(make(), 5):
        flat = batch.flat()
        assert flat.mask is None
        assert flat.n_tokens == batch.n_tokens
        for site, x in batch.activations.items():
            expected = x if batch.mask is None else x[batch.mask]
            assert torch.equal(flat.activations[site], expected.flatten(0, -2))
            assert flat.activations[site].isfinite().all()
        if flat.tokens is not None:
            assert (flat.tokens > 2).all()
            assert (flat.positions > 0).all()


def test_provenance_is_json_and_does_not_change(make: Callable[[], ActivationSource]) -> None:
    source = make()
    before = {key: value for key, value in source.info.items() if key != "excluded"}
    read(source, 3)
    after = {key: value for key, value in source.info.items() if key != "excluded"}
    assert json.loads(json.dumps(before)) == json.loads(json.dumps(after))
    assert "kind" in before


def test_counts_of_what_was_excluded_are_resumed(make: Callable[[], ActivationSource]) -> None:
    source = make()
    if "excluded" not in source.info or source.info["kind"] == "store":
        return
    read(source, 2)
    resumed = make()
    resumed.load_state_dict(source.state_dict())
    read(source, 1), read(resumed, 1)
    assert resumed.info["excluded"] == source.info["excluded"]


def test_positions_are_small_whatever_is_held(make: Callable[[], ActivationSource]) -> None:
    source = make()
    read(source, 3)
    assert len(json.dumps(source.state_dict())) < 2000


def test_a_position_of_other_data_is_refused(stored: Path) -> None:
    for source, other in [
        (reading(), live(tiny_lm(), windows(5), SITES)),
        (ActivationStore(stored), reading()),
        (rows(), rows(seed=1)),
        (world(), synthetic(World(n_features=9, d=4, p_max=0.2))),
        (shuffle(rows(), 20), shuffle(rows(), 20, seed=1)),
        (both(), together({"base": reading(), "other": reading()})),
    ]:
        with pytest.raises(MismatchError, match="taken in another source"):
            source.load_state_dict(other.state_dict())


def test_stored_is_live(stored: Path) -> None:
    assert same(read(ActivationStore(stored)), read(reading()))


def test_shuffled_store_is_shuffled_live(stored: Path) -> None:
    a = shuffle(ActivationStore(stored), 50, batch_tokens=16)
    assert same(read(a), read(shuffle(reading(), 50, batch_tokens=16)))
