"""Features that fire above thresholds which learn: entries that fire, and those near a threshold, with value 0.

    held = score > th - eps / 2        fires = score > th        near = |score - th| < eps / 2

The decoder's gradient reaches what is held, and the thresholds learn from what is near (``ops.above``, ``ops.jump``).
Where a token holds many, the dense way costs less, and None says so.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from monoscope.core.acts import Acts, Window
from monoscope.ops.triton.library import above_threshold, attached, by_feature, gathered_dot, lowered, sum_by_feature

MOST_HELD = 1 / 16  # share of the features that a token may hold


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
    """``reference.encode_above`` in the sparse layout; None where a token holds many entries."""
    rows, most = W_enc.T.contiguous(), max(1, int(MOST_HELD * W_enc.shape[1]))
    dtype = torch.bfloat16 if dtype == torch.int8 else dtype
    with torch.no_grad():
        z = (x if center is None else x - center).contiguous()
        lowest = lowered(threshold - bandwidth / 2, dtype)
        held = above_threshold(z.to(dtype), rows.to(dtype), b_enc, norm, lowest, True, most)
        if held.shape[1] == 0:
            return None
        pre, indices = gathered_dot(z, rows, held, b_enc), held.clamp_min(0)
        distance = (pre if norm is None else pre * norm[indices]) - threshold[indices]
        values = pre * ((held >= 0) & (distance > 0))
        near = (held >= 0) & (distance.abs() < bandwidth / 2)
    values = attached(values, indices, x, rows, b_enc, center)
    if not bandwidth:
        return Acts(values, len(rows), indices)
    order, starts = by_feature(near.to(x.dtype), indices, len(rows))
    values = Near.apply(values, threshold, norm, near, order, starts, bandwidth)
    return Acts(values, len(rows), indices, Window(starts.diff(), (held >= 0).sum(1)))


class Near(torch.autograd.Function):
    """Values as a function of thresholds: the identity forward, the kernel's slope ``-(th / eps)`` backward.

    A kept entry is score / norm, so that its slope is divided by the norm.
    """

    @staticmethod
    def forward(
        ctx: Any,
        values: Tensor,
        threshold: Tensor,
        norm: Tensor | None,
        near: Tensor,
        order: Tensor,
        starts: Tensor,
        eps: float,
    ) -> Tensor:
        """The values, unchanged."""
        ctx.save_for_backward(threshold, norm, near, order, starts)
        ctx.eps = eps
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of values and thresholds."""
        threshold, norm, near, order, starts = ctx.saved_tensors
        weights = (grads[0] * near).contiguous()
        slope = sum_by_feature(weights, order, starts, weights.new_zeros(len(weights), 1))[1]
        slope = slope if norm is None else slope / norm
        return grads[0], -(threshold / ctx.eps) * slope, None, None, None, None, None
