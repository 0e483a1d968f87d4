"""Steps at a threshold, with gradients to the threshold through a rectangle kernel of width eps.

    jump         pre * 1[score > th]    d / d pre = 1[score > th]    d / d th = -(th / eps) K((score - th) / eps) / norm
    fires_above  1[score > th]          d / d th = -(1 / eps) K((score - th) / eps)         K(u) = 1[|u| < 1/2]

Source: Rajamanoharan et al. 2024 (arXiv:2407.14435), equations 11, 12. Shapes: F features.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor


def jump(
    pre: Float[Tensor, "*batch F"],
    score: Float[Tensor, "*batch F"],
    norm: Float[Tensor, "*site F"] | None,
    threshold: Float[Tensor, " F"],
    eps: float,
) -> Float[Tensor, "*batch F"]:
    """Pre-activations whose score is above the threshold; ``norm`` is what scores are pre-activations times."""
    return _Jump.apply(pre, score, norm, threshold, eps)


def fires_above(
    score: Float[Tensor, "*batch F"], threshold: Float[Tensor, " F"], eps: float
) -> Float[Tensor, "*batch F"]:
    """1 where the score is above the threshold, else 0; no gradient reaches the scores."""
    return _Fires.apply(score, threshold, eps)


class _Jump(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, pre: Tensor, score: Tensor, norm: Tensor | None, th: Tensor, eps: float) -> Tensor:
        ctx.save_for_backward(score, norm, th)
        ctx.eps = eps
        return pre * (score > th)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        score, norm, th = ctx.saved_tensors
        (g,) = grads
        window = (score - th).abs() < ctx.eps / 2
        heads = 1 if norm is None else norm.ndim
        slope = (g * window).flatten(0, -1 - heads).sum(0)
        if norm is not None:
            slope = (slope / norm).reshape(-1, len(th)).sum(0)
        return g * (score > th), None, None, -(th / ctx.eps) * slope, None


class _Fires(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, score: Tensor, th: Tensor, eps: float) -> Tensor:
        ctx.save_for_backward(score, th)
        ctx.eps = eps
        return (score > th).to(score.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        score, th = ctx.saved_tensors
        window = (score - th).abs() < ctx.eps / 2
        return None, -(grads[0] * window).flatten(0, -2).sum(0) / ctx.eps, None
