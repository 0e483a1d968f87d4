"""Pre-activations by blocks of rows small enough to stay in cache, so that ``[N, F]`` is never written to memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

BLOCK_BYTES = 2**23  # of pre-activations
PACKED_ROWS = 512  # with fewer, packing the weights for oneDNN costs more than it saves


class Blocks:
    """Pre-activations ``z @ rows.T + b_enc`` in a precision, block by block, and their scores."""

    def __init__(self, z: Tensor, rows: Tensor, b_enc: Tensor, norm: Tensor | None, dtype: torch.dtype) -> None:
        self.z, self.rows, self.b_enc = (t.to(dtype) for t in (z, rows, b_enc))
        self.norm = None if norm is None else norm.to(dtype)
        self.n, self.n_features = len(z), len(rows)
        most = max(1, BLOCK_BYTES // (dtype.itemsize * max(1, self.n_features)))
        self.size = max(1, -(-self.n // max(1, -(-self.n // most))))  # blocks of equal size

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
            weight = mkldnn._reorder_linear_weight(self.rows, self.size)
            return lambda z: mkldnn._linear_pointwise(z, weight, self.b_enc, "none", [], "")
        buffer = torch.empty(self.size, self.n_features, dtype=self.z.dtype)
        return lambda z: torch.addmm(self.b_enc, z, self.rows.T, out=buffer[: len(z)])


def has_packed(dtype: torch.dtype) -> bool:
    """Whether torch's oneDNN multiplies by weights packed once for many products, in a precision, on this machine."""
    if not (torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")):
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())
