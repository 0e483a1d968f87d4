"""Lorsa in training, from the model's attention, and in the model's forward pass."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_text_model import TEXT, tiny_lm

from monoscope.core.config import read_toml
from monoscope.core.errors import ConfigError, MismatchError
from monoscope.core.site import Site
from monoscope.dictionaries import Lorsa, load
from monoscope.dictionaries.initialize import Initialization, Origin, Sample
from monoscope.dictionaries.variants import TopK
from monoscope.evals import evaluate
from monoscope.features import analyze
from monoscope.harvest import ActivationSource, TokenWindows, live
from monoscope.interventions import ablate, splice
from monoscope.models import LanguageModel
from monoscope.training import train

IN, OUT = Site(1, "attn_in"), Site(1, "attn_out")
SITES: dict[str, Any] = {"reads": [IN], "writes": [OUT]}
RECIPE = {"wiring": {"kind": "lorsa", "n_features": 64}, "function": {"kind": "topk", "k": 4}}


def windows(lm: LanguageModel) -> TokenWindows:
    return TokenWindows.from_text(TEXT * 4, lm.tokenizer, context=24)


def source(lm: LanguageModel) -> ActivationSource:
    return live(lm, windows(lm), [IN, OUT])


def whole_attention(lm: LanguageModel) -> Lorsa:
    """A Lorsa whose pre-activations are the attention's values: one feature for each."""
    origin = Origin(attention=lm.attention(1))
    config = Lorsa.Config(n_features=16).completed(origin)
    lorsa = config.build(TopK.Config(k=16), (IN,), (OUT,), {IN: 16, OUT: 16})
    x = torch.randn(2, 9, 16)
    ones = torch.ones(1)
    lorsa.initialize_(Initialization(), Sample(x, x, ones, ones, origin), torch.Generator())
    return lorsa.frozen()


@pytest.mark.parametrize("function", [{"kind": "topk", "k": 4}, {"kind": "batch_topk", "k": 4}])
def test_it_learns_and_knows_its_form(function: dict[str, Any], tmp_path: Path) -> None:
    lm = tiny_lm()
    settings: dict[str, Any] = {"batch_tokens": 240, "seed": 0, "log_every": 1}
    recipe = RECIPE | {"function": function}
    first = train(recipe, source(lm), **SITES, lm=lm, tokens=240, **settings)
    longer = train(recipe, source(lm), **SITES, lm=lm, tokens=24_000, out=tmp_path / "run", **settings)
    assert isinstance(longer, Lorsa)
    assert longer.n_heads == 2 * 4
    assert longer.config.attention == lm.attention(1).form
    assert read_toml(tmp_path / "run" / "training.toml")["runs"][""]["recipe"]["wiring"]["n_heads"] == 8
    back = load(tmp_path / "run")
    assert back.fingerprint() == longer.fingerprint()
    before, after = (evaluate(lm, dictionary, windows(lm)) for dictionary in (first, back))
    assert after.fidelity.fvu < 0.5 * before.fidelity.fvu
    assert 2 < after.firing.l0 < 5


def test_patterns_learn_at_a_tenth_of_the_rate() -> None:
    lm = tiny_lm()
    settings: dict[str, Any] = {"tokens": 240, "batch_tokens": 240, "seed": 0}
    rate = {"optimizer": {"kind": "sign", "lr": 1e-3, "momentum": 0.0}, "schedules": {}}
    still = {"optimizer": {"kind": "sign", "lr": 1e-12, "momentum": 0.0}, "schedules": {}}
    recipe = RECIPE | {"normalize": "none"}
    moved, start = (train(recipe, source(lm), **SITES, lm=lm, **settings, **how) for how in (rate, still))
    steps = {
        name: (moved.get_parameter(name) - start.get_parameter(name)).abs().max().item() for name in ("W_Q", "W_dec")
    }
    assert steps["W_dec"] == pytest.approx(1e-3, rel=0.01)
    assert steps["W_Q"] == pytest.approx(1e-4, rel=0.01)


def test_without_the_model_the_form_has_to_be_said() -> None:
    lm = tiny_lm()
    with pytest.raises(ConfigError, match="pass train"):
        train(RECIPE, source(lm), **SITES, tokens=240, batch_tokens=240)
    form = lm.attention(1).form.to_dict()
    told = {**RECIPE, "wiring": {"kind": "lorsa", "n_features": 64, "n_heads": 4, "attention": form}}
    lorsa = train(told, source(lm), **SITES, tokens=480, batch_tokens=240)
    assert isinstance(lorsa, Lorsa)


def test_other_sites_are_refused_before_activations_are_read() -> None:
    lm = tiny_lm()
    with pytest.raises(ConfigError, match=r"lorsa takes its heads from the attention it decomposes"):
        train(RECIPE, live(lm, windows(lm), [OUT]), reads=[OUT], writes=[OUT], lm=lm, tokens=240)


def test_spliced_in_it_reads_what_attention_reads() -> None:
    lm = tiny_lm()
    lorsa = whole_attention(lm)
    tokens = windows(lm).tokens[:3].long()
    x, out = lm.read(tokens, [IN, OUT]).values()
    torch.testing.assert_close(lorsa.preacts(x) @ lorsa.W_dec + lorsa.b_dec, out, rtol=1e-4, atol=1e-6)
    clean = lm.logits(tokens)
    with lm.edit(splice(lorsa, error="keep")):
        torch.testing.assert_close(lm.logits(tokens), clean, rtol=1e-4, atol=1e-5)
    with lm.edit(splice(lorsa, error="drop"), ablate(lorsa, 3)):
        assert not torch.allclose(lm.logits(tokens), clean, rtol=1e-4, atol=1e-5)


def test_it_is_not_spliced_into_parts_of_rows() -> None:
    lm = tiny_lm()
    lorsa = whole_attention(lm)
    tokens = windows(lm).tokens[:2].long()
    with lm.edit(splice(lorsa)), pytest.raises(MismatchError, match="attends to earlier tokens"):
        lm.generate(tokens, max_new_tokens=2)
    mask = torch.ones_like(tokens, dtype=torch.bool)
    mask[0, -3:] = False
    with lm.edit(splice(lorsa)):
        lm.logits(tokens, mask)
        with pytest.raises(MismatchError, match="padding in front"):
            lm.logits(tokens.flip(1), mask.flip(1))


def test_its_features_are_analyzed_in_whole_sequences(tmp_path: Path) -> None:
    lm = tiny_lm()
    lorsa = whole_attention(lm)
    texts = windows(lm)
    bundle = analyze(lorsa, live(lm, texts, [IN, OUT]), tmp_path / "features.mono", lm=lm)
    x = lm.read(texts.tokens.long(), [IN])[IN]
    counts = torch.cat([batch.mask for batch in live(lm, texts, [IN])])
    acts = lorsa.encode(x).dense()[counts]
    assert bundle.column("n_fired").tolist() == (acts != 0).sum(0).tolist()
    assert bundle.column("max_act") == pytest.approx(acts.max(0).values.numpy(), rel=1e-4)
