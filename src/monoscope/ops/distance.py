"""Squared distance on a CPU, block by block: no difference of the whole is written to memory, forward."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

BLOCK_BYTES = 2**21  # of differences


class SquaredDistance(torch.autograd.Function):
    """``sum (a - b)^2`` of tensors of one shape; differences are computed again for the gradient."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        """The sum, added up in fp64 over blocks."""
        ctx.save_for_backward(a, b)
        if a.ndim == 0 or a.numel() == 0:
            return (a - b).square().sum()
        size = max(1, BLOCK_BYTES * len(a) // a.nbytes)
        buffer = a.new_empty(min(size, len(a)), *a.shape[1:])
        total = torch.zeros((), dtype=torch.float64)
        for own, other in zip(a.split(size), b.split(size), strict=True):
            flat = torch.sub(own, other, out=buffer[: len(own)]).view(-1)
            total += torch.dot(flat, flat)
        return total.to(a.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """``2 (a - b)`` and its opposite."""
        a, b = ctx.saved_tensors
        slope = torch.sub(a, b).mul_(2 * grads[0])
        return slope if ctx.needs_input_grad[0] else None, -slope if ctx.needs_input_grad[1] else None
