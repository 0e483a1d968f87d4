"""How often and how strongly each feature fires: counts, moments, extremes, histogram, quantiles, shares by interval.

Counts, moments and extremes are exact. Histograms over (0, max], quantiles and shares are read off ``MagnitudeBins``.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float32, Float64

from monoscope.features.collectors.bins import MagnitudeBins
from monoscope.features.columns import Columns, Ragged
from monoscope.features.firings import Firings

N_SHOWN = 50
QUANTILES = np.linspace(0, 1, 11)
ROWS = 512
SUMS = ("n_fired", "n_sequences", "n_first", "total", "squares", "n_negative")


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
        self.positive = MagnitudeBins(n_features)
        self.negative: MagnitudeBins | None = None  # made with the first negative value
        self.n_negative = np.zeros(n_features, np.int64)

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
        negative = firings.value < 0
        if negative.any():
            if self.negative is None:
                self.negative = MagnitudeBins(len(self.n_fired))
            self.negative.add(firings.feature[negative], -firings.value[negative])
            self.n_negative += np.bincount(firings.feature[negative], minlength=len(self.n_fired))
        self.positive.add(firings.feature[~negative], firings.value[~negative])

    def absorb(self, other: Activity) -> None:
        """Take in what another collected on other sequences."""
        self.n_tokens += other.n_tokens
        for name in SUMS:
            getattr(self, name).__iadd__(getattr(other, name))
        self.high, self.low = np.maximum(self.high, other.high), np.minimum(self.low, other.low)
        self.positive.absorb(other.positive)
        if other.negative is not None:
            if self.negative is None:
                self.negative = MagnitudeBins(len(self.n_fired))
            self.negative.absorb(other.negative)

    def state(self) -> dict[str, np.ndarray]:
        """All that was collected, as arrays."""
        out = {name: getattr(self, name) for name in (*SUMS, "high", "low")} | {"n_tokens": np.array([self.n_tokens])}
        for sign in ("positive", "negative"):
            if (bins := getattr(self, sign)) is not None:
                out |= {f"{sign}.counts": bins.counts, f"{sign}.floor": bins.floor}
        return out

    def load(self, state: Mapping[str, np.ndarray]) -> None:
        """Go on from a state."""
        self.n_tokens = int(state["n_tokens"][0])
        for name in (*SUMS, "high", "low"):
            setattr(self, name, state[name])
        for sign in ("positive", "negative"):
            if f"{sign}.counts" in state:
                bins = MagnitudeBins(0)
                bins.counts, bins.floor = state[f"{sign}.counts"], state[f"{sign}.floor"]
                setattr(self, sign, bins)

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

    def _below(self, rows: slice, at: Float64[np.ndarray, "rows q"]) -> Float64[np.ndarray, "rows q"]:
        """Firings with values below ``at``, right to the width of a bin, and exact at both ends."""
        n_negative = self.n_negative[rows, None]
        below = np.where(at > 0, self.positive.below(rows, np.maximum(at, 0)), 0) + n_negative
        if self.negative is not None:
            below = np.where(at < 0, n_negative - self.negative.below(rows, np.maximum(-at, 0)), below)
        # Edges belong to the weaker side: the largest value lies below a bound equal to it, the most negative does not.
        high, low = self.high[rows, None], self.low[rows, None]
        below = np.where((at > high) | ((at == high) & (at >= 0)), self.n_fired[rows, None], below)
        return np.where((at < low) | ((at == low) & (at < 0)), 0, below)

    def _quantiles(self, rows: slice, q: Float64[np.ndarray, " q"]) -> Float32[np.ndarray, "rows q"]:
        fired, n_negative = self.n_fired[rows, None], self.n_negative[rows, None]
        rank = q * fired
        value = self.positive.magnitude(rows, np.maximum(rank - n_negative, 0))
        if self.negative is not None:
            negative = -self.negative.magnitude(rows, np.maximum(n_negative - rank, 0))
            value = np.where(rank < n_negative, negative, value)
        low, high = self.low[rows, None], self.high[rows, None]
        value = np.where(q == 0, low, np.where(q == 1, high, np.clip(value, low, high)))
        return np.where(fired > 0, value, 0).astype(np.float32)
