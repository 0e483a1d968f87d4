"""Dictionaries to write for other libraries: every function in every wiring they may have a place for, small."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from monoscope.core.site import Site
from monoscope.dictionaries import ActivationFunction, Dictionary, Wiring
from monoscope.formats.opened import About

RESID, MLP_IN, MLP_OUT = Site(1, "resid_post"), Site(1, "mlp_in"), Site(1, "mlp_out")
D = 6
ABOUT = About(model="openai-community/gpt2", prepend_bos=True, context_length=128, published={"l0": 4.0})
FUNCTIONS: dict[str, dict[str, Any]] = {
    "relu": {"kind": "relu"},
    "topk": {"kind": "topk", "k": 3},
    "abs_topk": {"kind": "abs_topk", "k": 3},
    "group_max": {"kind": "group_max", "k": 4},
    "batch_topk": {"kind": "batch_topk", "k": 2.6},
    "jumprelu": {"kind": "jumprelu"},
    "gated": {"kind": "gated"},
}
FOLDS_NORMS = ("topk", "abs_topk", "group_max")
"""Functions whose activations change their units where scaled scores are written: norms are folded in."""


def made(
    function: str = "topk",
    *,
    seed: int = 0,
    n_features: int = 16,
    transcoder: bool = False,
    d_out: int = D,
    **wiring: Any,
) -> Dictionary:
    """A dictionary with random weights of uneven norms, and thresholds that matter."""
    reads, writes = ((MLP_IN,), (MLP_OUT,)) if transcoder else ((RESID,), (RESID,))
    config = Wiring.from_dict({"kind": "autoencoder", "n_features": n_features, "unit_norm": False, **wiring})
    widths = {RESID: D, MLP_IN: D, MLP_OUT: d_out}
    dictionary = config.build(ActivationFunction.Config.from_dict(FUNCTIONS[function]), reads, writes, widths)
    return filled(dictionary, seed)


def pursuit(seed: int = 0, **settings: Any) -> Dictionary:
    """A matching pursuit with random directions of norm 1."""
    center = settings.pop("center", True)
    config = Wiring.from_dict({"kind": "matching_pursuit", "n_features": 16, "center": center})
    function = {"kind": "pursuit", "k": 5, "positive": True, **settings}
    dictionary = config.build(ActivationFunction.Config.from_dict(function), (RESID,), (RESID,), {RESID: D})
    dictionary = filled(dictionary, seed)
    dictionary.project_()
    return dictionary


def filled(dictionary: Dictionary, seed: int) -> Dictionary:
    """Random weights, and thresholds between 0 and 1."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in dictionary.state_dict().items():
            if name == "activation.threshold":
                value.copy_(torch.rand(value.shape, generator=generator))
            elif value.is_floating_point():
                value.copy_(torch.randn(value.shape, generator=generator))
    return dictionary.eval().requires_grad_(False)


def tokens(seed: int = 1, n: int = 40, width: int = D) -> Tensor:
    """Activations around a mean that is not 0."""
    return torch.randn(n, width, generator=torch.Generator().manual_seed(seed)) * 2 + 0.5


def matrix() -> Iterator[tuple[str, Dictionary]]:
    """Every case, by name."""
    for function in FUNCTIONS:
        for center in (False, True):
            for scaled in (False, True):
                name = f"{function}{'_centered' if center else ''}{'_scaled' if scaled else ''}"
                yield name, made(function, center=center, scale_by_decoder_norm=scaled)
        yield f"{function}_transcoder", made(function, transcoder=True)
        yield f"{function}_skip", made(function, transcoder=True, skip=True)
        yield f"{function}_transcoder_scaled", made(function, transcoder=True, scale_by_decoder_norm=True)
        yield f"{function}_narrow", made(function, transcoder=True, d_out=4, skip=True)
        yield f"{function}_sae_skip", made(function, skip=True, center=True)
        for normalizer in ("layer_norm", "token_norm", "center"):
            yield f"{function}_{normalizer}", made(function, normalizer=normalizer)
            yield f"{function}_{normalizer}_transcoder", made(function, normalizer=normalizer, transcoder=True)
        folded = made(function, scale_by_decoder_norm=True)
        folded.fold_(0.25, 0.25)
        yield f"{function}_folded", folded
    yield "pursuit", pursuit(tolerance=0.7, until_repeat=True)
    yield "pursuit_uncentered", pursuit(center=False, tolerance=0.2)
