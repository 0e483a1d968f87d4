"""The CPU path of functions whose features fire above a threshold of their own, learned or not, in training.

A threshold learns through a rectangle kernel, from the entries whose score lies in a window around it, firing or not.
Those are held beside the entries that fire, with value 0, so that the decoder's gradient reaches them. Where more than
a few entries would be held, all of ``[N, F]`` costs less, and there is no answer.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from monoscope.core.acts import Acts, Window
from monoscope.ops.blocks import Blocks, in_bf16
from monoscope.ops.cpu import Attach, gathered_dot, nonzero, pad
from monoscope.ops.native import kernels

MOST_HELD = 1 / 8  # share of entries


def encode_above(
    x: Tensor,
    W_enc: Tensor,
    b_enc: Tensor,
    threshold: Tensor,
    bandwidth: float,
    center: Tensor | None,
    norm: Tensor | None,
    dtype: torch.dtype,
) -> Acts | None:
    """``reference.encode_above`` in the sparse layout; None where too many entries fire or lie in a window.

    A ``dtype`` narrower than the input's decides in that precision; values are then computed exactly.
    """
    with torch.no_grad():
        z = x if center is None else x - center
        rows = W_enc.T.contiguous()
        dtype = in_bf16(dtype, x.dtype)
        blocks = Blocks(z, rows, b_enc, norm, dtype)
        held = _held(blocks, threshold.to(dtype), bandwidth)
        if held is None:
            return None
        token, feature, value, is_near = held
        values, indices, near = pad(token, value, feature, is_near, n=blocks.n)
        if dtype != x.dtype:
            exact = gathered_dot(z, rows, indices, values != 0).add_(b_enc[indices])
            score = exact if norm is None else exact * norm[indices]
            values = exact * ((values != 0) & (score > threshold[indices]))
    values = Attach.apply(x, W_enc, b_enc, center, z, values, indices)
    if not bandwidth:
        return Acts(values, len(rows), indices)
    values = Near.apply(values, threshold, indices, near, norm, bandwidth)
    counts, near_of = torch.bincount(token, minlength=blocks.n), torch.bincount(feature[is_near], minlength=len(rows))
    return Acts(values, len(rows), indices, Window(counts, near_of))


def _held(blocks: Blocks, threshold: Tensor, bandwidth: float) -> tuple[Tensor, ...] | None:
    """Token, feature, value and nearness of entries that fire or are near, ordered by token."""
    found, limit = [], MOST_HELD * blocks.n * blocks.n_features
    native = kernels()
    for rows, pre, score in blocks:
        most = int(min(limit, MOST_HELD * pre.numel()))
        if native is not None:
            own = native.above(pre, score, threshold - bandwidth / 2, positive=False, most=most)
        else:
            token, feature = nonzero(score > threshold - bandwidth / 2)
            own = (token, feature, pre[token, feature].float()) if len(token) <= most else None
        if own is None:
            return None
        token, feature, value = own
        distance = score[token, feature] - threshold[feature]
        limit -= len(token)
        found.append((token + rows.start, feature, value * (distance > 0), distance < bandwidth / 2))
    return tuple(torch.cat(parts) for parts in zip(*found, strict=True))


class Near(torch.autograd.Function):
    """Values as a function of thresholds: the identity forward, the kernel's slope ``-(th / eps)`` backward."""

    @staticmethod
    def forward(
        ctx: Any, values: Tensor, threshold: Tensor, indices: Tensor, near: Tensor, norm: Tensor | None, eps: float
    ) -> Tensor:
        """The values, unchanged."""
        ctx.save_for_backward(threshold, indices, near, norm)
        ctx.eps = eps
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of values and thresholds; a kept entry is score / norm, so its slope is divided by the norm."""
        threshold, indices, near, norm = ctx.saved_tensors
        slope = torch.zeros_like(threshold).index_add_(0, indices[near], grads[0][near])
        if norm is not None:
            slope /= norm
        return grads[0], -(threshold / ctx.eps) * slope, None, None, None, None
