"""Counts of magnitudes per feature, in bins read off the bits of a float32.

A bin is 1/64 of an octave's span, 0.8 to 1.6 % wide whatever the scale. Each feature has 16 octaves below a ceiling of
its own, which rises with the largest magnitude seen; what lies further below is counted in the lowest bin. So nothing
is ever binned again, and counts below a magnitude, or the magnitude below which there are so many, are right to the
width of a bin: within one they are interpolated.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32, Float64, Int32, Int64, Integer

OCTAVES, BITS = 16, 6
PER_OCTAVE = 2**BITS
N_BINS = OCTAVES * PER_OCTAVE
SHIFT = 23 - BITS
HEADROOM = 2 * PER_OCTAVE


class MagnitudeBins:
    """Counts of positive numbers by (feature, bin)."""

    def __init__(self, n_features: int) -> None:
        self.counts = np.zeros((n_features, N_BINS), np.uint32)
        self.floor = np.full(n_features, -1, np.int64)  # bits of the lowest bin's lower edge; -1 before any count

    def add(self, feature: Int32[np.ndarray, " n"], magnitude: Float32[np.ndarray, " n"]) -> None:
        """Count numbers; ``feature`` is sorted."""
        if not len(feature):
            return
        place = (magnitude.view(np.int32) >> SHIFT).astype(np.int64)
        starts = np.flatnonzero(np.diff(feature, prepend=-1))
        self._raise(feature[starts], np.maximum.reduceat(place, starts))
        index = feature * np.int64(N_BINS) + np.maximum(place - self.floor[feature], 0)
        np.add.at(self.counts.reshape(-1), index, np.uint32(1))

    def absorb(self, other: MagnitudeBins) -> None:
        """Add another's counts."""
        seen = np.flatnonzero(other.floor >= 0)
        new = seen[self.floor[seen] < 0]
        self.floor[new] = other.floor[new]
        low, high = seen[self.floor[seen] < other.floor[seen]], seen[self.floor[seen] > other.floor[seen]]
        self._lift(low, other.floor[low] - self.floor[low])
        other._lift(high, self.floor[high] - other.floor[high])
        self.counts += other.counts

    def below(self, rows: slice, at: Float64[np.ndarray, "rows q"]) -> Float64[np.ndarray, "rows q"]:
        """How many numbers of each feature are smaller than ``at``, which is not negative."""
        cumulative, floor = self._cumulative(rows), self._floor(rows)
        place = np.clip((at.astype(np.float32).view(np.int32) >> SHIFT) - floor, 0, N_BINS - 1)
        left, right = self._edges(place, floor)
        share = np.clip((at - left) / (right - left), 0, 1)
        before, after = (np.take_along_axis(cumulative, place + i, axis=1) for i in (0, 1))
        return before + share * (after - before)

    def magnitude(self, rows: slice, count: Float64[np.ndarray, "rows q"]) -> Float64[np.ndarray, "rows q"]:
        """The magnitude below which there are ``count`` numbers of each feature."""
        cumulative, floor = self._cumulative(rows), self._floor(rows)
        # One search serves all rows once they are laid end to end, each above the one before.
        n, width = cumulative.shape
        lift = np.arange(n)[:, None] * (cumulative[:, -1].max(initial=0) + 1.0)
        found = np.searchsorted((cumulative + lift).reshape(-1), (count + lift).reshape(-1), side="left")
        place = np.clip(found.reshape(n, -1) - np.arange(n)[:, None] * width - 1, 0, N_BINS - 1)
        left, right = self._edges(place, floor)
        before, after = (np.take_along_axis(cumulative, place + i, axis=1) for i in (0, 1))
        return left + np.clip((count - before) / np.maximum(after - before, 1e-12), 0, 1) * (right - left)

    def _raise(self, features: Int32[np.ndarray, " m"], place: Int64[np.ndarray, " m"]) -> None:
        new = self.floor[features] < 0
        self.floor[features[new]] = np.maximum(place[new] + HEADROOM - N_BINS + 1, 0)
        lack = place - self.floor[features] - (N_BINS - 1)
        features, lack = features[lack > 0], lack[lack > 0]
        if not len(features):
            return
        self._lift(features, -(-lack // PER_OCTAVE) * PER_OCTAVE)

    def _lift(self, features: Integer[np.ndarray, " m"], step: Int64[np.ndarray, " m"]) -> None:
        """Raise floors by some bins: what then lies below them is counted in the lowest bin."""
        self.floor[features] += step
        counts, step = self.counts[features], np.minimum(step, N_BINS)[:, None]
        source = np.arange(N_BINS) + step
        moved = np.where(source < N_BINS, np.take_along_axis(counts, np.minimum(source, N_BINS - 1), axis=1), 0)
        moved[:, 0] = np.take_along_axis(np.cumsum(counts, axis=1), np.minimum(step, N_BINS - 1), axis=1)[:, 0]
        self.counts[features] = moved

    def _floor(self, rows: slice) -> Int64[np.ndarray, "rows 1"]:
        return np.maximum(self.floor[rows], 0)[:, None]

    def _cumulative(self, rows: slice) -> Float64[np.ndarray, "rows edges"]:
        return np.pad(np.cumsum(self.counts[rows], axis=1, dtype=np.float64), ((0, 0), (1, 0)))

    def _edges(
        self, place: Int64[np.ndarray, "rows q"], floor: Int64[np.ndarray, "rows 1"]
    ) -> tuple[Float64[np.ndarray, "rows q"], Float64[np.ndarray, "rows q"]]:
        def value(place: Int64[np.ndarray, "rows q"]) -> Float64[np.ndarray, "rows q"]:
            return (((place + floor) << SHIFT).astype(np.int32)).view(np.float32).astype(np.float64)

        return np.where(place > 0, value(place), 0.0), value(place + 1)
