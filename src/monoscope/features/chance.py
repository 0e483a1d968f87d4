"""Seeded chance without state: numbers that depend on what they are for, not on the order in which they are drawn.

A corpus cut into other batches, or read by several processes, therefore keeps the same samples.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Integer, UInt64

_STEP, _MIX_A, _MIX_B = (np.uint64(x) for x in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def mix(x: UInt64[np.ndarray, "*shape"]) -> UInt64[np.ndarray, "*shape"]:
    """Scrambles 64-bit integers, one to one (SplitMix64: Steele, Lea and Flood 2014)."""
    x = x + _STEP
    x = (x ^ (x >> np.uint64(30))) * _MIX_A
    x = (x ^ (x >> np.uint64(27))) * _MIX_B
    return x ^ (x >> np.uint64(31))


def draw(seed: int, *labels: Integer[np.ndarray, " n"]) -> UInt64[np.ndarray, " n"]:
    """Random 64-bit integers that are functions of a seed and of integer labels."""
    out = np.full(len(labels[0]), seed, np.uint64)
    for label in labels:
        out = mix(out ^ mix(label.astype(np.uint64)))
    return out
