"""The CPU path of functions whose features fire above a threshold of their own, learned or not, in training.

A threshold learns through a rectangle kernel, from the entries whose score lies in a window around it, firing or not.
Those are held beside the entries that fire, with value 0, so that the decoder's gradient reaches them. Where they are
many, ``[N, F]`` and the gradient of all of it cost less: two dense products, while the others go through entries that
fire alone.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from monoscope.core.acts import Acts, Window
from monoscope.ops.blocks import Blocks, in_bf16
from monoscope.ops.cpu import Attach, gathered_dot, nonzero, pad, scatter_rows, weighted_rows
from monoscope.ops.native import kernels

MOST_HELD = 1 / 32  # share of entries
MOST_FIRING = 1 / 16
BLOCK_ENTRIES = 2**20


def encode_above(
    x: Tensor,
    W_enc: Tensor,
    b_enc: Tensor,
    threshold: Tensor,
    bandwidth: float,
    center: Tensor | None,
    norm: Tensor | None,
    dtype: torch.dtype,
) -> Acts | None:
    """``reference.encode_above`` in the sparse layout; None where too many entries fire or lie in a window.

    A ``dtype`` narrower than the input's decides in that precision; values are then computed exactly.
    """
    with torch.no_grad():
        z = x if center is None else x - center
        rows = W_enc.T.contiguous()
        dtype = in_bf16(dtype, x.dtype)
        blocks = Blocks(z, rows, b_enc, norm, dtype)
        held = _held(blocks, threshold.to(dtype), bandwidth)
        if held is None:
            return None
        token, feature, value, is_near = held
        values, indices, near = pad(token, value, feature, is_near, n=blocks.n)
        if dtype != x.dtype:
            exact = gathered_dot(z, rows, indices, values != 0).add_(b_enc[indices])
            score = exact if norm is None else exact * norm[indices]
            values = exact * ((values != 0) & (score > threshold[indices]))
    values = Attach.apply(x, W_enc, b_enc, center, z, values, indices)
    if not bandwidth:
        return Acts(values, len(rows), indices)
    values = Near.apply(values, threshold, indices, near, norm, bandwidth)
    counts, near_of = torch.bincount(token, minlength=blocks.n), torch.bincount(feature[is_near], minlength=len(rows))
    return Acts(values, len(rows), indices, Window(near_of, counts))


def _held(blocks: Blocks, threshold: Tensor, bandwidth: float) -> tuple[Tensor, ...] | None:
    """Token, feature, value and nearness of entries that fire or are near, ordered by token."""
    found, limit = [], MOST_HELD * blocks.n * blocks.n_features
    native = kernels()
    for rows, pre, score in blocks:
        most = int(min(limit, MOST_HELD * pre.numel()))
        if native is not None:
            own = native.above(pre, score, threshold - bandwidth / 2, positive=False, most=most)
        else:
            token, feature = nonzero(score > threshold - bandwidth / 2)
            own = (token, feature, pre[token, feature].float()) if len(token) <= most else None
        if own is None:
            return None
        token, feature, value = own
        distance = score[token, feature] - threshold[feature]
        limit -= len(token)
        found.append((token + rows.start, feature, value * (distance > 0), distance < bandwidth / 2))
    return tuple(torch.cat(parts) for parts in zip(*found, strict=True))


def encode_dense(
    x: Tensor,
    W_enc: Tensor,
    b_enc: Tensor,
    threshold: Tensor,
    bandwidth: float,
    center: Tensor | None,
    norm: Tensor | None,
) -> Acts:
    """``reference.encode_above`` in the dense layout."""
    values, near = EncodeDense.apply(x, W_enc, b_enc, center, threshold, norm, bandwidth)
    return Acts(values, W_enc.shape[1], window=Window(near) if bandwidth else None)


class EncodeDense(torch.autograd.Function):
    """Pre-activations of scores above thresholds ``[n, F]``, and how many scores are near each threshold ``[F]``."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        W_enc: Tensor,
        b_enc: Tensor,
        center: Tensor | None,
        threshold: Tensor,
        norm: Tensor | None,
        eps: float,
    ) -> tuple[Tensor, Tensor]:
        """By blocks of rows."""
        z = x if center is None else x - center
        blocks = Blocks(z, W_enc.T.contiguous(), b_enc, norm, x.dtype)
        shape = (blocks.n, blocks.n_features)
        values, window = torch.empty(shape), torch.empty(shape, dtype=torch.bool) if eps else None
        near = torch.zeros(blocks.n_features, dtype=torch.long)
        for rows, pre, score in blocks:
            torch.mul(pre, score > threshold, out=values[rows])
            if window is not None:
                torch.lt((score - threshold).abs_(), eps / 2, out=window[rows])
                near += window[rows].sum(0)
        ctx.save_for_backward(z, W_enc, threshold, norm, values, window)
        ctx.eps, ctx.is_centered = eps, center is not None
        ctx.mark_non_differentiable(near)
        return values, near

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Through entries that fire to the encoder, sparsely where they are few; through the window to thresholds."""
        z, W_enc, threshold, norm, values, window = ctx.saved_tensors
        g, rows, dthreshold = grads[0], W_enc.T.contiguous(), None
        if window is not None and ctx.needs_input_grad[4]:
            size = max(1, BLOCK_ENTRIES // max(1, len(rows)))
            parts = zip(g.split(size), window.split(size), strict=True)
            slope = torch.stack([(part * near).sum(0) for part, near in parts]).sum(0)
            dthreshold = -(threshold / ctx.eps) * (slope if norm is None else slope / norm)
        delta = sparse(values, g)
        if delta is None:
            dpre = g * (values != 0)
            dW, db, dx = (z.T @ dpre, dpre.sum(0), dpre @ rows if ctx.needs_input_grad[0] else None)
        else:
            dW = scatter_rows(*delta, z, len(rows)).T
            db = torch.zeros(len(rows)).index_add_(0, *(part.flatten() for part in reversed(delta)))
            dx = weighted_rows(*delta, rows) if ctx.needs_input_grad[0] else None
        dcenter = -(db @ rows) if ctx.is_centered and ctx.needs_input_grad[3] else None
        return dx, dW, db, dcenter, dthreshold, None, None


class DenseDecode(torch.autograd.Function):
    """``values @ W_dec`` of dense activations, through those that are not 0 where they are few."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, W_dec: Tensor) -> Tensor:
        """Weighted sum of decoder rows."""
        entries = sparse(values, values)
        ctx.is_sparse = entries is not None
        ctx.save_for_backward(W_dec, *(entries or (values,)))
        return values @ W_dec if entries is None else weighted_rows(*entries, W_dec)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of all values, and of W_dec."""
        W_dec, *entries = ctx.saved_tensors
        g, dW = grads[0].contiguous(), None
        dvalues = g @ W_dec.T if ctx.needs_input_grad[0] else None
        if ctx.needs_input_grad[1]:
            dW = scatter_rows(entries[0], entries[1], g, len(W_dec)) if ctx.is_sparse else entries[0].T @ g
        return dvalues, dW


def sparse(values: Tensor, columns: Tensor) -> tuple[Tensor, Tensor] | None:
    """What stands in ``columns`` where dense values are not 0, and its features, padded; None where that is much."""
    fires = values != 0
    if fires.sum() > MOST_FIRING * fires.numel():
        return None
    token, feature = nonzero(fires)
    entries, indices = pad(token, columns[token, feature], feature, n=len(values))
    return entries, indices


class Near(torch.autograd.Function):
    """Values as a function of thresholds: the identity forward, the kernel's slope ``-(th / eps)`` backward."""

    @staticmethod
    def forward(
        ctx: Any, values: Tensor, threshold: Tensor, indices: Tensor, near: Tensor, norm: Tensor | None, eps: float
    ) -> Tensor:
        """The values, unchanged."""
        ctx.save_for_backward(threshold, indices, near, norm)
        ctx.eps = eps
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of values and thresholds; a kept entry is score / norm, so its slope is divided by the norm."""
        threshold, indices, near, norm = ctx.saved_tensors
        slope = torch.zeros_like(threshold).index_add_(0, indices[near], grads[0][near])
        if norm is not None:
            slope /= norm
        return grads[0], -(threshold / ctx.eps) * slope, None, None, None, None
