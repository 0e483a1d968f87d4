"""Attention weights of every family: with them alone, patterns, heads and attention outputs are the model's own."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import transformers as hf
from tiny_models import COMMON, GROUPED, MODELS, ROPE, SCALED_ROPE, model, scaled, some_tokens, with_random_weights
from torch import Tensor

from monoscope.core.attention import AttentionWeights
from monoscope.core.errors import ModelError, SiteError
from monoscope.core.site import Site
from monoscope.dictionaries.attention import attended, pattern, projected
from monoscope.models import LanguageModel


def queries_keys(weights: AttentionWeights, x: Tensor, real: Tensor | None = None) -> tuple[Tensor, Tensor]:
    def project(weight: Tensor, bias: Tensor, norm: tuple[Tensor, Tensor] | None) -> Tensor:
        each = (None, None) if norm is None else tuple(t.expand(weights.n_heads, -1) for t in norm)
        return projected(x, weight, bias, each, weights.form, real)

    return project(weights.W_Q, weights.b_Q, weights.q_norm), project(weights.W_K, weights.b_K, weights.k_norm)


def values(weights: AttentionWeights, x: Tensor) -> Tensor:
    return torch.einsum("std,hde->shte", x, weights.W_V) + weights.b_V[:, None]


def check_layer(lm: LanguageModel, layer: int, stack: Any, tokens: Tensor) -> None:
    weights = lm.attention(layer, stack)
    sites = {kind: lm.resolve(Site(layer, kind, stack)) for kind in ("attn_in", "pattern", "z", "attn_out")}
    read = lm.read(tokens, list(sites.values()))
    x = read[sites["attn_in"]]
    q, k = queries_keys(weights, x)
    torch.testing.assert_close(pattern(q, k, weights.form, None), read[sites["pattern"]], rtol=1e-4, atol=1e-5)
    z = attended(q, k, values(weights, x), weights.form, None)
    torch.testing.assert_close(z.transpose(1, 2).flatten(-2), read[sites["z"]], rtol=1e-4, atol=1e-4)
    out = torch.einsum("shte,hed->std", z, weights.W_O) + weights.b_O
    target = read[sites["attn_out"]]
    if weights.has_norm_behind:  # one factor for each token
        out, target = (t / t.norm(dim=-1, keepdim=True) for t in (out, target))
    torch.testing.assert_close(out, target, rtol=1e-4, atol=1e-4)


JOINT_NORMS = ("olmo2", "olmo3")


@pytest.mark.parametrize("name", [name for name in MODELS if name not in JOINT_NORMS])
def test_the_weights_are_the_models_attention(name: str) -> None:
    lm = model(name)
    tokens = some_tokens(lm, pos=12)
    for stack, blocks in lm._layout.blocks.items():
        for layer in range(len(blocks)):
            check_layer(lm, layer, stack, tokens)


@pytest.mark.parametrize("name", JOINT_NORMS)
def test_norms_over_all_heads_are_refused(name: str) -> None:
    with pytest.raises(ModelError, match="over all heads at once"):
        model(name).attention(0)


@pytest.mark.parametrize("kind", SCALED_ROPE)
def test_scaled_rotary_positions(kind: str) -> None:
    lm = scaled(kind)
    check_layer(lm, 1, "", torch.randint(3, 90, (2, 40)))
    rotary, plain = lm.attention(1).form.rotary, model("llama").attention(1).form.rotary
    assert rotary is not None
    assert plain is not None
    assert rotary.frequencies != plain.frequencies


def test_llama3_frequencies_follow_their_formula() -> None:
    """By wavelength: long ones slowed by the factor, short ones as they are, a blend between."""
    rotary = scaled("llama3").attention(0).form.rotary
    assert rotary is not None
    for j, found in enumerate(rotary.frequencies):
        plain = 100.0 ** (-2 * j / 8)
        wavelength = 2 * math.pi / plain
        share = min(max((16 / wavelength - 1.0) / (4.0 - 1.0), 0.0), 1.0)
        assert found == pytest.approx((1 - share) * plain / 8 + share * plain, rel=1e-5)


def test_layers_without_positions_and_scales_by_layer() -> None:
    without = with_random_weights(hf.SmolLM3ForCausalLM(hf.SmolLM3Config(**GROUPED, no_rope_layers=[1, 0, 1])))
    assert [without.attention(layer).form.rotary is None for layer in range(3)] == [False, True, False]
    check_layer(without, 1, "", some_tokens(without))
    by_layer = hf.GPT2Config(vocab_size=100, n_embd=32, n_layer=3, n_head=4, scale_attn_by_inverse_layer_idx=True)
    check_layer(with_random_weights(hf.GPT2LMHeadModel(by_layer)), 2, "", torch.randint(3, 90, (2, 9)))


def test_forms_say_what_each_family_does() -> None:
    forms = {name: model(name).attention(0).form for name in ("qwen2", "qwen3", "gemma2", "gpt2", "gpt_neox", "phi")}
    assert [name for name, form in forms.items() if form.bias] == ["qwen2", "gpt2", "gpt_neox", "phi"]
    assert {name: form.norm for name, form in forms.items() if form.norm != "none"} == {"qwen3": "rms", "phi": "layer"}
    assert forms["qwen3"].d_head == 16
    assert (forms["gemma2"].softcap, forms["gemma2"].window, forms["gemma2"].scale) == (50.0, 6, 16.0)
    assert model("gemma2").attention(1).form.window is None
    assert forms["gpt2"].rotary is None
    turned = {name: len(forms[name].rotary.frequencies) for name in ("gpt_neox", "phi")}  # type: ignore[union-attr]
    assert turned == {"gpt_neox": 1, "phi": 2}
    assert not model("bert").attention(0).form.is_causal


def test_attention_that_is_not_described_is_refused() -> None:
    bloom = LanguageModel(hf.BloomForCausalLM(hf.BloomConfig(vocab_size=100, hidden_size=32, n_layer=1, n_head=4)))
    with pytest.raises(ModelError, match="ALiBi"):
        bloom.attention(0)
    rope = ROPE | {"rope_type": "dynamic", "factor": 4.0}
    dynamic = LanguageModel(hf.LlamaForCausalLM(hf.LlamaConfig(**COMMON, rope_parameters=rope)))
    with pytest.raises(ModelError, match="'dynamic'.*changes with the length"):
        dynamic.attention(0)
    with pytest.raises(SiteError, match=r"no attention in layer 7.*0\.\.2"):
        model("llama").attention(7)
    with pytest.raises(SiteError, match=r"encoder: 0\.\.2, decoder: 0\.\.1"):
        model("bart").attention(0)
