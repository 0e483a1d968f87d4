from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_text_model import TEXT, tiny_lm, tiny_tokenizer

from monoscope.core.batch import ActivationBatch
from monoscope.core.errors import ConfigError, MismatchError
from monoscope.core.site import Site
from monoscope.harvest import (
    ActivationSource,
    ActivationStore,
    TokenWindows,
    from_array,
    harvest,
    live,
    repeat,
    sequences,
    shuffle,
)

SITES = ["0.resid_post", "1.mlp_out"]


def reading(windows_per_batch: int = 4) -> ActivationSource:
    windows = TokenWindows.from_text(TEXT, tiny_tokenizer(), context=12)
    return live(tiny_lm(), windows, SITES, windows_per_batch=windows_per_batch)


def joined(batches: list[ActivationBatch], name: str) -> torch.Tensor:
    return torch.cat([getattr(batch, name) for batch in batches])


@pytest.mark.parametrize("batch_tokens", [12, 35, 36, 60, 100_000])
def test_every_sequence_comes_once_whole_and_in_order(batch_tokens: int) -> None:
    before, after = list(reading()), list(sequences(reading(), batch_tokens))
    for name in ("tokens", "mask", "positions", "documents"):
        assert torch.equal(joined(after, name), joined(before, name))
    for site in before[0].activations:
        a, b = (torch.cat([batch.activations[site] for batch in batches]) for batches in (after, before))
        assert torch.equal(a, b)
    n = sum(len(batch.documents) for batch in before if batch.documents is not None)
    at_once = batch_tokens // 12
    assert [len(batch.tokens) for batch in after if batch.tokens is not None] == [
        min(at_once, n - first) for first in range(0, n, at_once)
    ]


def test_passes_follow_without_a_seam() -> None:
    batches = list(islice(sequences(repeat(reading()), 60), 9))
    assert {len(batch.documents) for batch in batches if batch.documents is not None} == {5}


def test_a_store_gives_what_the_model_gives(tmp_path: Path) -> None:
    harvest(reading(), tmp_path / "acts", shard_tokens=50)
    for a, b in zip(sequences(ActivationStore(tmp_path / "acts"), 36), sequences(reading(3), 36), strict=True):
        assert torch.equal(joined([a], "tokens"), joined([b], "tokens"))
        assert all(torch.equal(a.activations[site], b.activations[site]) for site in a.activations)


class Lengths(ActivationSource):
    """Batches of two rows each, of given lengths, where every value is one more than the number of its batch."""

    def __init__(self, lengths: list[int]) -> None:
        self.lengths, self.next = lengths, 0
        self.sites, self.widths, self.n_tokens = (Site(0, "resid_post"),), {Site(0, "resid_post"): 3}, None

    @property
    def info(self) -> dict[str, Any]:
        return {"kind": "lengths"}

    def __iter__(self) -> Iterator[ActivationBatch]:
        while self.next < len(self.lengths):
            self.next += 1
            shape = 2, self.lengths[self.next - 1]
            x = torch.full((*shape, 3), float(self.next))
            yield ActivationBatch({self.sites[0]: x}, tokens=torch.full(shape, self.next), documents=torch.arange(2))
        self.next = 0

    def state_dict(self) -> dict[str, Any]:
        return {"next": self.next}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.next = state["next"]


def test_sequences_of_other_lengths_are_padded_to_the_longest() -> None:
    source = sequences(Lengths([3, 5, 2, 9]), 20)
    batches = list(source)
    assert [tuple(batch.activations[source.sites[0]].shape) for batch in batches] == [(4, 5, 3), (2, 2, 3), (2, 9, 3)]
    first = batches[0]
    assert first.mask is not None
    assert first.tokens is not None
    assert first.mask.sum(1).tolist() == [3, 3, 5, 5]
    assert first.tokens[~first.mask].tolist() == [0, 0, 0, 0]
    assert first.flat().activations[source.sites[0]][:, 0].tolist() == [1.0] * 6 + [2.0] * 10
    assert batches[1].mask is None


def test_other_lengths_resume() -> None:
    lengths = [3, 5, 2, 9, 4, 4, 1]
    whole = [joined([batch], "tokens") for batch in sequences(Lengths(lengths), 20)]
    for n in range(len(whole) + 1):
        stopped = sequences(Lengths(lengths), 20)
        batches = iter(stopped)
        for _ in range(n):
            next(batches)
        resumed = sequences(Lengths(lengths), 20)
        resumed.load_state_dict(json.loads(json.dumps(stopped.state_dict())))
        assert all(torch.equal(joined([a], "tokens"), b) for a, b in zip(resumed, whole[n:], strict=True))


def test_single_tokens_are_refused_with_the_reason() -> None:
    with pytest.raises(MismatchError, match="this source is shuffled, token by token: .* give the live source"):
        sequences(shuffle(reading(), 100), 60)
    with pytest.raises(MismatchError, match="the batches of this source are single tokens"):
        next(iter(sequences(from_array(torch.randn(20, 3)), 60)))


def test_a_batch_too_small_for_a_sequence_says_what_would_do() -> None:
    with pytest.raises(ConfigError, match="a batch of 11 tokens holds no sequence of 12; set batch_tokens to 12"):
        next(iter(sequences(reading(), 11)))
