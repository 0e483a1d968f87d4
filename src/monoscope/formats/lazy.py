"""Lazy: a tensor that lies in a file, of which no more is read than what is asked for.

    W = folder.tensor("sae.safetensors", "encoder.weight")      nothing is read
    W.t().scaled(s)                                             nothing either: a view
    W.t().scaled(s).read()                                      all of it
    W.rows([17])                                                one row; where rows do not lie together, their pieces

Views pass what is asked on to the file: transposing, scaling, cutting out and stacking stay exact about bytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from monoscope.formats.blob import Blob, Span

Region = tuple[slice, ...]
"""A block of a tensor: a range for each axis, in steps of 1."""

DENSE = 8  # where at least one byte in so many is wanted, reading them all is faster than seeking


class Lazy:
    """A tensor that is read in part or as a whole, when asked."""

    def __init__(self, shape: Sequence[int], dtype: torch.dtype, block: Callable[[Region], Tensor]) -> None:
        self.shape, self.dtype, self._block = tuple(shape), dtype, block

    def __repr__(self) -> str:
        return f"Lazy({list(self.shape)}, {self.dtype})"

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """Size of the whole, in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize

    def read(self) -> Tensor:
        """All of it."""
        return self._block(_whole(self.shape))

    def rows(self, indices: Sequence[int]) -> Tensor:
        """Chosen entries of the first axis, in their order; runs of neighbors are read at once."""
        parts = [self._block((slice(a, b), *_whole(self.shape[1:]))) for a, b in _runs(indices, self.shape[0])]
        return torch.cat(parts) if parts else torch.empty(0, *self.shape[1:], dtype=self.dtype)

    def t(self) -> Lazy:
        """The transpose of a matrix."""
        return self.permute(1, 0)

    def permute(self, *order: int) -> Lazy:
        """The axes in another order."""
        assert sorted(order) == list(range(self.ndim)), f"{order} does not order {self.ndim} axes"

        def block(region: Region) -> Tensor:
            own = [slice(0)] * self.ndim
            for axis, part in zip(order, region, strict=True):
                own[axis] = part
            return self._block(tuple(own)).permute(order)

        return Lazy([self.shape[axis] for axis in order], self.dtype, block)

    def narrow(self, axis: int, start: int, stop: int) -> Lazy:
        """A range of one axis."""
        assert 0 <= start <= stop <= self.shape[axis], f"{start}:{stop} is not within axis {axis} of {self}"

        def block(region: Region) -> Tensor:
            part = region[axis]
            moved = slice(part.start + start, part.stop + start)
            return self._block((*region[:axis], moved, *region[axis + 1 :]))

        return Lazy([*self.shape[:axis], stop - start, *self.shape[axis + 1 :]], self.dtype, block)

    def select(self, axis: int, index: int) -> Lazy:
        """One entry of an axis, which is gone then."""
        assert 0 <= index < self.shape[axis], f"{index} is not within axis {axis} of {self}"

        def block(region: Region) -> Tensor:
            return self._block((*region[:axis], slice(index, index + 1), *region[axis:])).squeeze(axis)

        return Lazy([*self.shape[:axis], *self.shape[axis + 1 :]], self.dtype, block)

    def reshape(self, *shape: int) -> Lazy:
        """The same numbers in another shape; blocks of the first axis stay blocks where it keeps its length."""
        assert math.prod(shape) == math.prod(self.shape), f"{self} does not have {shape} entries"

        def block(region: Region) -> Tensor:
            if self.shape and shape and self.shape[0] == shape[0]:
                rows = self._block((region[0], *_whole(self.shape[1:])))
                return rows.reshape(-1, *shape[1:])[(slice(None), *region[1:])]
            return self.read().reshape(shape)[region]

        return Lazy(shape, self.dtype, block)

    def expand(self, *shape: int) -> Lazy:
        """Axes of length 1, and new ones in front, repeated."""
        new = len(shape) - self.ndim

        def block(region: Region) -> Tensor:
            own = tuple(slice(0, 1) if n == 1 else part for n, part in zip(self.shape, region[new:], strict=True))
            return self._block(own).expand([part.stop - part.start for part in region])

        return Lazy(shape, self.dtype, block)

    def elementwise(self, fn: Callable[[Tensor], Tensor], dtype: torch.dtype | None = None) -> Lazy:
        """``fn`` of each number by itself."""
        return Lazy(self.shape, dtype or self.dtype, lambda region: fn(self._block(region)))

    def cast(self, dtype: torch.dtype) -> Lazy:
        """The same numbers in another precision."""
        return self.elementwise(lambda part: part.to(dtype), dtype)

    def scaled(self, factor: float) -> Lazy:
        """Times a number. In fp32 at least, since a factor would cost narrower types what precision they have."""
        dtype = torch.promote_types(self.dtype, torch.float32)
        return self.elementwise(lambda part: part.to(dtype) * factor, dtype)

    def scaled_along(self, axis: int, factors: Tensor | Lazy) -> Lazy:
        """Times a number for each entry of one axis, in fp32 at least."""
        return self._along(axis, factors, torch.mul)

    def shifted_by(self, other: Tensor | Lazy) -> Lazy:
        """A vector plus another, in fp32 at least."""
        return self._along(0, other, torch.add)

    def _along(self, axis: int, others: Tensor | Lazy, op: Callable[[Tensor, Tensor], Tensor]) -> Lazy:
        lazy = others if isinstance(others, Lazy) else Lazy.of(others)
        assert lazy.shape == (self.shape[axis],), f"{lazy} along axis {axis} of {self}"
        dtype = torch.promote_types(self.dtype, torch.promote_types(lazy.dtype, torch.float32))
        view = [-1 if i == axis else 1 for i in range(self.ndim)]

        def block(region: Region) -> Tensor:
            return op(self._block(region).to(dtype), lazy._block((region[axis],)).to(dtype).view(view))

        return Lazy(self.shape, dtype, block)

    def row_norms(self) -> Lazy:
        """The norm of each row of a matrix, in fp32 at least."""
        assert self.ndim == 2, f"{self} has no rows"
        dtype = torch.promote_types(self.dtype, torch.float32)

        def block(region: Region) -> Tensor:
            return self._block((region[0], slice(0, self.shape[1]))).to(dtype).norm(dim=1)

        return Lazy(self.shape[:1], dtype, block)

    def map(self, fn: Callable[[Tensor], Tensor], shape: Sequence[int], dtype: torch.dtype | None = None) -> Lazy:
        """Any function of the whole, which is read for any part of the result."""
        return Lazy(shape, dtype or self.dtype, lambda region: fn(self.read())[region])

    @staticmethod
    def of(tensor: Tensor) -> Lazy:
        """A tensor that is in memory already."""
        return Lazy(tensor.shape, tensor.dtype, lambda region: tensor[region])

    @staticmethod
    def stack(parts: Sequence[Lazy]) -> Lazy:
        """Several of one shape, on a new first axis."""
        first = parts[0]
        assert all(part.shape == first.shape for part in parts), f"{[part.shape for part in parts]} differ"

        def block(region: Region) -> Tensor:
            return torch.stack([part._block(region[1:]) for part in parts[region[0]]])

        return Lazy([len(parts), *first.shape], first.dtype, block)

    @staticmethod
    def stored(blob: Blob, start: int, shape: Sequence[int], dtype: torch.dtype, stride: Sequence[int] = ()) -> Lazy:
        """Numbers that lie in a file from byte ``start`` on; ``stride`` as that of a tensor, row-major if empty."""
        shape = tuple(shape)
        strides = tuple(stride) or _row_major(shape)

        def block(region: Region) -> Tensor:
            counts = [part.stop - part.start for part in region]
            first = sum(part.start * step for part, step in zip(region, strides, strict=True))
            if 0 in counts:
                return torch.empty(counts, dtype=dtype)
            return _gather(blob, start + first * dtype.itemsize, counts, strides, dtype)

        return Lazy(shape, dtype, block)


def _gather(blob: Blob, start: int, counts: list[int], strides: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """A block of a strided array: its pieces, or all that lies between its ends where that is little more."""
    wanted = math.prod(counts)
    extent = sum((n - 1) * step for n, step in zip(counts, strides, strict=True)) + 1
    if extent <= wanted * DENSE or extent * dtype.itemsize <= 2**12:
        flat = _buffer(extent, dtype)
        blob.into([(start, start + extent * dtype.itemsize)], _view(flat))
        return flat.as_strided(counts, strides).clone(memory_format=torch.contiguous_format)
    run, axis = 1, len(counts)  # the last axes that lie in one piece
    while axis and (counts[axis - 1] == 1 or strides[axis - 1] == run):
        axis -= 1
        run *= counts[axis]
    offsets = torch.zeros((), dtype=torch.int64)
    for n, step in zip(counts[:axis], strides[:axis], strict=True):
        offsets = offsets[..., None] + torch.arange(n) * step
    size, flat = run * dtype.itemsize, _buffer(wanted, dtype)
    spans: list[Span] = [(at, at + size) for at in (start + offsets.reshape(-1) * dtype.itemsize).tolist()]
    blob.into(spans, _view(flat))
    return flat.view(counts)


def _buffer(n: int, dtype: torch.dtype) -> Tensor:
    return torch.empty(n, dtype=dtype)


def _view(flat: Tensor) -> memoryview:
    return flat.view(torch.uint8).numpy().data


def _row_major(shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


def _whole(shape: Sequence[int]) -> Region:
    return tuple(slice(0, n) for n in shape)


def _runs(indices: Sequence[int], n: int) -> list[Span]:
    """Ranges of consecutive numbers."""
    runs: list[Span] = []
    for index in indices:
        if not 0 <= index < n:
            raise IndexError(f"row {index} of {n}")
        if runs and runs[-1][1] == index:
            runs[-1] = (runs[-1][0], index + 1)
        else:
            runs.append((index, index + 1))
    return runs
