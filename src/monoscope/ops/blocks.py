"""Pre-activations by blocks of rows small enough to stay in cache, so that ``[N, F]`` is never written to memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn.functional import pad

BLOCK_BYTES = 2**23  # of pre-activations
WIDTHS = 64  # products are as wide as a multiple of it
PACKED_ROWS = 512  # with fewer, packing the weights for oneDNN costs more than it saves


class Blocks:
    """Pre-activations ``z @ rows.T + b_enc`` in a precision, block by block, and their scores."""

    def __init__(self, z: Tensor, rows: Tensor, b_enc: Tensor, norm: Tensor | None, dtype: torch.dtype) -> None:
        self.z, self.rows, self.b_enc = (t.to(dtype) for t in (z, rows, b_enc))
        self.norm = None if norm is None else norm.to(dtype)
        self.n, self.n_features = len(z), len(rows)
        self.size = block_size(self.n, self.n_features, dtype)

    def score(self, feature: Tensor, value: Tensor) -> Tensor:
        """Scores of entries."""
        return value if self.norm is None else value * self.norm.float()[feature]

    def __iter__(self) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Rows, their pre-activations, and their scores; one empty block where there are no rows."""
        linear = self._linear()
        for start in range(0, max(self.n, 1), self.size):
            rows = slice(start, min(start + self.size, self.n))
            pre = linear(self.z[rows])
            yield rows, pre, pre if self.norm is None else pre * self.norm

    def _linear(self) -> Callable[[Tensor], Tensor]:
        if self.n >= PACKED_ROWS and has_packed(self.z.dtype):
            mkldnn = torch.ops.mkldnn
            # oneDNN compiles and keeps a kernel for every width it meets, and chosen features are never as many twice.
            more = -self.n_features % WIDTHS
            rows, b_enc = (pad(t, (0, 0, 0, more)[-2 * t.ndim :]) if more else t for t in (self.rows, self.b_enc))
            weight = mkldnn._reorder_linear_weight(rows, self.size)
            return lambda z: mkldnn._linear_pointwise(z, weight, b_enc, "none", [], "")[
                :, : self.n_features
            ].contiguous()
        buffer = torch.empty(self.size, self.n_features, dtype=self.z.dtype)
        return lambda z: torch.addmm(self.b_enc, z, self.rows.T, out=buffer[: len(z)])


def block_size(n: int, n_features: int, dtype: torch.dtype) -> int:
    """Rows of a block, of which all but the last are equal."""
    most = max(1, BLOCK_BYTES // (dtype.itemsize * max(1, n_features)))
    return max(1, -(-n // max(1, -(-n // most))))


def multiplies_bf16() -> bool:
    """Whether the processor has instructions for products in bf16, which it may otherwise only imitate."""
    return has_instructions("avx512_bf16") or has_instructions("amx_tile")


def has_instructions(name: str) -> bool:
    """Whether the processor has an extension, as far as this torch knows."""
    return bool(getattr(torch.cpu, f"_is_{name}_supported", bool)())


def in_bf16(dtype: torch.dtype, exact: torch.dtype) -> torch.dtype:
    """int8 as it is understood where there is no such path: bf16 if the processor has it, else the exact precision."""
    if dtype != torch.int8:
        return dtype
    return torch.bfloat16 if multiplies_bf16() else exact


def has_packed(dtype: torch.dtype) -> bool:
    """Whether torch's oneDNN multiplies by weights packed once for many products, in a precision, on this machine."""
    if not (torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")):
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())
