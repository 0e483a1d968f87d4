"""Rows of chosen features, whose gradient is added to those rows alone.

autograd gives the gradient of a choice the size of the whole weight, and adds that to the gradient of all features. The
few dead features that AuxK trains are not worth that. Within ``adding_rows`` such gradients wait until those of all
features are there, and are added to the chosen rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

_waiting: dict[int, list[tuple[int, Tensor, Tensor]]] = {}


def rows_of(weight: Float[Tensor, "*any"], features: Int[Tensor, " n"], dim: int = 0) -> Float[Tensor, "*rows"]:
    """``weight.index_select(dim, features)``, where ``dim`` is the axis of features; laid out feature by feature."""
    return Rows.apply(weight, features, dim)


@contextmanager
def adding_rows(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """Within the block a backward pass runs, whose gradients reach ``grad`` of these parameters when it ends."""
    own = {id(parameter): parameter for parameter in parameters}
    _waiting.update((key, []) for key in own)
    try:
        yield
        with torch.no_grad():
            for key, parameter in own.items():
                for given in _waiting[key]:
                    if parameter.grad is None:
                        parameter.grad = torch.zeros_like(parameter)
                    _add(parameter.grad, *given)
    finally:
        for key in own:
            del _waiting[key]


def _add(out: Tensor, dim: int, features: Tensor, grad: Tensor) -> None:
    out.movedim(dim, 0).index_add_(0, features, grad.movedim(dim, 0))


class Rows(torch.autograd.Function):
    """``rows_of``."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, features: Tensor, dim: int) -> Tensor:
        """The rows."""
        ctx.save_for_backward(weight, features)
        ctx.dim = dim
        return weight.movedim(dim, 0)[features].movedim(0, dim)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, None, None]:
        """The gradient of the whole weight, or none where it waits."""
        weight, features = ctx.saved_tensors
        if (waiting := _waiting.get(id(weight))) is not None:
            waiting.append((ctx.dim, features, grads[0]))
            return None, None, None
        whole = torch.zeros_like(weight)
        _add(whole, ctx.dim, features, grads[0])
        return whole, None, None
