"""Initialization of an autoencoder from a sample of its activations.

    W_dec: random directions of norm 1; for a transcoder 0, so that training starts from the mean
    W_enc = c W_dec.T; for a transcoder, random directions of norm 1
    b_dec = mean or geometric median of the targets, or 0;   b_enc = 0

The encoder's scale c is searched: the reconstruction error of one batch at 50 values between 0.1 and 5, then at 20
around the best. With unit decoder rows this is the search over decoder norms r of the literature, with c = r^2.

Sources: Gao et al. 2024 (arXiv:2406.04093), appendix A.1; llamascopium's norm search. Geometric median: Weiszfeld 1937.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from monoscope.core.config import Config

if TYPE_CHECKING:
    from monoscope.dictionaries.autoencoder import Autoencoder

SEARCH_TOKENS = 256  # one scale serves all tokens, so few of them are enough to rank scales


class Initialization(Config):
    """How a dictionary starts."""

    encoder_scale: float | Literal["search"] = Field(default="search", description="c in W_enc = c W_dec.T")
    decoder_bias: Literal["mean", "geometric_median", "zero"] = "mean"


@torch.no_grad()
def initialize_autoencoder_(
    dictionary: Autoencoder,
    config: Initialization,
    x: Float[Tensor, "n d"],
    target: Float[Tensor, "n d_out"],
    generator: torch.Generator,
) -> None:
    """Set every parameter, from scaled activations of one sample."""
    directions = torch.randn(dictionary.n_features, dictionary.d_in, generator=generator)
    directions /= directions.norm(dim=1, keepdim=True)
    dictionary.b_enc.zero_()
    dictionary.b_dec.copy_(_decoder_bias(target, config.decoder_bias))
    if dictionary.reads != dictionary.writes:
        dictionary.W_enc.copy_(directions.T)
        dictionary.W_dec.zero_()
        if dictionary.config.unit_norm:
            rows = torch.randn(dictionary.n_features, dictionary.d_out, generator=generator)
            dictionary.W_dec.copy_(rows / rows.norm(dim=1, keepdim=True))
    else:
        dictionary.W_dec.copy_(directions)
        dictionary.W_enc.copy_(directions.T)
        scale = config.encoder_scale
        if scale == "search":
            scale = _best_scale(dictionary, x[:SEARCH_TOKENS], target[:SEARCH_TOKENS])
        dictionary.W_enc.mul_(scale)
    _calibrate(dictionary, x)


def _best_scale(dictionary: Autoencoder, x: Tensor, target: Tensor) -> float:
    unit = dictionary.W_enc.clone()

    def error(scale: float) -> float:
        dictionary.W_enc.copy_(unit * scale)
        _calibrate(dictionary, x)
        return (target - dictionary(x, target).recon).pow(2).sum().item()

    mode = dictionary.training
    dictionary.train()
    coarse = min(torch.linspace(0.1, 5.0, 50).tolist(), key=error)
    fine = torch.linspace(max(coarse - 0.1, 0.005), coarse + 0.1, 20).tolist()
    best = min(fine, key=error)
    dictionary.train(mode)
    dictionary.W_enc.copy_(unit)
    dictionary.activation.reset()
    return best


def _calibrate(dictionary: Autoencoder, x: Tensor) -> None:
    norm = dictionary.score_norm()
    pre = dictionary.preacts(x[:SEARCH_TOKENS])
    dictionary.activation.calibrate(pre if norm is None else pre * norm)


def _decoder_bias(target: Tensor, kind: str) -> Tensor:
    match kind:
        case "zero":
            return torch.zeros(target.shape[1])
        case "mean":
            return target.mean(0)
        case _:
            return geometric_median(target)


def geometric_median(points: Float[Tensor, "n d"], *, tolerance: float = 1e-5, most: int = 1000) -> Float[Tensor, " d"]:
    """The point of least total distance to others, by Weiszfeld's iteration.

        w_i = 1 / max(||p_i - m||, eps),    m <- sum_i w_i p_i / sum_i w_i

    Stops when m moves by less than ``tolerance`` of its distance to the points.
    """
    median = points.mean(0)
    for _ in range(most):
        distance = (points - median).norm(dim=1)
        weight = 1 / distance.clamp_min(1e-8)
        moved = (weight[:, None] * points).sum(0) / weight.sum()
        step = (moved - median).norm()
        median = moved
        if step <= tolerance * distance.mean():
            break
    return median
