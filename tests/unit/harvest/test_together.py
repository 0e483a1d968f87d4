from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_text_model import TEXT, tiny_lm, tiny_tokenizer

from monoscope.core.errors import ConfigError, MismatchError, SiteError
from monoscope.core.site import Site
from monoscope.harvest import (
    ActivationSource,
    ActivationStore,
    SkipPolicy,
    TokenWindows,
    World,
    from_array,
    harvest,
    live,
    shuffle,
    synthetic,
    together,
)
from monoscope.models import LanguageModel

SITES = ["0.resid_post", "1.mlp_out"]
FIRST = Site(0, "resid_post")


def windows(context: int = 12) -> TokenWindows:
    return TokenWindows.from_text(TEXT, tiny_tokenizer(), context=context)


def reading(seed: int = 0, **options: Any) -> ActivationSource:
    return live(tiny_lm(seed), windows(), SITES, **{"windows_per_batch": 4, **options})


def test_each_model_is_read_at_its_sites() -> None:
    source = together({"base": reading(), "tuned": reading(1)})
    assert [str(site) for site in source.sites] == [
        "0.resid_post@base",
        "1.mlp_out@base",
        "0.resid_post@tuned",
        "1.mlp_out@tuned",
    ]
    assert source.widths == dict.fromkeys(source.sites, 16)
    assert source.n_tokens == reading().n_tokens
    for batch, base, tuned in zip(source, reading(), reading(1), strict=True):
        assert torch.equal(batch.activations[FIRST.of("base")], base.activations[FIRST])
        assert torch.equal(batch.activations[FIRST.of("tuned")], tuned.activations[FIRST])
        assert not torch.equal(base.activations[FIRST], tuned.activations[FIRST])


def test_a_token_counts_where_it_counts_in_all() -> None:
    skip = SkipPolicy(norm=1.2)
    source = together({"base": reading(skip=skip), "tuned": reading(1, skip=skip)})
    assert source.n_tokens is None
    differ = 0
    for batch, base, tuned in zip(source, reading(skip=skip), reading(1, skip=skip), strict=True):
        assert base.mask is not None
        assert tuned.mask is not None
        assert batch.mask is not None
        assert torch.equal(batch.mask, base.mask & tuned.mask)
        differ += int((base.mask != tuned.mask).sum())
    assert differ > 0


def test_shuffled_together_the_pairs_stay_together() -> None:
    mixed = shuffle(together({"base": reading(), "tuned": reading(1)}), 100, batch_tokens=16)
    pairs = {}
    for base, tuned in zip(reading(), reading(1), strict=True):
        a, b = base.flat().activations[FIRST], tuned.flat().activations[FIRST]
        pairs |= {tuple(x.tolist()): tuple(y.tolist()) for x, y in zip(a, b, strict=True)}
    n = 0
    for batch in mixed:
        for x, y in zip(batch.activations[FIRST.of("base")], batch.activations[FIRST.of("tuned")], strict=True):
            assert pairs[tuple(x.tolist())] == tuple(y.tolist())
            n += 1
    assert n == reading().n_tokens


def test_provenance_says_what_is_shared_and_what_is_not() -> None:
    info = together({"base": reading(), "tuned": reading(1)}).info
    assert info["kind"] == "together"
    assert info["bos"] == "window"
    assert info["windows"] == reading().info["windows"]
    assert info["sources"]["base"] == {"model": reading().info["model"]}
    assert info["sources"]["tuned"]["model"]["fingerprint"] == tiny_lm(1).fingerprint()
    assert info["excluded"] == reading().info["excluded"]


def test_what_was_read_together_is_stored(tmp_path: Path) -> None:
    source = together({"base": reading(), "tuned": reading(1)})
    store = harvest(source, tmp_path / "acts", shard_tokens=40)
    assert store.sites == source.sites
    for a, b in zip(store, together({"base": reading(), "tuned": reading(1)}), strict=True):
        assert all(torch.equal(a.activations[site], b.activations[site]) for site in source.sites)
    with pytest.raises(MismatchError, match="0.resid_post@base has a label already, and would get 'again'"):
        together({"again": ActivationStore(tmp_path / "acts")})
    three = together({"": ActivationStore(tmp_path / "acts"), "third": reading(2)})
    assert len(three.sites) == 6


def test_synthetic_rows_need_no_tokens() -> None:
    world = World(n_features=9, d=4, p_max=0.3)
    source = together({"a": synthetic(world, tokens=50), "b": synthetic(world, tokens=50, seed=1)})
    assert source.n_tokens == sum(batch.n_tokens for batch in source) == 50


def other_vocabulary() -> ActivationSource:
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["new"])
    text = TokenWindows.from_text(TEXT, tokenizer, context=12)
    return live(LanguageModel(tiny_lm().hf, tokenizer, "other"), text, SITES)


def rows(n: int, batch_tokens: int = 4) -> ActivationSource:
    return from_array(torch.randn(n, 3), batch_tokens=batch_tokens)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: {"a": reading(), "b": other_vocabulary()}, "'a' and 'b' cannot be read together: their vocabularies"),
        (lambda: {"a": reading(), "b": live(tiny_lm(), windows(13), SITES)}, "they read other windows"),
    ],
)
def test_sources_of_other_text_are_refused_at_once(make: Callable[[], dict[str, ActivationSource]], says: str) -> None:
    with pytest.raises(MismatchError, match=says):
        together(make())


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: {"a": rows(8), "b": rows(12)}, "the source 'a' ended before the others"),
        (lambda: {"a": rows(8), "b": rows(8, 2)}, r"'a' is \[4\] and the same of 'b' is \[2\]"),
        (lambda: {"a": shuffle(reading(), 50, 1), "b": shuffle(reading(), 50, 2)}, "gave other tokens"),
        (lambda: {"a": shuffle(reading(), 50), "b": from_array(torch.randn(99, 3))}, r"is \[99\]"),
    ],
)
def test_other_tokens_are_found_in_the_batch(make: Callable[[], dict[str, ActivationSource]], says: str) -> None:
    with pytest.raises(MismatchError, match=says):
        list(together(make()))


def test_a_source_without_tokens_beside_one_with_them() -> None:
    n = reading().n_tokens
    assert n is not None
    with pytest.raises(MismatchError, match="'a' gives tokens and the other source does not"):
        list(together({"a": shuffle(reading(), 50, batch_tokens=n), "b": rows(n, n)}))


def test_labels() -> None:
    with pytest.raises(ConfigError, match="no sources"):
        together({})
    with pytest.raises(SiteError, match="letters, digits"):
        together({"a b": reading()})
    with pytest.raises(MismatchError, match=r"two of the sources give 0.resid_post@b"):
        together({"": from_array(torch.randn(3, 2), "0.resid_post@b"), "b": reading()})
    with pytest.raises(
        SiteError, match=r"labeled 'base', and LlamaForCausalLM alone has no label; write '0.resid_post'"
    ):
        live(tiny_lm(), windows(), ["0.resid_post@base"])
