"""The gated linear unit of an encoder: what it computes, how it starts, and what it cannot go with."""

from __future__ import annotations

import pytest
import torch
from small_autoencoder import F, K, activations, autoencoder

from monoscope.core.errors import ConfigError

TOPK = {"kind": "topk", "k": K}


def test_pre_activations_are_multiplied_by_their_gates() -> None:
    dictionary, x = autoencoder(TOPK, glu=True), activations()
    assert dictionary.W_glu is not None
    assert dictionary.b_glu is not None
    z = x - dictionary.b_dec
    gate = torch.sigmoid(z @ dictionary.W_glu + dictionary.b_glu)
    assert gate.std() > 0.1
    torch.testing.assert_close(dictionary.preacts(x), (z @ dictionary.W_enc + dictionary.b_enc) * gate)


def test_gates_at_zero_halve_a_plain_encoder() -> None:
    plain, gated = autoencoder(TOPK), autoencoder(TOPK, glu=True)
    with torch.no_grad():
        for name, parameter in gated.named_parameters():
            if name in ("W_glu", "b_glu"):
                parameter.zero_()
            else:
                parameter.copy_(plain.get_parameter(name))
    torch.testing.assert_close(gated.preacts(activations()), plain.preacts(activations()) / 2)


def test_a_scale_of_the_input_reaches_the_gates_weights_and_not_their_biases() -> None:
    dictionary = autoencoder(TOPK, glu=True)
    weight, bias = (dictionary.get_parameter(name).clone() for name in ("W_glu", "b_glu"))
    dictionary.fold_(3.0, 3.0)
    torch.testing.assert_close(dictionary.get_parameter("W_glu"), weight * 3)
    torch.testing.assert_close(dictionary.get_parameter("b_glu"), bias)
    assert dictionary.feature_axes["W_glu"] == 1
    assert dictionary.get_parameter("b_glu").shape == (F,)


def test_a_function_with_biases_of_its_own_is_refused() -> None:
    terms = ({"kind": "squared_error"}, {"kind": "gate_l1"}, {"kind": "gate_aux"})
    with pytest.raises(ConfigError, match="biases of 'gated' could not be moved behind it"):
        autoencoder({"kind": "gated"}, *terms, glu=True)
