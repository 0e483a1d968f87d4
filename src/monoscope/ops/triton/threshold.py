"""Rules that compare with a threshold: a feature's own, or the score that a batch's budget leaves.

``above_threshold`` counts what each tile keeps of each token, and then writes it, in the order of features, into the
places that the counts give: two matrix products, and no entry is moved twice. ``batch_bound`` finds a threshold for a
budget: a histogram of positive scores by their first bits (octave and eighth of one) says between which two bounds the
n-th largest lies, and the lower of them keeps all of the n largest and few others, among which ``kth_largest`` cuts
exactly. Counts are integers, so that adding them in any order gives the same.
"""

from __future__ import annotations

from typing import no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

from monoscope.ops.triton.tiles import TILE, blocks, ordered, scored, tile_of_pre

BINS = 2048  # 8 bits of exponent and 3 of mantissa: all positive floats
PROGRAMS = 512  # that count at the same time
AT_ONCE = 4096  # numbers


def above_threshold(
    z: Tensor, rows: Tensor, b: Tensor, norm: Tensor | None, threshold: Tensor, of_any_sign: bool, most: int
) -> Tensor:
    """Features [n, k] of the (positive) pre-activations whose scores exceed a threshold, padded with -1.

    ``threshold`` holds a number for each feature, or one for all. k is the largest number that a token keeps, at least
    1, and is read back from the device; it is 0 where it would exceed ``most``.
    """
    n, n_features = len(z), len(rows)
    grid = TILE.grid(n, n_features)
    counts = torch.zeros(n, grid[1], dtype=torch.int32, device=z.device)
    arguments = TILE.arguments(z, rows, b, norm, False)
    arguments |= {"threshold": threshold, "step": 0 if threshold.numel() == 1 else threshold.stride(0)}
    arguments["OF_ANY_SIGN"] = of_any_sign
    _above_threshold[grid](counts=counts, ends=counts, indices=counts, k=0, IS_COUNTING=True, **arguments)
    ends = counts.cumsum(1, dtype=torch.int32)
    k = max(1, int(ends[:, -1].max())) if n else 1
    if k > most:
        return torch.empty(n, 0, dtype=torch.int64, device=z.device)
    indices = torch.full((n, k), -1, dtype=torch.int64, device=z.device)
    _above_threshold[grid](counts=counts, ends=ends, indices=indices, k=k, IS_COUNTING=False, **arguments)
    return indices


def batch_bound(z: Tensor, rows: Tensor, b: Tensor, norm: Tensor | None, n_kept: int) -> Tensor:
    """A number [1] exceeded by the ``n_kept`` largest positive scores and few others; 0 where fewer are positive."""
    histogram = torch.zeros(BINS, dtype=torch.int32, device=z.device)
    grid = TILE.grid(len(z), len(rows))
    spread = (grid[0], min(grid[1], blocks(PROGRAMS, grid[0])))
    _histogram_of_pre[spread](histogram=histogram, BINS=BINS, **TILE.arguments(z, rows, b, norm, False))
    from_above = histogram.flip(0).cumsum(0).flip(0)
    lowest = (from_above[1:] >= n_kept).sum(dtype=torch.int32)  # the bin, counted from 1, that holds the n-th largest
    bits = (lowest << 20) - 1
    return bits.clamp_min(0).view(1).view(torch.float32)


def kth_largest(scores: Tensor, k: int) -> Tensor:
    """The k-th largest number, the smallest where there are fewer, and infinity where there are none.

    Digit by digit: three passes that count, and nothing is sorted.
    """
    flat = scores.detach().reshape(-1).float().contiguous()
    if not flat.numel():
        return scores.new_tensor(torch.inf)
    known = torch.zeros(1, dtype=torch.int64, device=flat.device)  # the digits found so far
    left = torch.full((1,), min(k, flat.numel()), dtype=torch.int64, device=flat.device)
    for shift, digits in ((21, 2048), (10, 2048), (0, 1024)):
        histogram = torch.zeros(digits, dtype=torch.int32, device=flat.device)
        programs = max(1, min(blocks(flat.numel(), AT_ONCE), PROGRAMS))
        _histogram[(programs,)](flat, known, histogram, flat.numel(), SHIFT=shift, DIGITS=digits, AT_ONCE=AT_ONCE)
        from_above = histogram.flip(0).cumsum(0).flip(0)
        digit = (from_above >= left).sum().view(1) - 1
        left = left - from_above.gather(0, digit) + histogram.gather(0, digit)
        known = known * digits + digit
    bits = (known - 2**31).to(torch.int32)
    return torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits).view(torch.float32)[0].to(scores.dtype)


@triton.jit
@no_type_check
def _above_threshold(
    z,
    rows,
    bias,
    norm,
    threshold,
    step,
    counts,
    ends,
    indices,
    n,
    n_features,
    d,
    k,
    HAS_NORM: tl.constexpr,
    IS_SIGNED: tl.constexpr,
    IS_COUNTING: tl.constexpr,
    OF_ANY_SIGN: tl.constexpr,
    TOKENS: tl.constexpr,
    FEATURES: tl.constexpr,
    WIDTH: tl.constexpr,
):
    tile, n_tiles = tl.program_id(1), tl.num_programs(1)
    tokens = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    features = tile * FEATURES + tl.arange(0, FEATURES)
    pre = tile_of_pre(z, rows, bias, tokens, features, n, n_features, d, WIDTH)
    score = scored(pre, norm, features, n_features, HAS_NORM, IS_SIGNED)
    bound = tl.load(threshold + features.to(tl.int64) * step, mask=features < n_features, other=0.0).to(tl.float32)
    is_kept = (
        ((pre > 0) | OF_ANY_SIGN) & (score > bound[None, :]) & (features < n_features)[None, :] & (tokens < n)[:, None]
    )
    kept = is_kept.to(tl.int32)
    place = tokens.to(tl.int64) * n_tiles + tile
    if IS_COUNTING:
        tl.store(counts + place, tl.sum(kept, axis=1), mask=tokens < n)
    else:
        end = tl.load(ends + place, mask=tokens < n, other=0)
        first = end - tl.load(counts + place, mask=tokens < n, other=0)
        slot = first[:, None] + tl.cumsum(kept, axis=1) - 1
        own = indices + tokens.to(tl.int64)[:, None] * k
        tl.store(own + slot, features.to(tl.int64)[None, :] + tl.zeros_like(slot), mask=is_kept & (slot < end[:, None]))


@triton.jit
@no_type_check
def _add_counts(histogram, counts, BINS: tl.constexpr):
    tl.atomic_add(histogram + tl.arange(0, BINS), counts, mask=counts > 0, sem="relaxed")


@triton.jit
@no_type_check
def _histogram_of_pre(
    z,
    rows,
    bias,
    norm,
    histogram,
    n,
    n_features,
    d,
    HAS_NORM: tl.constexpr,
    IS_SIGNED: tl.constexpr,
    BINS: tl.constexpr,
    TOKENS: tl.constexpr,
    FEATURES: tl.constexpr,
    WIDTH: tl.constexpr,
):
    tokens = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    counts = tl.zeros([BINS], tl.int32)
    for first in range(tl.program_id(1) * FEATURES, n_features, tl.num_programs(1) * FEATURES):
        features = first + tl.arange(0, FEATURES)
        pre = tile_of_pre(z, rows, bias, tokens, features, n, n_features, d, WIDTH)
        score = scored(pre, norm, features, n_features, HAS_NORM, IS_SIGNED)
        is_counted = (score > 0) & (features < n_features)[None, :] & (tokens < n)[:, None]
        bins = tl.where(is_counted, score.to(tl.int32, bitcast=True) >> 20, 0)
        counts += tl.histogram(tl.reshape(bins, [TOKENS * FEATURES]), BINS)
    _add_counts(histogram, counts, BINS)


@triton.jit
@no_type_check
def _histogram(scores, known, histogram, n, SHIFT: tl.constexpr, DIGITS: tl.constexpr, AT_ONCE: tl.constexpr):
    before = tl.load(known)
    counts = tl.zeros([DIGITS], tl.int32)
    beyond = 0
    for first in range(tl.program_id(0) * AT_ONCE, n, tl.num_programs(0) * AT_ONCE):
        place = first + tl.arange(0, AT_ONCE)
        score = tl.load(scores + place, mask=place < n, other=0.0)
        rank = ordered(score).to(tl.int64) + 2147483648
        is_counted = (place < n) & ((rank >> SHIFT) // DIGITS == before)
        counts += tl.histogram(tl.where(is_counted, (rank >> SHIFT) % DIGITS, 0).to(tl.int32), DIGITS)
        beyond += tl.sum((~is_counted).to(tl.int32), axis=0)
    counts -= tl.where(tl.arange(0, DIGITS) == 0, beyond, 0)  # what was not counted stands under digit 0
    _add_counts(histogram, counts, DIGITS)
