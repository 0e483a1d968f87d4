"""Mixture of low-rank linear transforms: each token passes through those that are active on it.

    out[n] = sum_f acts[n, f] x[n] @ A[f] @ B[f]

Activations in the sparse layout cost memory for what is active alone: the entries are ordered by transform, and each
transform sees its own tokens. In the dense layout every transform sees every token, in two products of width F r, and
the gradient of activations that are 0 is exact too, which thresholds learn from.

Shapes: N tokens, F transforms of one rank r, d and d_out widths.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from monoscope.core.acts import Acts


def mixture(
    acts: Acts, x: Float[Tensor, "n d"], A: Float[Tensor, "F d r"], B: Float[Tensor, "F r d_out"]
) -> Float[Tensor, "n d_out"]:
    """Sum of the transforms of ``x``, weighted by activations."""
    return _dense(acts.values, x, A, B) if acts.indices is None else _gathered(acts, x, A, B)


def _dense(values: Tensor, x: Tensor, A: Tensor, B: Tensor) -> Tensor:
    n_transforms, d, rank = A.shape
    inner = (x @ A.transpose(0, 1).reshape(d, -1)).view(len(x), n_transforms, rank)
    return (inner * values[..., None]).flatten(1) @ B.flatten(0, 1)


def _gathered(acts: Acts, x: Tensor, A: Tensor, B: Tensor) -> Tensor:
    out = x.new_zeros(len(x), B.shape[2])
    rows, transforms, values = acts.coo()
    if not len(rows):
        return out
    order = transforms.argsort(stable=True)
    rows, values = rows[order], values[order]
    counts = transforms.bincount(minlength=len(A)).tolist()
    parts = zip(x[rows].split(counts), A.unbind(), B.unbind(), strict=True)
    moved = torch.cat([own @ a @ b for own, a, b in parts if len(own)])
    return out.index_add(0, rows, moved * values[:, None])
