"""Dictionaries moved to where a model's own tensors are: features and reconstructions stay what they were."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_models import model, some_tokens
from torch import Tensor

from monoscope.core.errors import MismatchError, UserError
from monoscope.core.site import Site
from monoscope.dictionaries import Autoencoder, Dictionary
from monoscope.dictionaries.variants import Gated, JumpReLU, ReLU, TopK
from monoscope.formats.at_model import behind_gain, with_value_biases
from monoscope.interventions import splice
from monoscope.models import LanguageModel

FUNCTIONS = [ReLU.Config(), TopK.Config(k=5), JumpReLU.Config(threshold=0.3), Gated.Config()]


def made(lm: LanguageModel, reads: str, writes: str, function: Any, **config: Any) -> Autoencoder:
    """Random weights."""
    read, written = Site.parse(reads), Site.parse(writes)
    widths = {site: lm.width(site) for site in (read, written)}
    dictionary = Autoencoder.Config(n_features=24, **config).build(function, (read,), (written,), widths)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in dictionary.parameters():
            parameter.copy_(0.4 * torch.randn(parameter.shape, generator=generator))
        dictionary.activation.project_()
    return dictionary.eval()


def read(lm: LanguageModel, *sites: str) -> list[Tensor]:
    torch.manual_seed(0)
    return list(lm.read(some_tokens(lm), sites).values())


def computed(dictionary: Dictionary, x: Tensor) -> tuple[Tensor, Tensor]:
    acts = dictionary.encode(x)
    return acts.dense(), dictionary.decode(acts, x)


WIRINGS: list[dict[str, Any]] = [{"center": True}, {"center": False}, {"center": False, "skip": True}]


@pytest.mark.parametrize("name", ["gpt2", "gpt_neox", "qwen2", "llama"])
@pytest.mark.parametrize("config", [*WIRINGS[:2], {"center": False, "glu": True}])
@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.kind)
def test_values_get_their_bias_back(name: str, config: dict[str, Any], function: Any) -> None:
    lm = model(name)
    if config.get("glu") and function.kind == "gated":
        pytest.skip("no such dictionary")
    bias = lm.attention(1).b_V.flatten()
    assert bias.abs().max() > 0.1
    dictionary = made(lm, "1.z", "1.z", function, **config)
    (z,) = read(lm, "1.z")
    acts, recon = computed(dictionary, z - bias)  # as TransformerLens has it
    moved = with_value_biases(dictionary, lm)
    found_acts, found = computed(moved, z)
    torch.testing.assert_close(found_acts, acts, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found, recon + bias, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(computed(dictionary, z)[0], acts, atol=1e-2)


def test_what_is_written_elsewhere_gets_no_bias() -> None:
    lm = model("gpt2")
    dictionary = made(lm, "1.z", "1.attn_out", TopK.Config(k=5), skip=True)
    (z,) = read(lm, "1.z")
    acts, recon = computed(dictionary, z - lm.attention(1).b_V.flatten())
    found_acts, found = computed(with_value_biases(dictionary, lm), z)
    torch.testing.assert_close(found_acts, acts, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found, recon, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["gemma2", "llama", "gpt2", "gpt_neox", "opt"])
@pytest.mark.parametrize("half", ["attn", "mlp"])
@pytest.mark.parametrize("function", FUNCTIONS[:3], ids=lambda function: function.kind)
def test_transcoders_are_moved_behind_the_gain(name: str, half: str, function: Any) -> None:
    lm = model(name)
    for config in ({}, {"skip": True}, {"glu": True}):
        dictionary = made(lm, f"0.{half}_normalized", f"0.{half}_out", function, **config)
        before, after = read(lm, f"0.{half}_normalized", f"0.{half}_in")
        moved = behind_gain(dictionary, lm)
        assert moved.reads == (Site(0, f"{half}_in"),)
        for one, other in zip(computed(moved, after), computed(dictionary, before), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("config", WIRINGS[:2])
def test_autoencoders_are_moved_with_what_they_write(config: dict[str, Any]) -> None:
    lm = model("gpt2")
    dictionary = made(lm, "1.mlp_normalized", "1.mlp_normalized", TopK.Config(k=5), **config)
    before, after = read(lm, "1.mlp_normalized", "1.mlp_in")
    gain, bias = lm.gain("1.mlp_normalized")
    acts, recon = computed(dictionary, before)
    found_acts, found = computed(behind_gain(dictionary, lm), after)
    torch.testing.assert_close(found_acts, acts, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(found, recon * gain + bias, rtol=1e-3, atol=1e-3)


def test_transcoders_before_the_gain_are_spliced_in() -> None:
    """A site that can only be looked at is read on the way; what the moved one gives is the same."""
    lm = model("gemma2")
    tokens = some_tokens(lm)
    dictionary = made(lm, "1.mlp_normalized", "1.mlp_out", TopK.Config(k=5))
    clean = lm.logits(tokens)
    with lm.edit(splice(dictionary)):
        spliced = lm.logits(tokens)
    with lm.edit(splice(behind_gain(dictionary, lm))):
        torch.testing.assert_close(lm.logits(tokens), spliced, rtol=1e-3, atol=1e-3)
    assert spliced.shape == clean.shape


def test_what_cannot_be_moved_says_why() -> None:
    lm, other = model("gpt2"), model("qwen3")
    with pytest.raises(UserError, match="reads 1.mlp_in: values have their bias in z"):
        with_value_biases(made(lm, "1.mlp_in", "1.mlp_out", ReLU.Config()), lm)
    with pytest.raises(UserError, match="which is not before a norm's gain"):
        behind_gain(made(lm, "1.mlp_in", "1.mlp_out", ReLU.Config()), lm)
    with pytest.raises(MismatchError, match="1.z of the model has width 64, and the dictionary reads 32"):
        with_value_biases(made(lm, "1.z", "1.z", ReLU.Config()), other)
    with pytest.raises(UserError, match="normalizes tokens .layer_norm."):
        behind_gain(made(lm, "1.mlp_normalized", "1.mlp_out", ReLU.Config(), normalizer="layer_norm"), lm)
    with pytest.raises(UserError, match="scaled by the norms of decoder rows"):
        same = made(lm, "1.mlp_normalized", "1.mlp_normalized", ReLU.Config(), scale_by_decoder_norm=True)
        behind_gain(same, lm)
    norm = lm._layout.place(Site(2, "mlp_normalized")).module
    kept = norm.weight.clone()
    try:
        norm.weight[3] = 0
        with pytest.raises(UserError, match="takes a coordinate away: its gain is 0 there"):
            behind_gain(made(lm, "2.mlp_normalized", "2.mlp_out", ReLU.Config()), lm)
    finally:
        norm.weight.copy_(kept)
    with pytest.raises(UserError, match="is not before the gain of a norm"):
        lm.gain("1.mlp_in")
