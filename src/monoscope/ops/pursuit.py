"""Matching pursuit on the CPU: by residual correlations, with the gradient of the unrolled choices.

    mp    corr = x @ rows.T once, then after each choice   corr -= c gram[j],   gram = rows @ rows.T
    omp   an orthonormal basis of the chosen rows grows by one vector q a choice:   r -= (q . r) q

The first costs F operations a choice in place of F d; the second keeps its basis orthogonal in ``x``'s own space, since
rows that are themselves activations are too coherent for a Cholesky factor of their Gram matrix in single precision.
Blocks of tokens are small enough for their correlations to stay in cache.

Shapes: N tokens, d width, F rows, k choices. Source of the update: Mallat, Zhang 1993, equation 36.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from monoscope.ops.cpu import scatter_rows
from monoscope.ops.reference import pursuit_rounding

BLOCK_ENTRIES = 2**18  # correlations in a block: 1 MB in fp32
RUN = 64
MOST_GRAM_ENTRIES = 2**28  # 1 GB in fp32; a wider dictionary is projected on again after each choice


def pursue(x: Tensor, rows: Tensor, k: int, method: Literal["mp", "omp"], gram: Tensor | None) -> tuple[Tensor, Tensor]:
    """``reference.pursue`` as values and indices [n, k], in which every index with a value stands once."""
    n_rows = len(rows)
    k = min(k, n_rows, x.shape[1]) if method == "omp" else k
    if n_rows == 0:
        return x.new_zeros(len(x), 0), torch.zeros(len(x), 0, dtype=torch.long)
    with torch.no_grad():
        if gram is None and method == "mp" and n_rows <= len(x) * k and n_rows**2 <= MOST_GRAM_ENTRIES:
            gram = rows @ rows.T
        values, indices = x.new_empty(len(x), k), torch.empty(len(x), k, dtype=torch.long)
        size = max(1, BLOCK_ENTRIES // n_rows)
        for start in range(0, len(x), size):
            block = slice(start, start + size)
            choose = _orthogonal if method == "omp" else _matching
            values[block], indices[block] = choose(x[block], rows, k, gram)
    if not torch.is_grad_enabled() or not (x.requires_grad or rows.requires_grad):
        return _merge(values, indices)
    attach = _LeastSquares if method == "omp" else _Unrolled
    return _merge(attach.apply(x, rows, values, indices), indices)


def pursue_until(
    x: Tensor, rows: Tensor, k: int, positive: bool, tolerance: float, until_repeat: bool
) -> tuple[Tensor, Tensor]:
    """``reference.pursue`` with a rule about signs or ends, as values and indices [n, k]; residuals are kept whole."""
    values, indices = x.new_zeros(len(x), k), torch.zeros(len(x), k, dtype=torch.long)
    with torch.no_grad():
        negligible, residual = pursuit_rounding(x), x.clone()
        is_finished, in_support = (
            torch.zeros(len(x), 1, dtype=torch.bool),
            torch.zeros(len(x), len(rows), dtype=torch.bool),
        )
        for i in range(k):
            correlation = residual @ rows.T
            best = (correlation if positive else correlation.abs()).argmax(1, keepdim=True)
            value = correlation.gather(1, best)
            is_taken = (value > 0 if positive else value.abs() > negligible) & ~is_finished
            value = value.where(is_taken, 0)
            values[:, i], indices[:, i] = value[:, 0], best[:, 0]
            residual.addcmul_(rows[best[:, 0]], value, value=-1)
            if until_repeat:
                is_finished |= ~is_taken | in_support.gather(1, best)
                in_support.scatter_(1, best, in_support.gather(1, best) | is_taken)
            is_finished |= residual.norm(dim=1, keepdim=True) < tolerance
            if is_finished.all():
                break
    if not torch.is_grad_enabled() or not (x.requires_grad or rows.requires_grad):
        return _merge(values, indices)
    return _merge(_Unrolled.apply(x, rows, values, indices), indices)


def _matching(x: Tensor, rows: Tensor, k: int, gram: Tensor | None) -> tuple[Tensor, Tensor]:
    values, indices = x.new_zeros(len(x), k), torch.zeros(len(x), k, dtype=torch.long)
    negligible = pursuit_rounding(x)
    correlation = x @ rows.T
    residual = x.clone() if gram is None else x
    buffer, largest = torch.empty_like(correlation), Largest(correlation)
    for i in range(k):
        best = largest(correlation)
        value = correlation.gather(1, best[:, None])
        value = value.where(value.abs() > negligible, 0)
        values[:, i], indices[:, i] = value[:, 0], best
        if i == k - 1:
            break
        if gram is None:
            residual.addcmul_(rows[best], value, value=-1)
            torch.mm(residual, rows.T, out=correlation)
        else:
            torch.index_select(gram, 0, best, out=buffer)
            correlation.addcmul_(buffer, value, value=-1)
    return values, indices


def _orthogonal(x: Tensor, rows: Tensor, k: int, gram: Tensor | None) -> tuple[Tensor, Tensor]:
    n, d = x.shape
    indices = torch.zeros(n, k, dtype=torch.long)
    basis, upper = x.new_zeros(n, k, d), torch.eye(k).repeat(n, 1, 1)  # chosen rows = upper.T @ basis
    negligible = pursuit_rounding(x)
    residual, is_kept = x.clone(), torch.zeros(n, k, dtype=torch.bool)
    correlation = x.new_empty(n, len(rows))
    largest = Largest(correlation)
    for i in range(k):
        torch.mm(residual, rows.T, out=correlation)
        correlation.scatter_(1, indices[:, :i], correlation.gather(1, indices[:, :i]) * ~is_kept[:, :i])
        best = largest(correlation)
        keep = correlation.gather(1, best[:, None]).abs() > negligible
        atom = rows[best]
        direction, before = atom, basis[:, :i]
        for _ in range(2):  # the second pass removes what rounding left of the first
            along = torch.einsum("nid,nd->ni", before, direction)
            direction = direction - torch.einsum("ni,nid->nd", along, before)
        length = direction.norm(dim=1, keepdim=True)
        keep &= length > 1e-6
        direction = (direction / length.clamp_min(1e-30)).where(keep, 0)
        upper[:, :i, i] = torch.einsum("nid,nd->ni", before, atom).where(keep, 0)
        upper[:, i, i] = length[:, 0].where(keep[:, 0], 1)
        basis[:, i], indices[:, i], is_kept[:, i] = direction, best, keep[:, 0]
        residual = residual - (residual * direction).sum(1, keepdim=True) * direction
    projected = torch.einsum("nid,nd->ni", basis, x)
    values = torch.linalg.solve_triangular(upper, projected[..., None], upper=True)[..., 0]
    return values * is_kept, indices


class Largest:
    """Where each row of a matrix has its largest magnitude: ``matrix.abs().argmax(1)``, in a third of the time.

    Maxima of runs of 64 entries are vectorized, and the search for a place is left to one run a row.
    """

    def __init__(self, like: Tensor) -> None:
        n, width = like.shape
        self.runs = like.new_zeros(n, -(-width // RUN), RUN)
        self.magnitude = self.runs.view(n, -1)[:, :width]

    def __call__(self, matrix: Tensor) -> Tensor:
        """Column of the largest magnitude in every row."""
        torch.abs(matrix, out=self.magnitude)
        run = self.runs.amax(2).argmax(1)
        return run * RUN + self.runs[torch.arange(len(run)), run].argmax(1)


def _merge(values: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
    """Sum the values of an index chosen several times into its first slot; its other slots are padding."""
    first = (indices[:, :, None] == indices[:, None, :]).to(torch.uint8).argmax(2)
    return torch.zeros_like(values).scatter_add(1, first, values), indices


class _Unrolled(torch.autograd.Function):
    """Coefficients of given choices, ``c_i = r_{i-1} . rows_i``, ``r_i = r_{i-1} - c_i rows_i``, with their gradient.

    With ``a_i`` the gradient of ``r_i`` (0 for the last) and ``g_i`` that of ``c_i``, less ``a_i . rows_i``:

        d rows_i = g_i r_{i-1} - c_i a_i        a_{i-1} = a_i + g_i rows_i        d x = a_0
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: Tensor, values: Tensor, indices: Tensor) -> Tensor:
        """The values, unchanged."""
        ctx.save_for_backward(x, rows, values, indices)
        return values.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of x and rows."""
        x, rows, values, indices = ctx.saved_tensors
        residual = x - torch.nn.functional.embedding_bag(indices, rows, per_sample_weights=values, mode="sum")
        adjoint, drows = torch.zeros_like(x), torch.zeros_like(rows)
        for i in reversed(range(indices.shape[1])):
            chosen, value = rows[indices[:, i]], values[:, i, None]
            residual = residual + value * chosen
            g = (grads[0][:, i, None] - (adjoint * chosen).sum(1, keepdim=True)) * (value != 0)
            drows.index_add_(0, indices[:, i], g * residual - value * adjoint)
            adjoint = adjoint + g * chosen
        return adjoint, drows, None, None


class _LeastSquares(torch.autograd.Function):
    """Coefficients of a given support S, ``v = (S S^T)^-1 S x``, with their gradient: for ``w = (S S^T)^-1 dv``,

    d S_i = w_i (x - v @ S) - v_i (w @ S)        d x = w @ S
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: Tensor, values: Tensor, indices: Tensor) -> Tensor:
        """The values, unchanged."""
        ctx.save_for_backward(x, rows, values, indices)
        return values.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of x and rows."""
        x, rows, values, indices = ctx.saved_tensors
        is_kept = values != 0
        support = rows[indices] * is_kept[..., None]
        gram = support @ support.mT + torch.diag_embed((~is_kept).to(x.dtype))
        w = torch.linalg.solve(gram, (grads[0] * is_kept)[..., None])[..., 0]
        residual = x - torch.einsum("nk,nkd->nd", values, support)
        along = torch.einsum("nk,nkd->nd", w, support)
        n_rows = len(rows)
        drows = scatter_rows(w, indices, residual, n_rows) - scatter_rows(values, indices, along, n_rows)
        return along, drows, None, None
