"""Sums over active entries: the decoder, and every gradient.

    sparse_decode    out[n]    = sum_j weights[n, j] rows[indices[n, j]]             [N, k], [F, d] -> [N, d]
    gathered_dot     out[n, j] = x[n] . rows[indices[n, j]] (+ bias)                  [N, d], [F, d] -> [N, k]
    sum_by_feature   out[f]    = sum of weights[n, j] x[n] over entries of feature f  [N, k], [N, d] -> [F, d]

Rows of weight 0 are not read. Sums are taken in fp32 and always in the same order. For ``sum_by_feature`` the entries
are sorted by feature, once for both weights; a feature that fires often is cut into pieces of ``PIECE`` entries, whose
sums are added in their order.
"""

from __future__ import annotations

from typing import no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

from monoscope.ops.triton.tiles import blocks

PIECE = 512  # entries that one program sums
ENTRIES = 16  # rows read at once
WIDTH = 128  # coordinates of a row read at once


def sparse_decode(weights: Tensor, indices: Tensor, rows: Tensor) -> Tensor:
    """Weighted sum of rows, in their dtype."""
    (n, k), d = weights.shape, rows.shape[1]
    out = rows.new_empty(n, d)
    if out.numel():
        _sparse_decode[(n, blocks(d, WIDTH))](weights, indices, rows, out, k, d, ENTRIES=ENTRIES, WIDTH=WIDTH)
    return out


def gathered_dot(x: Tensor, rows: Tensor, indices: Tensor, bias: Tensor | None = None) -> Tensor:
    """Dot products of tokens with chosen rows, in the tokens' dtype; 0 where an index is negative."""
    n, k = indices.shape
    out = x.new_empty(n, k)
    if out.numel():
        grid = (n, blocks(k, ENTRIES))
        has_bias = bias is not None
        _gathered_dot[grid](
            x, rows, indices, bias if has_bias else rows, out, k, x.shape[1], has_bias, ENTRIES=ENTRIES, WIDTH=WIDTH
        )
    return out


def by_feature(values: Tensor, indices: Tensor, n_features: int) -> tuple[Tensor, Tensor]:
    """Places of entries sorted by feature [N k], and where each feature's begin and end [F + 1]; zeros come last."""
    feature, order = torch.where(values != 0, indices, n_features).flatten().to(torch.int32).sort(stable=True)
    every = torch.arange(n_features + 1, dtype=torch.int32, device=feature.device)
    return order, torch.searchsorted(feature, every)


def sum_by_feature(weights: Tensor, order: Tensor, starts: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Weighted sum of the tokens of each feature's entries [F, d], and of the weights alone [F], in fp32."""
    n_features, (n, d), device = len(starts) - 1, x.shape, x.device
    out = torch.empty(n_features, d, device=device)
    total = torch.empty(n_features, device=device)
    if not out.numel() or not order.numel():
        return out.zero_(), total.zero_()
    # A feature's first piece is summed in its place, the further ones, at most n_pieces of them, beside it.
    n_pieces = order.numel() // PIECE
    further = ((starts.diff() - 1).clamp_min(0) // PIECE).cumsum(0)
    owner = torch.searchsorted(further, torch.arange(n_pieces, device=device), right=True)
    beside = torch.empty(n_pieces, d + 1, device=device)
    tiles, k = blocks(d, WIDTH), order.numel() // n
    _sum_pieces[(n_features + n_pieces, tiles)](
        weights, x, order, starts, further, owner, out, total, beside, n_features, k, d, PIECE, ENTRIES, WIDTH
    )
    if n_pieces:
        _add_pieces[(n_features, tiles)](further, out, total, beside, d, WIDTH)
    return out, total


@triton.jit
@no_type_check
def _sparse_decode(weights, indices, rows, out, k, d, ENTRIES: tl.constexpr, WIDTH: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    sums = tl.zeros([WIDTH], tl.float32)
    for start in range(0, k, ENTRIES):
        slot = start + tl.arange(0, ENTRIES)
        weight = tl.load(weights + token * k + slot, mask=slot < k, other=0.0).to(tl.float32)
        feature = tl.load(indices + token * k + slot, mask=slot < k, other=0).to(tl.int64)
        row = tl.load(
            rows + feature[:, None] * d + column[None, :],
            mask=(weight != 0)[:, None] & (column < d)[None, :],
            other=0.0,
        )
        sums += tl.sum(row.to(tl.float32) * weight[:, None], axis=0)
    tl.store(out + token * d + column, sums, mask=column < d)


@triton.jit
@no_type_check
def _gathered_dot(
    x, rows, indices, bias, out, k, d, HAS_BIAS: tl.constexpr, ENTRIES: tl.constexpr, WIDTH: tl.constexpr
):
    token = tl.program_id(0).to(tl.int64)
    slot = tl.program_id(1) * ENTRIES + tl.arange(0, ENTRIES)
    feature = tl.load(indices + token * k + slot, mask=slot < k, other=-1).to(tl.int64)
    is_entry = feature >= 0
    sums = tl.zeros([ENTRIES], tl.float32)
    for start in range(0, d, WIDTH):
        column = start + tl.arange(0, WIDTH)
        own = tl.load(x + token * d + column, mask=column < d, other=0.0).to(tl.float32)
        row = tl.load(
            rows + feature[:, None] * d + column[None, :], mask=is_entry[:, None] & (column < d)[None, :], other=0.0
        )
        sums += tl.sum(row.to(tl.float32) * own[None, :], axis=1)
    if HAS_BIAS:
        sums += tl.load(bias + feature, mask=is_entry, other=0.0).to(tl.float32)
    tl.store(out + token * k + slot, sums, mask=slot < k)


@triton.jit
@no_type_check
def _sum_pieces(
    weights,
    x,
    order,
    starts,
    further,
    owner,
    out,
    total,
    beside,
    n_features,
    k,
    d,
    PIECE: tl.constexpr,
    ENTRIES: tl.constexpr,
    WIDTH: tl.constexpr,
):
    program = tl.program_id(0)
    is_first = program < n_features
    feature = program.to(tl.int64)
    piece = 0
    if not is_first:
        feature = tl.load(owner + program - n_features)
        if feature < n_features:
            before = tl.load(further + feature - 1, mask=feature > 0, other=0)
            piece = (program - n_features - before + 1).to(tl.int32)
    column = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    if feature < n_features:
        begin = tl.load(starts + feature) + piece * PIECE
        end = tl.minimum(tl.load(starts + feature + 1), begin + PIECE)
        sums = tl.zeros([WIDTH], tl.float32)
        weight_sum = tl.zeros([ENTRIES], tl.float32)
        for start in range(begin, end, ENTRIES):
            place = start + tl.arange(0, ENTRIES)
            entry = tl.load(order + place, mask=place < end, other=0).to(tl.int64)
            weight = tl.load(weights + entry, mask=place < end, other=0.0).to(tl.float32)
            row = tl.load(
                x + (entry // k)[:, None] * d + column[None, :],
                mask=(place < end)[:, None] & (column < d)[None, :],
                other=0.0,
            )
            sums += tl.sum(row.to(tl.float32) * weight[:, None], axis=0)
            weight_sum += weight
        if is_first:
            tl.store(out + feature * d + column, sums, mask=column < d)
            tl.store(total + feature, tl.sum(weight_sum, axis=0))
        else:
            own = beside + (program - n_features).to(tl.int64) * (d + 1)
            tl.store(own + column, sums, mask=column < d)
            tl.store(own + d, tl.sum(weight_sum, axis=0))


@triton.jit
@no_type_check
def _add_pieces(further, out, total, beside, d, WIDTH: tl.constexpr):
    feature = tl.program_id(0).to(tl.int64)
    begin = tl.load(further + feature - 1, mask=feature > 0, other=0)
    end = tl.load(further + feature)
    if begin < end:
        column = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
        sums = tl.load(out + feature * d + column, mask=column < d, other=0.0)
        weight_sum = 0.0
        for piece in range(begin, end):
            sums += tl.load(beside + piece * (d + 1) + column, mask=column < d, other=0.0)
            weight_sum += tl.load(beside + piece * (d + 1) + d)
        tl.store(out + feature * d + column, sums, mask=column < d)
        if tl.program_id(1) == 0:
            tl.store(total + feature, tl.load(total + feature) + weight_sum)
