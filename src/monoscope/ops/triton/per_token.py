"""Rules that choose a fixed number of features for each token: TopK and AbsTopK, and the largest of each group.

TopK in three kernels. ``_candidates``: every tile keeps the c best entries of each token, [N, c, tiles] in all.
``_merge``: the k best of those. They are the k best of all unless one tile's c candidates are all among them, since
only then can the tile hold another. ``_repair`` looks at such tokens again, without a short cut, and passes over all
others: c is chosen so that they are rare, and a tile's features are spread over the dictionary, so that neighbors that
fire together meet in different tiles.
"""

from __future__ import annotations

from math import ceil, sqrt
from typing import no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

from monoscope.ops.triton.tiles import TILE, blocks, feature_of, power_of_two, ranked, scored, tile_of_pre

LOWEST = tl.constexpr(-(2**63))
HIGHEST = tl.constexpr(2**63 - 1)
MOST_MERGED = 2**14  # candidates that the registers of one program hold
MOST_ROUNDS = 128  # each finds one more of the k best: beyond that a radix selection is faster


def candidates_per_tile(k: int, n_tiles: int, width: int) -> int:
    """Entries that a tile keeps of a token: three or four standard deviations above its share of k."""
    share = k / n_tiles
    return min(k, width, power_of_two(ceil(share + 4 * sqrt(share) + 3)))


def top_per_token(z: Tensor, rows: Tensor, b: Tensor, norm: Tensor | None, k: int, is_signed: bool) -> Tensor:
    """Features [n, k] of the k largest scores (magnitudes, where signed) of each token, in any order."""
    n, n_features = len(z), len(rows)
    indices = torch.empty(n, k, dtype=torch.int64, device=z.device)
    if indices.numel() == 0:
        return indices
    grid = TILE.grid(n, n_features)
    kept = candidates_per_tile(k, grid[1], TILE.features)
    candidates = torch.empty(n, kept * grid[1], dtype=torch.int64, device=z.device)
    arguments = TILE.arguments(z, rows, b, norm, is_signed)
    _candidates[grid](candidates=candidates, KEPT=kept, **arguments)
    is_open = _merged(candidates, grid[1], indices)
    if kept < min(k, TILE.features):
        arguments |= {"k": k, "K_PADDED": power_of_two(k), "TOKENS": 1}
        _repair[(n,)](indices=indices, is_open=is_open, **arguments)
    return indices


def _merged(candidates: Tensor, n_tiles: int, indices: Tensor) -> Tensor:
    """Write the features of each token's best candidates; returns where a tile may hold another of the best."""
    (n, n_candidates), k = candidates.shape, indices.shape[1]
    padded = power_of_two(n_candidates)
    if padded > MOST_MERGED or k > MOST_ROUNDS:
        best = candidates.topk(k, sorted=False).values
        indices.copy_(0x7FFFFFFF - (best & 0x7FFFFFFF))
        return candidates[:, -n_tiles:].amax(1) >= best.amin(1)
    is_open = torch.empty(n, dtype=torch.bool, device=candidates.device)
    tokens = max(1, min(2048 // padded, power_of_two(n)))
    _merge[(blocks(n, tokens),)](
        candidates,
        indices,
        is_open,
        n,
        k,
        n_candidates,
        n_tiles,
        CANDIDATES=padded,
        TOKENS=tokens,
        **{"num_warps": 4 if padded <= 2048 else 8},
    )
    return is_open


def largest_per_group(z: Tensor, rows: Tensor, b: Tensor, norm: Tensor | None, n_groups: int) -> Tensor:
    """Feature [n, n_groups] of the largest score of each run of consecutive features, equally long."""
    indices = torch.empty(len(z), n_groups, dtype=torch.int64, device=z.device)
    if len(z):
        grid = (TILE.grid(len(z), 1)[0], n_groups)
        _largest_per_group[grid](indices=indices, n_groups=n_groups, **TILE.arguments(z, rows, b, norm, False))
    return indices


@triton.jit
@no_type_check
def _candidates(
    z,
    rows,
    bias,
    norm,
    candidates,
    n,
    n_features,
    d,
    HAS_NORM: tl.constexpr,
    IS_SIGNED: tl.constexpr,
    KEPT: tl.constexpr,
    TOKENS: tl.constexpr,
    FEATURES: tl.constexpr,
    WIDTH: tl.constexpr,
):
    tile, n_tiles = tl.program_id(1), tl.num_programs(1)
    tokens = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    features = tile + tl.arange(0, FEATURES) * n_tiles
    pre = tile_of_pre(z, rows, bias, tokens, features, n, n_features, d, WIDTH)
    rank = ranked(scored(pre, norm, features, n_features, HAS_NORM, IS_SIGNED), features[None, :])
    rank = tl.where((features < n_features)[None, :], rank, LOWEST)
    for i in range(KEPT):
        best = tl.max(rank, axis=1)
        tl.store(candidates + (tokens.to(tl.int64) * KEPT + i) * n_tiles + tile, best, mask=tokens < n)
        rank = tl.where(rank == best[:, None], LOWEST, rank)


@triton.jit
@no_type_check
def _merge(candidates, indices, is_open, n, k, n_candidates, n_tiles, CANDIDATES: tl.constexpr, TOKENS: tl.constexpr):
    tokens = (tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)).to(tl.int64)
    place = tl.arange(0, CANDIDATES)[None, :]
    is_candidate = (tokens < n)[:, None] & (place < n_candidates)
    rank = tl.load(candidates + tokens[:, None] * n_candidates + place, mask=is_candidate, other=LOWEST)
    kept_last = tl.max(tl.where(place >= n_candidates - n_tiles, rank, LOWEST), axis=1)
    best = tl.max(rank, axis=1)
    for i in range(k):
        best = tl.max(rank, axis=1)
        tl.store(indices + tokens * k + i, feature_of(best), mask=tokens < n)
        rank = tl.where(rank == best[:, None], LOWEST, rank)
    tl.store(is_open + tokens, kept_last >= best, mask=tokens < n)


@triton.jit
@no_type_check
def _repair(
    z,
    rows,
    bias,
    norm,
    indices,
    is_open,
    n,
    n_features,
    d,
    k,
    HAS_NORM: tl.constexpr,
    IS_SIGNED: tl.constexpr,
    K_PADDED: tl.constexpr,
    TOKENS: tl.constexpr,
    FEATURES: tl.constexpr,
    WIDTH: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    if tl.load(is_open + token) != 0:
        slot = tl.arange(0, K_PADDED)
        best = tl.where(slot < k, slot.to(tl.int64) + LOWEST, HIGHEST)
        for first in range(0, n_features, FEATURES):
            features = first + tl.arange(0, FEATURES)
            is_feature = features < n_features
            pre = tl.load(bias + features, mask=is_feature, other=0.0).to(tl.float32)
            for start in range(0, d, WIDTH):
                column = start + tl.arange(0, WIDTH)
                x = tl.load(z + token * d + column, mask=column < d, other=0.0).to(tl.float32)
                w = tl.load(
                    rows + features.to(tl.int64)[:, None] * d + column[None, :],
                    mask=is_feature[:, None] & (column < d)[None, :],
                    other=0.0,
                )
                pre += tl.sum(w.to(tl.float32) * x[None, :], axis=1)
            score = scored(pre[None, :], norm, features, n_features, HAS_NORM, IS_SIGNED)
            rank = tl.where(is_feature[None, :], ranked(score, features[None, :]), LOWEST)
            found = tl.max(tl.max(rank, axis=1), axis=0)
            worst = tl.min(best, axis=0)
            while found > worst:
                best = tl.where(best == worst, found, best)
                rank = tl.where(rank == found, LOWEST, rank)
                found = tl.max(tl.max(rank, axis=1), axis=0)
                worst = tl.min(best, axis=0)
        tl.store(indices + token * k + slot, feature_of(best), mask=slot < k)


@triton.jit
@no_type_check
def _largest_per_group(
    z,
    rows,
    bias,
    norm,
    indices,
    n,
    n_features,
    d,
    n_groups,
    HAS_NORM: tl.constexpr,
    IS_SIGNED: tl.constexpr,
    TOKENS: tl.constexpr,
    FEATURES: tl.constexpr,
    WIDTH: tl.constexpr,
):
    group, size = tl.program_id(1), n_features // n_groups
    tokens = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    best = tl.full([TOKENS], LOWEST, tl.int64)
    for first in range(0, size, FEATURES):
        place = first + tl.arange(0, FEATURES)
        features = group * size + place
        pre = tile_of_pre(z, rows, bias, tokens, features, n, n_features, d, WIDTH)
        rank = ranked(scored(pre, norm, features, n_features, HAS_NORM, IS_SIGNED), features[None, :])
        best = tl.maximum(best, tl.max(tl.where((place < size)[None, :], rank, LOWEST), axis=1))
    tl.store(indices + tokens.to(tl.int64) * n_groups + group, feature_of(best), mask=tokens < n)
