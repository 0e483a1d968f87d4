"""The ops, each sent to the fastest path that is right for its input."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cache
from types import ModuleType
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import mse_loss

from monoscope.core.acts import Acts
from monoscope.ops import above, cpu, layers, pursuit, reference
from monoscope.ops.distance import SquaredDistance
from monoscope.ops.selection import Selection

GPU = "cuda"

_log = logging.getLogger("monoscope.ops")


def _backend(*tensors: Tensor | None) -> ModuleType | None:
    """The fast paths for such tensors; None where the reference has to serve."""
    given = [t for t in tensors if t is not None]
    if all(t.device.type == "cpu" and t.dtype == torch.float32 for t in given):
        return cpu
    is_on_gpu = all(t.device.type == GPU and t.dtype in (torch.float32, torch.bfloat16) for t in given)
    return _kernels() if is_on_gpu else None


@cache
def _kernels() -> ModuleType | None:
    try:
        from monoscope.ops import triton
    except ImportError:
        _log.warning("triton is not installed: CUDA tensors take slower paths; pip install 'monoscope[gpu]'")
        return None
    return triton


def encode(
    x: Float[Tensor, "*batch d"],
    W_enc: Float[Tensor, "d F"],
    b_enc: Float[Tensor, " F"],
    selection: Selection,
    *,
    center: Float[Tensor, " d"] | None = None,
    norm: Float[Tensor, " F"] | None = None,
    dtype: torch.dtype | None = None,
) -> Acts:
    """Pre-activations of the entries that survive a selection; see ``reference.encode``.

    ``dtype`` narrower than the input's selects in that precision and computes the selected values exactly. ``W_enc``
    is read fastest when stored feature by feature, that is when ``W_enc.T`` is contiguous.
    """
    flat, n_features = x.reshape(-1, x.shape[-1]), W_enc.shape[1]
    backend = _backend(flat, W_enc, b_enc, center, norm)
    if backend is None:
        dense = reference.encode(flat, W_enc, b_enc, selection, center=center, norm=norm)
        return Acts(dense.view(*x.shape[:-1], n_features), n_features)
    values, indices = backend.encode(flat, W_enc, b_enc, selection, center, norm, dtype or x.dtype)
    shape = (*x.shape[:-1], values.shape[-1])
    return Acts(values.view(shape), n_features, indices.view(shape))


def encode_above(
    x: Float[Tensor, "*batch d"],
    W_enc: Float[Tensor, "d F"],
    b_enc: Float[Tensor, " F"],
    threshold: Float[Tensor, " F"] | float,
    bandwidth: float,
    *,
    center: Float[Tensor, " d"] | None = None,
    norm: Float[Tensor, " F"] | None = None,
    dtype: torch.dtype | None = None,
) -> Acts:
    """Pre-activations of scores above a threshold, which learns from those near it; see ``reference.encode_above``.

    One number is the threshold of every feature.

    In the sparse layout where few entries fire or are near, else in the dense one. ``dtype`` as in ``encode``.
    """
    flat, n_features = x.reshape(-1, x.shape[-1]), W_enc.shape[1]
    threshold = threshold if isinstance(threshold, Tensor) else b_enc.new_full((n_features,), threshold)
    backend = _backend(flat, W_enc, b_enc, threshold, center, norm)
    given = (flat, W_enc, b_enc, threshold, bandwidth, center, norm)
    if backend is cpu:
        acts = above.encode_above(*given, dtype or x.dtype) or above.encode_dense(*given)
        return acts.shaped(x.shape[:-1])
    if backend is not None and (acts := backend.encode_above(*given, dtype or x.dtype)) is not None:
        return acts.shaped(x.shape[:-1])
    dense = reference.encode_above(flat, W_enc, b_enc, threshold, bandwidth, center=center, norm=norm)
    return Acts(dense.view(*x.shape[:-1], n_features), n_features)


def encode_layers(
    x: Float[Tensor, "*batch layer d"],
    W_enc: Sequence[Float[Tensor, "d F"]],
    b_enc: Sequence[Float[Tensor, " F"]],
    selection: Selection,
    *,
    norm: Float[Tensor, " LF"] | None = None,
    dtype: torch.dtype | None = None,
) -> Acts:
    """Pre-activations, by an encoder for each layer, of the entries that survive; see ``reference.encode_layers``."""
    flat, n_features = x.reshape(-1, *x.shape[-2:]), W_enc[0].shape[1]
    backend = _backend(flat, *W_enc, *b_enc, norm)
    if backend is None:
        dense = reference.encode_layers(flat, W_enc, b_enc, selection, norm=norm)
        return Acts(dense.view(*x.shape[:-2], n_features * len(W_enc)), n_features * len(W_enc))
    on_layers = layers.encode_layers if backend is cpu else backend.encode_layers
    parts = on_layers(flat, W_enc, b_enc, selection, norm, dtype or x.dtype)
    sparse = Acts.joined([Acts(values, n_features, indices) for values, indices in parts])
    assert sparse.indices is not None
    shape = (*x.shape[:-2], sparse.values.shape[-1])
    return Acts(sparse.values.view(shape), sparse.n_features, sparse.indices.view(shape))


def decode(acts: Acts, W_dec: Float[Tensor, "F d"]) -> Float[Tensor, "*batch d"]:
    """Sum of decoder rows, weighted by activations: ``out = sum_f acts[f] W_dec[f]``, over the first rows if few."""
    if acts.indices is None:
        W_dec = W_dec if len(W_dec) == acts.n_features else W_dec[: acts.n_features]  # a slice costs its gradient
        if _backend(acts.values, W_dec) is not cpu:
            return acts.values @ W_dec
        out = above.DenseDecode.apply(acts.values.reshape(-1, acts.n_features), W_dec.contiguous())
        return out.view(*acts.values.shape[:-1], W_dec.shape[1])
    if acts.values.shape[-1] == 0:  # a dictionary that has no features yet
        return acts.values.new_zeros(*acts.values.shape[:-1], W_dec.shape[1])
    values, indices = (t.reshape(-1, t.shape[-1]).contiguous() for t in (acts.values, acts.indices))
    backend = _backend(values, W_dec)
    if backend is cpu:
        counts = acts.window.counts if acts.window is not None else None
        counts = None if counts is None else counts.flatten()
        out = cpu.SparseDecode.apply(values, indices, W_dec.contiguous(), counts)
    else:
        out = (backend or reference).sparse_decode(values, indices, W_dec)
    return out.view(*acts.values.shape[:-1], W_dec.shape[1])


def squared_distance(a: Float[Tensor, "*any"], b: Float[Tensor, "*any"]) -> Float[Tensor, ""]:
    """``sum (a - b)^2``; no difference is kept for the gradient."""
    return SquaredDistance.apply(a, b) if _backend(a, b) is cpu else mse_loss(a, b, reduction="sum")


def kth_largest(scores: Float[Tensor, "*any"], k: int) -> Float[Tensor, ""]:
    """The k-th largest entry of a whole tensor, counting from 1."""
    backend = cpu if scores.device.type == "cpu" else _backend(scores)
    return (backend or reference).kth_largest(scores, k)


@torch.no_grad()
def adam_rows_(
    weight: Float[Tensor, "rows d"],
    grad: Float[Tensor, "rows d"],
    exp_avg: Float[Tensor, "rows d"],
    exp_avg_sq: Float[Tensor, "rows d"],
    *,
    step: int,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    scale: Float[Tensor, ""] | None = None,
    unit_norm: bool = False,
) -> None:
    """One step of Adam in place, with ``unit_norm`` on rows that keep norm 1; see ``reference.adam_rows_``."""
    backend = _backend(weight, grad, exp_avg, exp_avg_sq, scale) or reference
    backend.adam_rows_(
        weight, grad, exp_avg, exp_avg_sq,
        step=step, lr=lr, betas=betas, eps=eps, scale=scale, unit_norm=unit_norm,
    )  # fmt: skip


def moves_only_finite(x: Float[Tensor, "*any"]) -> bool:
    """Whether ``adam_rows_`` moves nothing where its scale is NaN, for weights like x: nobody has to look first."""
    return x.device.type == GPU and _backend(x) is not None


def pursue(
    x: Float[Tensor, "*batch d"],
    rows: Float[Tensor, "F d"],
    k: int,
    method: Literal["mp", "omp"] = "mp",
    *,
    gram: Float[Tensor, "F F"] | None = None,
    positive: bool = False,
    tolerance: float = 0.0,
    until_repeat: bool = False,
) -> Acts:
    """Coefficients of a (matching or orthogonal) matching pursuit into unit rows; see ``reference.pursue``.

    ``gram``, ``rows @ rows.T``, saves computing it where one dictionary serves many small calls.
    """
    flat = x.reshape(-1, x.shape[-1])
    if _backend(flat, rows, gram) is not cpu:
        dense = reference.pursue(
            flat, rows, k, method, positive=positive, tolerance=tolerance, until_repeat=until_repeat
        )
        return Acts(dense.view(*x.shape[:-1], len(rows)), len(rows))
    if positive or tolerance or until_repeat:
        assert method == "mp", "only matching pursuit chooses by sign, or stops before its k-th choice"
        values, indices = pursuit.pursue_until(flat, rows, k, positive, tolerance, until_repeat)
    else:
        values, indices = pursuit.pursue(flat, rows, k, method, gram)
    shape = (*x.shape[:-1], values.shape[-1])
    return Acts(values.view(shape), len(rows), indices.view(shape))
