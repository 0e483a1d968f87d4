"""Where a Lorsa starts: from the model's own heads, or at random.

    W_Q, W_K     a model head's, repeated H / n_heads times, / s_in; biases and norms copied
    W_enc        per model head, random unit vectors in the space its values read: the columns of W_V
    W_dec[f]     unit vector along  W_enc[:, f] @ W_V @ W_O:  what the head writes for what the feature reads
    b_enc = 0    b_dec = mean of the targets, as ``Initialization`` says

Samples ``x @ W_V @ W_V.T`` of one head have rank d_head, so their active subspace is the space of W_V's columns. With
exactly as many features as the heads have values, the features are those values, and the Lorsa is the attention layer.

Otherwise one factor on W_enc is searched for all features. Sources: He et al. 2025 (arXiv:2504.20938) and llamascopium;
active subspace: Wang et al. 2025 (arXiv:2508.16929).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from monoscope.core.attention import AttentionWeights
from monoscope.core.errors import ConfigError
from monoscope.dictionaries.initialize import (
    SEARCH_TOKENS,
    Initialization,
    Sample,
    best_encoder_scale,
    calibrate,
    decoder_bias,
    unit_directions,
)

if TYPE_CHECKING:
    from monoscope.dictionaries.lorsa import Lorsa


@torch.no_grad()
def initialize_lorsa_(lorsa: Lorsa, config: Initialization, sample: Sample, generator: torch.Generator) -> None:
    """Set every parameter, from scaled activations of one sample. Raises ConfigError where the model's do not fit."""
    weights = sample.origin.attention
    if config.directions == "model" and weights is None:
        raise ConfigError(
            "initialize.directions = 'model' starts lorsa from the attention of its layer, which takes the model; "
            "without one, set initialize.directions = 'random'"
        )
    counted = (slice(None), slice(None)) if sample.mask is None else sample.mask
    x, target = (t.reshape(-1, *t.shape[-2:])[counted] for t in (sample.x, sample.target))
    lorsa.b_enc.zero_()
    lorsa.b_dec.copy_(decoder_bias(target.reshape(-1, lorsa.d_out), config.decoder_bias))
    if weights is None or config.directions not in (None, "model"):
        _at_random(lorsa, x.reshape(-1, lorsa.d_in), config, generator)
    else:
        _copy_query_keys(lorsa, weights, sample.scale_in.item())
        if lorsa.n_features == weights.W_V.shape[0] * weights.W_V.shape[2]:
            _copy_values(lorsa, weights, sample)
            calibrate(lorsa, _few(sample).x)
            return
        _values_of_heads(lorsa, weights, generator)
    few, scale = _few(sample), config.encoder_scale
    lorsa.W_enc.mul_(best_encoder_scale(lorsa, few) if scale == "search" else scale)
    calibrate(lorsa, few.x)


def _few(sample: Sample) -> Sample:
    """As many sequences as hold the tokens that rank scales."""
    n = max(1, SEARCH_TOKENS // sample.x.shape[-2]) if sample.x.ndim > 2 else SEARCH_TOKENS
    mask = None if sample.mask is None else sample.mask[:n]
    return replace(sample, x=sample.x[:n], target=sample.target[:n], mask=mask)


def _at_random(lorsa: Lorsa, x: Tensor, config: Initialization, generator: torch.Generator) -> None:
    for weight in (lorsa.W_Q, lorsa.W_K):
        weight.copy_(torch.randn(weight.shape, generator=generator) * lorsa.d_in**-0.5)
    lorsa.W_enc.copy_(unit_directions(lorsa.n_features, x, config, generator).T)
    rows = torch.randn(lorsa.W_dec.shape, generator=generator)
    lorsa.W_dec.copy_(rows / rows.norm(dim=1, keepdim=True))


def _copy_query_keys(lorsa: Lorsa, weights: AttentionWeights, scale_in: float) -> None:
    """The model's heads, each for ``H / n_heads`` groups; in scaled activations they give the same patterns."""
    if lorsa.form != weights.form or lorsa.n_heads % weights.n_heads:
        raise ConfigError(
            f"a start from the model's {weights.n_heads} heads takes a multiple of them in the model's own form; "
            f"found {lorsa.n_heads} heads" + ("" if lorsa.form == weights.form else " and another form")
        )
    repeats = lorsa.n_heads // weights.n_heads
    q_norm, k_norm = (norm or (None, None) for norm in (weights.q_norm, weights.k_norm))
    for parameter, value in (
        (lorsa.W_Q, weights.W_Q / scale_in),
        (lorsa.W_K, weights.W_K / scale_in),
        (lorsa.b_Q, weights.b_Q),
        (lorsa.b_K, weights.b_K),
        (lorsa.q_norm, q_norm[0]),
        (lorsa.k_norm, k_norm[0]),
        (lorsa.q_norm_bias, q_norm[1]),
        (lorsa.k_norm_bias, k_norm[1]),
    ):
        if parameter is not None and value is not None:
            each = value.expand(weights.n_heads, *parameter.shape[1:])
            parameter.copy_(each.repeat_interleave(repeats, 0))


def _values_of_heads(lorsa: Lorsa, weights: AttentionWeights, generator: torch.Generator) -> None:
    each = lorsa.n_features // weights.n_heads
    for head, (W_V, W_O) in enumerate(zip(weights.W_V, weights.W_O, strict=True)):
        features = slice(head * each, (head + 1) * each)
        basis = torch.linalg.qr(W_V).Q
        read = torch.randn(each, basis.shape[1], generator=generator) @ basis.T
        read = read / read.norm(dim=1, keepdim=True)
        written = read @ W_V @ W_O
        lorsa.W_enc[:, features] = read.T
        lorsa.W_dec[features] = written / written.norm(dim=1, keepdim=True).clamp_min(1e-12)


def _copy_values(lorsa: Lorsa, weights: AttentionWeights, sample: Sample) -> None:
    s_in, s_out = sample.scale_in.item(), sample.scale_out.item()
    lorsa.W_enc.copy_(weights.W_V.transpose(1, 2).flatten(0, 1).T / s_in)
    lorsa.b_enc.copy_(weights.b_V.flatten())
    lorsa.W_dec.copy_(weights.W_O.flatten(0, 1) * s_out)
    lorsa.b_dec.copy_(weights.b_O * s_out)
