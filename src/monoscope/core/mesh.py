"""Mesh: processes that train one dictionary together, on two axes, and what they tell each other.

    data       every process reads tokens of its own
    features   every process holds features of its own

Inside ``on(shards)`` a process computes with its own tokens and its own features, and the ops add up what belongs
together. Outside, and where one process is all there is, nothing is added and nothing waits.

What every process of an axis goes on to compute alike is added with ``total``, whose gradient is passed on as it is;
what each goes on to use for its own features alone passes through ``spread``, whose gradient is added.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Int
from torch import Tensor
from torch import distributed as dist
from torch.distributed.device_mesh import DeviceMesh


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis of a mesh as a process sees it: its own place on it, and the group it talks to; None if alone.

    device: where what is sent has to be
    """

    number: int = 0
    size: int = 1
    group: dist.ProcessGroup | None = None
    device: str = "cpu"

    def reduce_(self, x: Tensor, how: Literal["sum", "max", "min"] = "sum") -> Tensor:
        """Replace a tensor by its sum, largest or smallest over the axis, in place."""
        if self.group is not None:
            op = {"sum": dist.ReduceOp.SUM, "max": dist.ReduceOp.MAX, "min": dist.ReduceOp.MIN}[how]
            dense = _dense(x)
            dist.all_reduce(dense, op=op, group=self.group)
            if dense.data_ptr() != x.data_ptr():
                x.copy_(dense)
        return x

    def counted(self, n: int, how: Literal["sum", "max", "min"] = "sum") -> int:
        """The sum, largest or smallest of a number over the axis."""
        return n if self.group is None else int(self.reduce_(torch.tensor(n, device=self.device), how))

    def gather(self, x: Tensor) -> list[Tensor]:
        """The tensors of every process of the axis, which have one shape, in order."""
        if self.group is None:
            return [x]
        out = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(self.size)]
        # As bytes, since not every type of number travels.
        dist.all_gather([_bytes(each) for each in out], _bytes(x.contiguous()), group=self.group)
        return out

    def total(self, x: Tensor) -> Tensor:
        """The sum over the axis, which every process then uses alike: each gets the gradient as it is."""
        return x if self.group is None else _Total.apply(x, self)

    def spread(self, x: Tensor) -> Tensor:
        """A value that is the same on the axis, and of which each process makes something of its own."""
        return x if self.group is None or not x.requires_grad else _Spread.apply(x, self)


@dataclass(frozen=True, slots=True)
class Mesh:
    """The two axes, as a process sees them, all processes as one axis, and the mesh as PyTorch knows it."""

    data: Axis = Axis()
    features: Axis = Axis()
    every: Axis = Axis()
    devices: DeviceMesh | None = None

    @property
    def is_first(self) -> bool:
        """Whether this is the process that speaks and writes for all."""
        return self.every.number == 0

    @property
    def shape(self) -> str:
        """The mesh in words: ``2 x 4 (data x features)``."""
        return f"{self.data.size} x {self.features.size} (data x features)"


ALONE = Mesh()
"""The mesh of a process that was started alone."""


@dataclass(frozen=True, slots=True)
class Shards:
    """A dictionary of which each process of the features axis holds a part.

    owned: the features of this process, by their numbers in the whole dictionary, rising
    n_features: of the whole dictionary
    """

    mesh: Mesh
    owned: Int[Tensor, " f"]
    n_features: int


_current: ContextVar[Shards | None] = ContextVar("shards", default=None)


def current() -> Shards | None:
    """What this process computes a part of; None if it computes the whole."""
    return _current.get()


@contextmanager
def on(shards: Shards | None) -> Iterator[None]:
    """Within the block, ops compute this process's part."""
    token = _current.set(shards)
    try:
        yield
    finally:
        _current.reset(token)


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, axis: Axis) -> Tensor:
        return axis.reduce_(x.detach().clone(memory_format=torch.contiguous_format))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return grads[0], None


class _Spread(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, axis: Axis) -> Tensor:
        ctx.axis = axis
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return ctx.axis.reduce_(grads[0].clone(memory_format=torch.contiguous_format)), None


def _bytes(x: Tensor) -> Tensor:
    return x.view(-1).view(torch.uint8)


def _dense(x: Tensor) -> Tensor:
    """The same memory with its axes in the order they are stored in, as collectives want it; a copy if it has gaps."""
    if x.is_contiguous():
        return x
    stored = x.permute(sorted(range(x.ndim), key=lambda axis: -x.stride(axis)))
    return stored if stored.is_contiguous() else x.contiguous()
