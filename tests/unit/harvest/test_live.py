from __future__ import annotations

import pytest
import torch
from tiny_text_model import TEXT, tiny_lm, tiny_tokenizer
from torch import Tensor

from monoscope.core.errors import DataError, MismatchError, SiteError
from monoscope.core.site import Site
from monoscope.harvest import SkipPolicy, TokenWindows, live
from monoscope.models import Edit, LanguageModel

SITES = ("0.resid_post", "1.mlp_out")


def windows(context: int = 16) -> TokenWindows:
    return TokenWindows.from_text(TEXT, tiny_tokenizer(), context=context)


def test_batches_are_what_the_model_reads() -> None:
    lm, text = tiny_lm(), windows()
    assert not text.mask.all()
    batches = list(live(lm, text, SITES, windows_per_batch=5))
    assert [len(batch.tokens) for batch in batches] == [5] * (len(text) // 5) + [len(text) % 5]
    for number, batch in enumerate(batches):
        part = text[5 * number : 5 * number + 5]
        read = lm.read(part.tokens.long(), SITES, part.mask)
        assert batch.activations.keys() == read.keys() == {Site.parse(site) for site in SITES}
        for site in read:
            assert torch.equal(batch.activations[site][part.mask], read[site][part.mask])
        assert torch.equal(batch.tokens, part.tokens)
        assert torch.equal(batch.documents, part.documents)
        assert (batch.positions == torch.arange(16)).all()


def test_what_does_not_count_is_counted_by_reason() -> None:
    text = windows()
    special = (text.tokens < 3) & text.mask
    source = live(tiny_lm(), text, SITES)
    n = sum(batch.n_tokens for batch in source)
    assert source.info["excluded"] == {
        "padding": int((~text.mask).sum()),
        "special": int(special.sum()),
        "position": 0,
        "norm": 0,
    }
    assert n == source.n_tokens == int((text.mask & ~special).sum())


def test_positions_are_skipped_where_no_special_token_opens_the_window() -> None:
    text = TokenWindows.from_text(TEXT, tiny_tokenizer(unk_token="<pad>"), context=16, bos="none")
    source = live(tiny_lm(), text, SITES, skip=SkipPolicy(first=2))
    (mask,) = (torch.cat([batch.mask for batch in source]),)
    assert not mask[:, :2].any()
    assert torch.equal(mask[:, 2:], text.mask[:, 2:])
    assert source.info["excluded"]["position"] == int(text.mask[:, :2].sum())


def test_a_policy_can_keep_everything_but_padding() -> None:
    text = windows()
    source = live(tiny_lm(), text, SITES, skip=SkipPolicy(special=False, first=0))
    assert torch.equal(torch.cat([batch.mask for batch in source]), text.mask)


def test_extreme_norms_are_skipped_at_every_site() -> None:
    lm, text = tiny_lm(), windows()

    def inflate(x: Tensor) -> Tensor:
        x = x.clone()
        x[0, 7] *= 1000
        return x

    with lm.edit(Edit.at("1.mlp_out", inflate)):
        source = live(lm, text, SITES, windows_per_batch=len(text), skip=SkipPolicy(norm=50.0))
        (batch,) = source
    assert source.n_tokens is None
    assert source.info["excluded"]["norm"] == 1
    assert not batch.mask[0, 7]
    assert batch.mask[0, 6]
    assert batch.n_tokens == live(lm, text, SITES).n_tokens - 1


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_activations_that_are_not_finite_are_named(value: float) -> None:
    lm, text = tiny_lm(), windows()
    position = int((text.tokens[5] > 2).nonzero()[-1])
    reads = 0

    def spoil(x: Tensor) -> Tensor:
        nonlocal reads
        reads += 1
        x = x.clone()
        x[:, 0] = value  # BOS does not count
        if reads == 2:
            x[1, position, 3] = value
        return x

    with lm.edit(Edit.at("1.mlp_out", spoil)):
        source = live(lm, text, SITES, windows_per_batch=4)
        batches = iter(source)
        next(batches)
        with pytest.raises(
            DataError, match=f"at 1.mlp_out are NaN or infinite in float32: window 5, position {position};"
        ):
            next(batches)


def test_activations_beyond_half_precision_are_named() -> None:
    lm = tiny_lm()
    with lm.edit(Edit.at("1.mlp_out", lambda x: x + 1e5)):
        list(live(lm, windows(), SITES))
        with pytest.raises(DataError, match="infinite in float16"):
            list(live(lm, windows(), SITES, dtype=torch.float16))


def test_activations_come_in_the_dtype_asked_for() -> None:
    batch = next(iter(live(tiny_lm(), windows(), SITES, dtype=torch.bfloat16)))
    assert {x.dtype for x in batch.activations.values()} == {torch.bfloat16}


def test_provenance_names_model_and_text() -> None:
    source = live(tiny_lm(), windows(), SITES)
    assert source.info["model"] == {"name": "tiny", "fingerprint": tiny_lm().fingerprint()}
    assert source.info["windows"] == {"n": len(windows()), "fingerprint": windows().fingerprint}
    assert source.info["bos"] == "window"
    assert source.widths == {Site.parse(site): 16 for site in SITES}


def test_what_does_not_fit_the_model_is_an_error() -> None:
    lm = tiny_lm()
    with pytest.raises(SiteError, match="no layer 9"):
        live(lm, windows(), ["9.resid_post"])
    with pytest.raises(MismatchError, match="windows of 65 tokens do not fit tiny, which reads 64"):
        live(lm, windows(65), SITES)
    with pytest.raises(MismatchError, match="token 300 is not in the vocabulary of tiny, which has 300"):
        live(lm, TokenWindows.from_tokens(torch.full((1, 4), 300)), SITES)
    with pytest.raises(DataError, match="no token windows"):
        live(lm, windows()[:0], SITES)
    other = tiny_tokenizer()
    other.add_tokens(["new"])
    with pytest.raises(MismatchError, match="vocabularies differ"):
        live(LanguageModel(lm.hf, other, "other"), windows(), SITES)
