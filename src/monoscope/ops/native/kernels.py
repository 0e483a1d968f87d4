"""The compiled kernels as functions of tensors. Shapes: N tokens, d width, F features, k entries of a token.

Each is specified by ``ops.reference`` or by the function of ``ops.cpu`` of its name, and gives the same bits for any
number of threads.
"""

from __future__ import annotations

import ctypes
from ctypes import c_float, c_int, c_int64, c_void_p

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

SIGNATURES = {
    "threads_of": (None, [c_void_p]),
    "gathered_dot": (c_int, [c_void_p] * 4 + [c_int64] * 4 + [c_void_p, c_int]),
    "weighted_rows": (c_int, [c_void_p] * 3 + [c_int64] * 4 + [c_void_p, c_int]),
    "scatter_rows": (c_int, [c_void_p] * 3 + [c_int64] * 4 + [c_void_p, c_int]),
    "top_per_row": (None, [c_void_p, c_int] + [c_int64] * 3 + [c_int, c_void_p, c_int]),
    "above": (None, [c_void_p] * 2 + [c_int, c_int, c_void_p] + [c_int64] * 2 + [c_void_p] * 4 + [c_int]),
    "encode_topk": (None, [c_void_p] * 4 + [c_int64] * 5 + [c_void_p] * 2 + [c_int]),
    "multiplies_int8": (c_int, []),
    "adam_rows": (None, [c_void_p] * 4 + [c_int64] * 2 + [c_float] * 6 + [c_int] * 2),
}


class Kernels:
    """Functions of a loaded library."""

    def __init__(self, library: ctypes.CDLL, openmp: c_void_p | None) -> None:
        for name, (result, arguments) in SIGNATURES.items():
            function = getattr(library, f"monoscope_{name}")
            function.restype, function.argtypes = result, arguments
        self._library = library
        library.monoscope_threads_of(openmp)
        self.multiplies_int8 = bool(library.monoscope_multiplies_int8())

    def gathered_dot(
        self,
        x: Float[Tensor, "n d"],
        rows: Float[Tensor, "F d"],
        indices: Int[Tensor, "n k"],
        kept: Bool[Tensor, "n k"] | None = None,
    ) -> Float[Tensor, "n k"]:
        """``out[n, j] = x[n] . rows[indices[n, j]]``, 0 where not kept."""
        kept = None if kept is None else _ready(kept, torch.bool)
        x, rows, indices = _ready(x), _ready(rows), _numbers(indices)
        out = x.new_empty(indices.shape)
        refused = self._run("gathered_dot", x, rows, indices, kept, *indices.shape, rows.shape[1], len(rows), out)
        _check(refused, indices, len(rows))
        return out

    def weighted_rows(
        self, values: Float[Tensor, "n k"], indices: Int[Tensor, "n k"], rows: Float[Tensor, "F d"]
    ) -> Float[Tensor, "n d"]:
        """``out[n] = sum_j values[n, j] rows[indices[n, j]]``, over values that are not 0."""
        values, indices, rows = _ready(values), _numbers(indices), _ready(rows)
        out = values.new_empty(len(values), rows.shape[1])
        refused = self._run("weighted_rows", values, indices, rows, *indices.shape, rows.shape[1], len(rows), out)
        _check(refused, indices, len(rows))
        return out

    def scatter_rows(
        self, weights: Float[Tensor, "n k"], indices: Int[Tensor, "n k"], rows: Float[Tensor, "n d"], n_features: int
    ) -> Float[Tensor, "F d"]:
        """``out[f] = sum over entries (n, j) of feature f of weights[n, j] rows[n]``, over weights that are not 0."""
        weights, indices, rows = _ready(weights), _numbers(indices), _ready(rows)
        entries, out = indices.numel(), weights.new_empty(n_features, rows.shape[1])
        assert entries < 2**31, f"{entries} entries are more than a sort by 32-bit numbers holds"
        refused = self._run("scatter_rows", weights, indices, rows, *indices.shape, rows.shape[1], n_features, out)
        _check(refused, indices, n_features)
        return out

    def top_per_row(self, score: Float[Tensor, "n F"], k: int, *, magnitude: bool = False) -> Int[Tensor, "n k"]:
        """Features of the k largest scores (or magnitudes) of each row, ascending.

        NaN ranks above all; of scores that tie the first features are taken.
        """
        n, n_features = score.shape
        assert k <= n_features, f"the {k} largest of {n_features} features"
        score, features = _scores(score), torch.empty(n, k, dtype=torch.long)
        if k:
            self._run("top_per_row", score, score.dtype == torch.bfloat16, n, n_features, k, magnitude, features)
        return features

    def above(
        self,
        pre: Float[Tensor, "n F"],
        score: Float[Tensor, "n F"],
        threshold: Float[Tensor, " F"],
        *,
        positive: bool = True,
        most: int | None = None,
    ) -> tuple[Int[Tensor, " nnz"], Int[Tensor, " nnz"], Float[Tensor, " nnz"]] | None:
        """Token, feature and value of (positive) pre-activations whose score is above the threshold, in order.

        None where they are more than ``most``.
        """
        assert pre.dtype == score.dtype, f"pre-activations of {pre.dtype}, scores of {score.dtype}"
        pre, score, threshold = _scores(pre), _scores(score), _ready(threshold.float())
        counts = torch.zeros(len(pre), dtype=torch.long)
        given = (pre, score, pre.dtype == torch.bfloat16, positive, threshold, *pre.shape)
        self._run("above", *given, counts, None, None, None)
        total = int(counts.sum())
        if most is not None and total > most:
            return None
        feature, value = torch.empty(total, dtype=torch.long), torch.empty(total)
        if total:
            self._run("above", *given, counts, counts.cumsum(0) - counts, feature, value)
        return torch.arange(len(pre)).repeat_interleave(counts), feature, value

    def encode_topk(
        self,
        z: Float[Tensor, "n d"],
        rows: Float[Tensor, "F d"],
        bias: Float[Tensor, " F"],
        norm: Float[Tensor, " F"] | None,
        k: int,
        candidates: int,
    ) -> tuple[Float[Tensor, "n k"], Int[Tensor, "n k"]]:
        """Values ``max(z @ rows.T + bias, 0)`` and features of the k largest scores of each token, features ascending.

        Candidates are chosen by 8-bit products; their exact scores decide.
        """
        n, d, n_features = *z.shape, len(rows)
        assert k <= candidates <= n_features, f"the {k} largest of {candidates} candidates of {n_features} features"
        assert d <= 2**16, f"sums of {d} products of 8 bits are more than 32 bits hold"
        z, rows, bias, norm = _ready(z), _ready(rows), _ready(bias), None if norm is None else _ready(norm)
        values, features = torch.empty(n, k), torch.empty(n, k, dtype=torch.long)
        if k:
            self._run("encode_topk", z, rows, bias, norm, n, d, n_features, k, candidates, values, features)
        return values, features

    def adam_rows_(
        self,
        weight: Float[Tensor, "n d"],
        grad: Float[Tensor, "n d"],
        first: Float[Tensor, "n d"],
        second: Float[Tensor, "n d"],
        *,
        step: int,
        lr: float,
        betas: tuple[float, float],
        eps: float,
        scale: float = 1.0,
        unit_norm: bool = False,
    ) -> None:
        """One step of Adam in place; the ``step``-th, counted from 1, with the gradient times ``scale``.

        With ``unit_norm`` the gradient's part along each row of norm 1 is removed, and the row is returned to norm 1.
        """
        tensors = (weight, grad, first, second)
        assert all(t.is_contiguous() and t.dtype == torch.float32 for t in tensors), "rows of fp32, one after the other"
        correction1, correction2 = (1 - beta**step for beta in betas)
        settings = (lr / correction1, *betas, eps, correction2**-0.5, scale, unit_norm)
        self._run("adam_rows", *tensors, *weight.shape, *settings)

    def _run(self, name: str, *arguments: Tensor | float | None) -> int:
        plain = [part.data_ptr() if isinstance(part, Tensor) else part for part in arguments]
        refused: int | None = getattr(self._library, f"monoscope_{name}")(*plain, torch.get_num_threads())
        return refused or 0


def _ready(tensor: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    assert tensor.dtype == dtype, f"a kernel of {dtype} was given {tensor.dtype}"
    return tensor.detach().contiguous()


def _scores(tensor: Tensor) -> Tensor:
    return (tensor if tensor.dtype == torch.bfloat16 else tensor.float()).detach().contiguous()


def _numbers(indices: Tensor) -> Tensor:
    return indices.detach().long().contiguous()


def _check(refused: int, indices: Tensor, n_features: int) -> None:
    if refused:
        found = f"{int(indices.min())} to {int(indices.max())}"
        raise IndexError(f"features {found} of a dictionary that has {n_features}, counted from 0")
