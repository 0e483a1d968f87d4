"""How often and how strongly each feature fires: counts, moments, extremes, histogram, quantiles, shares by interval.

Values are counted in bins read off the bits of a float32: 64 bins an octave, 20 octaves below a ceiling that rises
with the largest value seen. A bin is 0.8 to 1.6 % wide, whatever the scale, and nothing is ever binned again;
histograms over (0, max], quantiles and shares come from it by interpolation between the edges of bins.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32, Float64, Int32, UInt32

from monoscope.features.columns import Columns, Ragged
from monoscope.features.firings import Firings

OCTAVES, PER_OCTAVE = 20, 64
N_BINS = OCTAVES * PER_OCTAVE
SHIFT = 23 - 6
N_SHOWN = 50
QUANTILES = np.linspace(0, 1, 11)
ROWS = 512


class Activity:
    """Counts, moments, extremes and histograms of feature activations. Values may have either sign."""

    def __init__(self, n_features: int, intervals: int) -> None:
        self.intervals, self.n_tokens = intervals, 0
        self.n_fired = np.zeros(n_features, np.int64)
        self.n_sequences = np.zeros(n_features, np.int64)
        self.n_first = np.zeros(n_features, np.int64)
        self.total = np.zeros(n_features)
        self.squares = np.zeros(n_features)
        self.high = np.full(n_features, -np.inf, np.float32)
        self.low = np.full(n_features, np.inf, np.float32)
        self.floor: int | None = None  # bits of the lowest bin's lower edge
        self.bins = {False: np.zeros((n_features, N_BINS), np.uint32)}  # by "is negative"

    def update(self, firings: Firings) -> None:
        """Count a batch."""
        self.n_tokens += firings.n_tokens
        if not len(firings.feature):
            return
        features, starts = firings.features, firings.segments[:-1]
        self.n_fired[features] += np.diff(firings.segments)
        self.n_sequences += np.bincount(firings.feature[firings.groups[:-1]], minlength=len(self.n_fired))
        self.n_first += np.bincount(firings.feature[firings.position == 0], minlength=len(self.n_fired))
        self.total[features] += np.add.reduceat(firings.value, starts, dtype=np.float64)
        self.squares[features] += np.add.reduceat(np.square(firings.value, dtype=np.float64), starts)
        self.high[features] = np.maximum(self.high[features], np.maximum.reduceat(firings.value, starts))
        self.low[features] = np.minimum(self.low[features], np.minimum.reduceat(firings.value, starts))
        self._count(firings.feature, firings.value)

    @property
    def reach(self) -> Float32[np.ndarray, " F"]:
        """Largest absolute activation of each feature; 0 for one that never fired."""
        return np.where(self.n_fired > 0, np.maximum(self.high, -self.low), 0).astype(np.float32)

    def finish(self) -> Columns:
        """Columns of the feature table, and these of the details; lists of features that never fired are empty.

        act_edges, act_counts: 50 equal bins from 0, or from the most negative value, to the largest
        act_quantiles: deciles of the activations where it fires, smallest and largest included
        interval_edges: bounds of the intervals from the strongest down to 0; interval_share: firing tokens in each
        """
        parts: dict[str, list[np.ndarray]] = {}
        for start in range(0, len(self.n_fired), ROWS):
            for name, table in self._shown(slice(start, start + ROWS)).items():
                parts.setdefault(name, []).append(table)
        tables = {name: np.concatenate(part) for name, part in parts.items()}
        alive = self.n_fired > 0
        fired = np.maximum(self.n_fired, 1)
        mean = self.total / fired
        scalars = {
            "n_fired": self.n_fired.astype(np.uint64),
            "density": (self.n_fired / max(self.n_tokens, 1)).astype(np.float32),
            "n_sequences": self.n_sequences.astype(np.uint32),
            "max_act": np.where(alive, self.high, 0).astype(np.float32),
            "p999_act": tables.pop("p999_act")[:, 0],
            "mean_act": mean.astype(np.float32),
            "std_act": np.sqrt(np.maximum(self.squares / fired - mean**2, 0)).astype(np.float32),
            "is_dead": ~alive,
            "first_pos_share": (self.n_first / fired).astype(np.float32),
        }
        keep = {name: np.broadcast_to(alive[:, None], table.shape) for name, table in tables.items()}
        return Columns(scalars, {name: Ragged.from_table(table, keep[name]) for name, table in tables.items()})

    def _shown(self, rows: slice) -> dict[str, np.ndarray]:
        high, low = (np.where(self.n_fired[rows] > 0, x[rows], 0).astype(np.float64) for x in (self.high, self.low))
        bottom, top = np.minimum(low, 0), np.maximum(high, 0)
        edges = bottom[:, None] + (top - bottom)[:, None] * np.linspace(0, 1, N_SHOWN + 1)
        below = np.rint(self._below(rows, edges))
        below[:, 0] = 0
        counts = np.diff(below, axis=1)
        bands = self.reach[rows, None].astype(np.float64) * np.linspace(1, 0, self.intervals + 1)
        inside = self._below(rows, bands) - self._below(rows, -bands)
        share = -np.diff(inside, axis=1) / np.maximum(self.n_fired[rows, None], 1)
        return {
            "act_edges": edges.astype(np.float32),
            "act_counts": counts.astype(np.uint64),
            "act_quantiles": self._quantiles(rows, QUANTILES),
            "p999_act": self._quantiles(rows, np.array([0.999])),
            "interval_edges": bands.astype(np.float32),
            "interval_share": share.astype(np.float32),
        }

    def _count(self, feature: Int32[np.ndarray, " n"], value: Float32[np.ndarray, " n"]) -> None:
        place = np.abs(value).view(np.int32) >> SHIFT
        self._raise_ceiling(int(place.max()))
        assert self.floor is not None
        index = feature.astype(np.int64) * N_BINS + np.clip(place - self.floor, 0, N_BINS - 1)
        negative = value < 0
        if negative.any():
            table = self.bins.setdefault(True, np.zeros_like(self.bins[False]))
            np.add.at(table.reshape(-1), index[negative], np.uint32(1))
            index = index[~negative]
        np.add.at(self.bins[False].reshape(-1), index, np.uint32(1))

    def _raise_ceiling(self, place: int) -> None:
        if self.floor is None:
            self.floor = max(place + 2 * PER_OCTAVE - N_BINS + 1, 0)
        elif (lack := place - self.floor - (N_BINS - 1)) > 0:
            step = -(-lack // PER_OCTAVE) * PER_OCTAVE
            kept = min(step, N_BINS)
            for table in self.bins.values():
                dropped = table[:, :kept].sum(1)
                table[:, : N_BINS - kept] = table[:, kept:]
                table[:, N_BINS - kept :] = 0
                table[:, 0] += dropped.astype(np.uint32)
            self.floor += step

    def _grid(self) -> Float64[np.ndarray, " edges"]:
        """Edges of the bins, negative ones included where there are any, then the gap around 0."""
        floor = 0 if self.floor is None else self.floor
        edges = ((np.arange(N_BINS + 1) + floor).astype(np.int32) << SHIFT).view(np.float32).astype(np.float64)
        edges[0] = 0.0
        return edges if True not in self.bins else np.concatenate([-edges[:0:-1], edges])

    def _table(self, rows: slice) -> UInt32[np.ndarray, "rows bins"]:
        positive = self.bins[False][rows]
        return positive if True not in self.bins else np.concatenate([self.bins[True][rows, ::-1], positive], axis=1)

    def _cumulative(self, rows: slice) -> Float64[np.ndarray, "rows edges"]:
        return np.pad(np.cumsum(self._table(rows), axis=1, dtype=np.float64), ((0, 0), (1, 0)))

    def _below(self, rows: slice, at: Float64[np.ndarray, "rows q"]) -> Float64[np.ndarray, "rows q"]:
        """Firings with values below ``at``, interpolated within a bin but exact at both ends."""
        grid, cumulative = self._grid(), self._cumulative(rows)
        place = np.clip(np.searchsorted(grid, at, side="right") - 1, 0, len(grid) - 2)
        share = np.clip((at - grid[place]) / (grid[place + 1] - grid[place]), 0, 1)
        left = np.take_along_axis(cumulative, place, axis=1)
        right = np.take_along_axis(cumulative, place + 1, axis=1)
        below = left + share * (right - left)
        # Edges belong to the weaker side: the largest value lies below a bound equal to it, the most negative does not.
        high, low = self.high[rows, None], self.low[rows, None]
        below = np.where((at > high) | ((at == high) & (at >= 0)), self.n_fired[rows, None], below)
        return np.where((at < low) | ((at == low) & (at < 0)), 0, below)

    def _quantiles(self, rows: slice, q: Float64[np.ndarray, " q"]) -> Float32[np.ndarray, "rows q"]:
        grid, cumulative = self._grid(), self._cumulative(rows)
        n, fired = len(cumulative), self.n_fired[rows]
        target = q * fired[:, None]
        # One search serves all rows once they are laid end to end, each above the one before.
        lift = np.arange(n)[:, None] * (fired.max(initial=0) + 1.0)
        found = np.searchsorted((cumulative + lift).reshape(-1), (target + lift).reshape(-1), side="left")
        width = cumulative.shape[1]
        place = np.clip(found.reshape(n, -1) - np.arange(n)[:, None] * width - 1, 0, width - 2)
        left = np.take_along_axis(cumulative, place, axis=1)
        right = np.take_along_axis(cumulative, place + 1, axis=1)
        share = np.clip((target - left) / np.maximum(right - left, 1e-12), 0, 1)
        value = grid[place] + share * (grid[place + 1] - grid[place])
        value = np.clip(value, self.low[rows, None], self.high[rows, None])
        value = np.where(q == 0, self.low[rows, None], np.where(q == 1, self.high[rows, None], value))
        return np.where(fired[:, None] > 0, value, 0).astype(np.float32)
