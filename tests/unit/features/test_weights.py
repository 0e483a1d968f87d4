from __future__ import annotations

import numpy as np
import pytest
import torch
from feature_worlds import lookup
from tiny_text_model import tiny_lm
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from monoscope.core.errors import ModelError
from monoscope.core.site import Site
from monoscope.dictionaries import Autoencoder
from monoscope.dictionaries.variants import TopK
from monoscope.features.weights.directions import directions, largest, neighbors
from monoscope.features.weights.logits import logit_effects, through_norm
from monoscope.models import LanguageModel


@pytest.mark.parametrize("d", [6, 7])
@pytest.mark.parametrize("kind", ["rms", "layer", "none"])
def test_gain_and_centering_of_a_norm_are_found(d: int, kind: str) -> None:
    norm = {"rms": nn.RMSNorm(d), "layer": nn.LayerNorm(d), "none": nn.Identity()}[kind]
    for parameter in norm.parameters():
        nn.init.normal_(parameter)
    with torch.no_grad():
        gain, centers = through_norm(norm, d, torch.zeros(1))
    expected = torch.ones(d) if kind == "none" else norm.weight.detach()
    assert torch.allclose(gain, expected, rtol=1e-3)
    assert centers == (kind == "layer")


def test_what_is_no_norm_is_refused() -> None:
    with pytest.raises(ModelError, match="not a gain"):
        through_norm(nn.Sequential(nn.Linear(6, 6), nn.GELU()), 6, torch.zeros(1))


def tiny_gpt2() -> LanguageModel:
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=40, n_embd=12, n_layer=2, n_head=2, n_positions=16, bos_token_id=0))
    nn.init.normal_(model.transformer.ln_f.weight)
    nn.init.normal_(model.transformer.ln_f.bias)
    return LanguageModel(model)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_effects_are_those_of_the_final_norm_at_a_frozen_scale(family: str) -> None:
    lm = tiny_gpt2() if family == "gpt2" else tiny_lm()
    site, n, d = lm.resolve("1.resid_post"), 5, lm.d_model
    config = Autoencoder.Config(n_features=n)
    dictionary = Autoencoder(config, TopK.Config(k=1).build(n), (site,), (site,), {site: d})
    nn.init.normal_(dictionary.W_dec)
    columns = logit_effects(dictionary, lm)
    norm, W_U, _, _ = lm.unembed()
    # Steps across the residual stream leave the scale alone to first order: there the linear form is the norm
    # itself.
    x = torch.randn(d) * 100
    with torch.no_grad():
        for f in range(n):
            v = dictionary.W_dec[f]
            centered = v - v.mean() if family == "gpt2" else v
            base = x - x.mean() if family == "gpt2" else x
            radial = (centered @ base) / (base @ base) * base  # what the scale's own change takes away
            step = centered - radial
            change = norm((base + step)[None]) @ W_U - norm((base - step)[None]) @ W_U
            linear = through_norm(norm, d, x)[0] * step @ W_U
            scale = base.square().mean().sqrt()
            assert torch.allclose(change[0] / 2 * scale, linear, rtol=1e-2, atol=1e-2 * float(linear.abs().max()))
            full = through_norm(norm, d, x)[0] * centered @ W_U
            full -= full.mean()
            if lm.tokenizer is not None:
                full = full[: len(lm.tokenizer)] - full[: len(lm.tokenizer)].mean()
            assert columns.lists["pos_tokens"][f].tolist() == full.topk(20).indices.tolist()
            assert columns.lists["neg_values"][f] == pytest.approx(full.sort().values[:20].numpy(), rel=1e-3, abs=1e-5)
            assert columns.lists["logit_counts"][f].sum() == len(full)
            assert columns.scalars["logit_max"][f] == columns.lists["pos_values"][f][0]
            z = (full / full.std(correction=0)) ** 4
            assert columns.scalars["logit_kurtosis"][f] == pytest.approx(float(z.mean()) - 3, rel=1e-3, abs=1e-3)


@pytest.mark.parametrize("site", ["1.mlp_in", "1.q"])
def test_off_the_residual_stream_there_are_no_effects(site: str) -> None:
    lm, place = tiny_lm(), Site.parse(site)
    dictionary = Autoencoder(
        Autoencoder.Config(n_features=3), TopK.Config(k=1).build(3), (place,), (place,), {place: lm.width(place)}
    )
    columns = logit_effects(dictionary, lm)
    assert not len(columns.lists["pos_tokens"].values)
    assert np.isnan(columns.scalars["logit_max"]).all()


def test_neighbors_are_the_nearest_living_rows() -> None:
    rows = torch.randn(30, 5)
    alive = torch.rand(30) < 0.6
    ids, cosine, keep = neighbors(rows, alive)
    unit = rows / rows.norm(dim=1, keepdim=True)
    full = (unit @ unit.T).fill_diagonal_(-2)
    full[:, ~alive] = -2
    assert keep.all()
    assert np.array_equal(ids, full.topk(10).indices.numpy())
    assert cosine == pytest.approx(full.topk(10).values.numpy())


@pytest.mark.parametrize("m", [60, 700, 5000])
def test_the_largest_entries_are_those_of_a_sort(m: int) -> None:
    x = torch.randn(9, m, generator=torch.Generator().manual_seed(0))
    x[:, 3] = x[:, m - 1] = 9.0
    values, places = largest(x, 10)
    torch.testing.assert_close(values, x.sort(dim=1, descending=True).values[:, :10], rtol=0, atol=0)
    torch.testing.assert_close(x.gather(1, places), values, rtol=0, atol=0)
    assert {3, m - 1} <= set(places[0].tolist())


def test_with_few_living_features_lists_are_shorter() -> None:
    dictionary = lookup(np.zeros((4, 3)))
    columns = directions(dictionary, np.array([True, True, False]))
    assert columns.lists["dec_neighbors"].lengths.tolist() == [1, 1, 2]
    assert columns.scalars["dec_norm"] == pytest.approx(dictionary.W_dec.detach().norm(dim=1).numpy())
    cosine = nn.functional.cosine_similarity(dictionary.W_dec, dictionary.W_enc.T)
    assert columns.scalars["enc_dec_cos"] == pytest.approx(cosine.detach().numpy(), rel=1e-5)
