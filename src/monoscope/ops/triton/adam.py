"""Adam in one pass over each row, as ``reference.adam_rows_``: gradient along the row taken off, step, norm restored.

Every number is read and written once, while its row is in the caches of one program. Where ``scale`` is NaN or infinite
nothing moves: the factor that clips a gradient is, when the gradient is, and no one has to wait to find out.
"""

from __future__ import annotations

from typing import no_type_check

import triton
import triton.language as tl
from torch import Tensor

from monoscope.ops.triton.tiles import blocks, power_of_two

MOST_AT_ONCE = 2048  # numbers of a row, or where rows do not matter


def adam_rows_(
    weight: Tensor,
    grad: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    scale: Tensor | None,
    step: int,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    unit_norm: bool,
) -> None:
    """Move a parameter in place, all tensors contiguous."""
    n = weight.numel()
    if not n:
        return
    span = weight.shape[1] if unit_norm else MOST_AT_ONCE
    _adam[(blocks(n, span),)](
        weight,
        grad,
        exp_avg,
        exp_avg_sq,
        weight if scale is None else scale,
        n,
        span,
        1 - beta1,
        1 - beta2,
        lr / (1 - beta1**step),
        (1 - beta2**step) ** -0.5,
        eps,
        HAS_SCALE=scale is not None,
        UNIT_NORM=unit_norm,
        WIDTH=min(power_of_two(span), MOST_AT_ONCE),
    )


@triton.jit
@no_type_check
def _adam(
    weight,
    grad,
    exp_avg,
    exp_avg_sq,
    scale,
    n,
    span,
    share1,
    share2,
    rate,
    correction,
    eps,
    HAS_SCALE: tl.constexpr,
    UNIT_NORM: tl.constexpr,
    WIDTH: tl.constexpr,
):
    begin = tl.program_id(0).to(tl.int64) * span
    end = tl.minimum(begin + span, n)
    factor = tl.load(scale).to(tl.float32) if HAS_SCALE else tl.full([], 1.0, tl.float32)
    if tl.abs(factor) < float("inf"):
        along, norm = 0.0, 0.0
        if UNIT_NORM:
            for start in range(begin, end, WIDTH):
                place = start + tl.arange(0, WIDTH)
                g = tl.load(grad + place, mask=place < end, other=0.0)
                along += tl.sum(g * tl.load(weight + place, mask=place < end, other=0.0), axis=0)
        for start in range(begin, end, WIDTH):
            place = start + tl.arange(0, WIDTH)
            w = tl.load(weight + place, mask=place < end, other=0.0)
            g = (tl.load(grad + place, mask=place < end, other=0.0) - along * w) * factor
            m = tl.load(exp_avg + place, mask=place < end, other=0.0)
            v = tl.load(exp_avg_sq + place, mask=place < end, other=0.0)
            m += share1 * (g - m)
            v += share2 * (g * g - v)
            w -= rate * m / (tl.sqrt(v) * correction + eps)
            norm += tl.sum(tl.where(place < end, w * w, 0.0), axis=0)
            tl.store(exp_avg + place, m, mask=place < end)
            tl.store(exp_avg_sq + place, v, mask=place < end)
            tl.store(weight + place, w, mask=place < end)
        if UNIT_NORM:
            inverse = 1.0 / tl.maximum(tl.sqrt(norm), 1e-12)
            for start in range(begin, end, WIDTH):
                place = start + tl.arange(0, WIDTH)
                w = tl.load(weight + place, mask=place < end, other=0.0)
                tl.store(weight + place, w * inverse, mask=place < end)
