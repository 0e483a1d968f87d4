"""Dictionaries by position, and the report of a suite, on a tiny model."""

from __future__ import annotations

import pytest
import torch
from tiny_text_model import TEXT, tiny_lm

from monoscope.core.errors import ConfigError, MismatchError
from monoscope.core.site import Site
from monoscope.dictionaries import Dictionary, Recipe
from monoscope.evals.positions import by_position
from monoscope.evals.suite_report import suite_report
from monoscope.harvest import SkipPolicy, TokenWindows, live

SITE = Site(0, "resid_post")
SKIP = SkipPolicy()


def windows(context: int = 16) -> TokenWindows:
    tokenizer = tiny_lm().tokenizer
    assert tokenizer is not None
    return TokenWindows.from_text(TEXT * 4, tokenizer, context=context)


def dictionary(n_features: int = 32, site: Site = SITE) -> Dictionary:
    """Every coordinate of the site and its opposite are a feature each: a perfect reconstruction in 32."""
    wiring = {"kind": "autoencoder", "n_features": n_features, "center": False}
    recipe = Recipe.from_dict({"wiring": wiring, "function": {"kind": "topk", "k": n_features}})
    made = recipe.build((site,), (site,), {site: 16})
    rows = torch.cat([torch.eye(16), -torch.eye(16)])[:n_features]
    with torch.no_grad():
        made.get_parameter("W_enc").copy_(rows.T)
        made.get_parameter("W_dec").copy_(rows)
    return made.frozen()


def test_perfect_reconstructions_add_no_loss_and_half_a_dictionary_does() -> None:
    found = by_position(
        tiny_lm(), {"all": dictionary(), "half": dictionary(16)}, windows(), [0, 4, 16], batch=3, skip=SKIP
    )
    first, last = found["all"].spans
    assert (first.first, first.last, last.first, last.last) == (0, 3, 4, 15)
    assert first.fvu == pytest.approx(0, abs=1e-10)
    assert first.ce_added == pytest.approx(0, abs=1e-5)
    assert found["half"].spans[1].fvu > 0.1
    assert abs(found["half"].spans[1].ce_added or 0) > 1e-4
    assert found["half"].spans[1].ce_clean == last.ce_clean
    assert 0 < found["half"].density.sum() <= 16


def test_spans_are_the_tokens_at_their_positions() -> None:
    half = dictionary(16)
    spans = by_position(tiny_lm(), {"half": half}, windows(), [2, 5, 9], batch=4, skip=SKIP)["half"].spans
    (batch,) = live(tiny_lm(), windows(), [SITE], windows_per_batch=1000)
    assert batch.mask is not None
    assert batch.positions is not None
    for span in spans:
        here = batch.mask & (batch.positions >= span.first) & (batch.positions <= span.last)
        x = batch.activations[SITE][here]
        step = half(x)
        assert span.n_tokens == len(x)
        assert span.fvu == pytest.approx((step.error.pow(2).sum() / (x - x.mean(0)).pow(2).sum()).item(), rel=1e-4)
        assert span.l0 == pytest.approx(step.acts.l0().float().mean().item(), rel=1e-5)


@pytest.mark.parametrize("edges", [[0], [4, 2], [0, 17], [0, 4, 4]])
def test_edges_that_cannot_be_meant(edges: list[int]) -> None:
    with pytest.raises(ConfigError, match=r"edges of positions rise within 0\.\.16"):
        by_position(tiny_lm(), {"all": dictionary()}, windows(), edges, batch=4, skip=SKIP)


def test_dictionaries_that_cannot_be_compared() -> None:
    wiring = {"kind": "autoencoder", "n_features": 8}
    narrow = Recipe.from_dict({"wiring": wiring, "function": {"kind": "topk", "k": 8}}).build(
        (SITE,), (SITE,), {SITE: 8}
    )
    with pytest.raises(MismatchError, match="wrong has 8 values at 0.resid_post, and tiny has 16"):
        by_position(tiny_lm(), {"wrong": narrow}, windows(), [0, 16], batch=4, skip=SKIP)


def test_a_report_compares_contexts_models_and_widths() -> None:
    suite = {"L0.wide": dictionary(32), "L0.narrow": dictionary(16), "L1.wide": dictionary(32, Site(1, "resid_post"))}
    report = suite_report(tiny_lm(), suite, windows(20), trained_context=8, tuned=tiny_lm(1), batch=4, skip=SKIP)
    assert [(span.first, span.last) for span in report.contexts["L0.wide"]] == [
        (0, 3),
        (4, 7),
        (8, 11),
        (12, 15),
        (16, 19),
    ]
    assert report.tuned is not None
    base, tuned = report.tuned["L0.narrow"]
    assert base.fvu != tuned.fvu
    assert list(report.splitting) == ["L0.narrow -> 32"]
    assert report.splitting["L0.narrow -> 32"].kept_share == 1.0
    assert report.neighbors["L0.narrow"].norms == pytest.approx((1, 1, 1))
    text = report.to_markdown()
    assert "| L1.wide |" in text
    assert "FVU, tuned" in text
    assert "FVU 16-19" in text
    alone = suite_report(tiny_lm(), {"a": dictionary()}, windows(20), trained_context=20, batch=4, skip=SKIP)
    assert "## From a width" not in alone.to_markdown()
    assert alone.to_dict()["tuned"] is None
