"""Ceilings and floors: what the planted directions themselves allow, and what directions that know nothing score.

least_squares     true support, coefficients by least squares: nothing that is linear and sparse does better
omp               orthogonal matching pursuit on the planted directions, to each token's own true L0
linear_threshold  scores x . d above one threshold, chosen so that L0 is what it should be; least squares on those

The gap between the last two is what an encoder of one matrix loses to one that searches (arXiv:2411.13117). The third
with random rows is the floor. Each is a coder: from activations, and the truth for the first two, to feature
activations and their reconstruction. Shapes: N tokens, n directions, d width.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from monoscope import ops
from monoscope.core.acts import Acts

Coder = Callable[[Tensor, Acts], tuple[Acts, Tensor]]
"""From x ``[N, d]`` and the true coefficients to feature activations and the reconstruction."""

RIDGE = 1e-6  # keeps nearly parallel directions of one support solvable


def least_squares(directions: Float[Tensor, "n d"], bias: Float[Tensor, " d"]) -> Coder:
    """Coefficients of the true support that leave the least squared error."""

    def code(x: Float[Tensor, "N d"], truth: Acts) -> tuple[Acts, Float[Tensor, "N d"]]:
        return _reconstructed(_on_support(x - bias, directions, _support(truth)), directions, bias)

    return code


def omp(directions: Float[Tensor, "n d"], bias: Float[Tensor, " d"], *, k: int | None = None) -> Coder:
    """Greedy choice of the direction that correlates best with what is left, all coefficients fitted anew each time.

    ``k``: the same number for all tokens, instead of each token's own true L0.
    """

    def code(x: Float[Tensor, "N d"], truth: Acts) -> tuple[Acts, Float[Tensor, "N d"]]:
        wanted = truth.l0() if k is None else torch.full_like(truth.l0(), k)
        acts = torch.zeros(len(x), len(directions))
        for count in wanted.unique().tolist():
            tokens = wanted == count
            if count:
                acts[tokens] = ops.pursue(x[tokens] - bias, directions, count, "omp").dense()
        return _reconstructed(Acts(acts, len(directions)), directions, bias)

    return code


def linear_threshold(
    rows: Float[Tensor, "n d"],
    bias: Float[Tensor, " d"],
    sample: Float[Tensor, "N d"],
    l0: float,
    *,
    signed: bool,
) -> Coder:
    """Directions whose scores exceed one threshold, at which ``l0`` of them per token of the sample do.

    Scores are too large by what other features add to them, so coefficients are fitted by least squares.
    """

    def score(x: Float[Tensor, "N d"]) -> Float[Tensor, "N n"]:
        raw = (x - bias) @ rows.T
        return raw.abs() if signed else raw

    threshold = ops.kth_largest(score(sample), max(1, round(l0 * len(sample))))

    def code(x: Float[Tensor, "N d"], truth: Acts) -> tuple[Acts, Float[Tensor, "N d"]]:
        kept = Acts((score(x) >= threshold).float(), len(rows))
        return _reconstructed(_on_support(x - bias, rows, _support(kept)), rows, bias)

    return code


def random_rows(n_features: int, d: int, generator: torch.Generator) -> Float[Tensor, "F d"]:
    """Unit rows that know nothing."""
    return torch.nn.functional.normalize(torch.randn(n_features, d, generator=generator), dim=1)


def _support(truth: Acts) -> Int[Tensor, "N k"]:
    """Features that are on, by token, padded with -1."""
    rows, features, _ = truth.coo()
    counts = torch.bincount(rows, minlength=len(truth.values))
    out = torch.full((len(truth.values), max(1, int(counts.max()))), -1)
    out[rows, torch.arange(len(rows)) - (counts.cumsum(0) - counts)[rows]] = features
    return out


def _on_support(x: Float[Tensor, "N d"], directions: Float[Tensor, "n d"], support: Int[Tensor, "N k"]) -> Acts:
    """Least-squares coefficients of each token's support."""
    is_real, index = support >= 0, support.clamp_min(0)
    # Padding gets a gram of identity and a target of 0, so that it solves to 0 and touches nothing.
    gram = (directions @ directions.T)[index[:, :, None], index[:, None, :]] * (is_real[:, :, None] & is_real[:, None])
    gram.diagonal(dim1=1, dim2=2).copy_(torch.where(is_real, 1 + RIDGE, 1.0))
    target = (x @ directions.T).gather(1, index) * is_real
    return Acts(torch.cholesky_solve(target[..., None], torch.linalg.cholesky(gram))[..., 0], len(directions), index)


def _reconstructed(acts: Acts, directions: Tensor, bias: Tensor) -> tuple[Acts, Tensor]:
    return acts, ops.decode(acts, directions) + bias
