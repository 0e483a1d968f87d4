"""Pre-activations in tiles: the matrix product that every selection begins with, and the order of its entries.

    pre [TOKENS, FEATURES] = z [TOKENS, d] @ rows [FEATURES, d].T + b,        score = pre * norm or |pre * norm|

Shapes: N tokens, F features, d width. ``rows`` is the encoder, feature by feature.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, no_type_check

import triton
import triton.language as tl
from torch import Tensor


def blocks(n: int, size: int) -> int:
    """Blocks of a size that cover n."""
    return -(-n // size)


def power_of_two(n: int) -> int:
    """The smallest one that is at least n."""
    return 1 << max(0, n - 1).bit_length()


@dataclass
class Tile:
    """Sizes of a tile, all of them powers of two and at least 16."""

    tokens: int = 64
    features: int = 128
    width: int = 64
    """Of the steps in which dot products are summed."""
    warps: int = 8

    def grid(self, n: int, n_features: int) -> tuple[int, int]:
        """Tiles along tokens and along features."""
        return max(1, blocks(n, self.tokens)), blocks(n_features, self.features)

    def arguments(self, z: Tensor, rows: Tensor, b: Tensor, norm: Tensor | None, is_signed: bool) -> dict[str, Any]:
        """What every kernel that computes tiles is given."""
        if IS_INTERPRETED:
            z, rows = z.float(), rows.float()  # the interpreter's products of bf16 numbers are products of their bits
        return {
            "z": z,
            "rows": rows,
            "bias": b,
            "norm": b if norm is None else norm,
            "n": len(z),
            "n_features": len(rows),
            "d": z.shape[1],
            "HAS_NORM": norm is not None,
            "IS_SIGNED": is_signed,
            "TOKENS": self.tokens,
            "FEATURES": self.features,
            "WIDTH": self.width,
            "num_warps": self.warps,
        }


TILE = Tile()


@triton.jit
@no_type_check
def tile_of_pre(z, rows, bias, tokens, features, n, n_features, d, WIDTH: tl.constexpr):
    """Pre-activations of some tokens and features, summed in fp32; 0 plus a bias of 0 beyond the last of either."""
    is_token, is_feature = tokens < n, features < n_features
    pre = tl.zeros([tokens.shape[0], features.shape[0]], tl.float32)
    for start in range(0, d, WIDTH):
        column = start + tl.arange(0, WIDTH)
        x = tl.load(
            z + tokens.to(tl.int64)[:, None] * d + column[None, :],
            mask=is_token[:, None] & (column < d)[None, :],
            other=0.0,
        )
        w = tl.load(
            rows + features.to(tl.int64)[None, :] * d + column[:, None],
            mask=is_feature[None, :] & (column < d)[:, None],
            other=0.0,
        )
        pre = tl.dot(x, w, pre, input_precision="ieee")
    return pre + tl.load(bias + features, mask=is_feature, other=0.0).to(tl.float32)[None, :]


@triton.jit
@no_type_check
def scored(pre, norm, features, n_features, HAS_NORM: tl.constexpr, IS_SIGNED: tl.constexpr):
    """What ranks entries."""
    score = pre
    if HAS_NORM:
        score = score * tl.load(norm + features, mask=features < n_features, other=0.0).to(tl.float32)[None, :]
    if IS_SIGNED:
        score = tl.abs(score)
    return score


@triton.jit
@no_type_check
def ordered(score):
    """Integers in the order of floats: their bits, those of a negative number inverted but for the sign."""
    bits = score.to(tl.int32, bitcast=True)
    return tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)


@triton.jit
@no_type_check
def ranked(score, features):
    """Score and feature in one integer, in the order of scores; among equal ones the first feature is the largest."""
    return (ordered(score).to(tl.int64) << 32) | (0x7FFFFFFF - features).to(tl.int64)


@triton.jit
@no_type_check
def feature_of(rank):
    """The feature in a rank."""
    return 0x7FFFFFFF - (rank & 0x7FFFFFFF)


IS_INTERPRETED = not isinstance(tile_of_pre, triton.JITFunction)
