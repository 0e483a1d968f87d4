"""Candidates for each feature's contexts, kept in flat pools while the corpus passes by.

One candidate is a sequence in which the feature fires, at its strongest token there. Which intervals of (0, max] it
falls into is known only at the end, when max is; so a pool keeps, of each feature,

- the strongest candidates of either sign, copies of one token window counted once and kept at most twice;
- a uniform sample of each stratum, a quarter octave of strength, from max / 8 (and all below it) up to max. As max
  rises, the lowest strata run together.

A sample is the candidates with the smallest of random numbers that depend on (seed, feature, sequence) alone, so
samples of parts unite to the sample of the whole. Candidates that can no longer enter are turned away at the door; the
others wait in a buffer, which is merged into the pool from time to time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Int32, Int64, UInt32

from monoscope.features.chance import draw, mix
from monoscope.features.columns import Ragged, offsets_of, order_of, rank_in_runs, spans
from monoscope.features.firings import Firings

STRATA, SHIFT = 12, 23 - 2  # a quarter octave is two bits of a float's mantissa
PER_STRATUM = 6
COPIES = 2  # a context, and one twin to show that it was no accident
TWIN_BEFORE, TWIN_AFTER = 11, 4  # tokens around the strongest one that make two contexts twins
TWIN_BITS = 42
BUFFER = 2**18
SOURCES = 8  # tokens kept of those that contribute to an activation
FIELDS = ("feature", "sequence", "position", "value", "key", "twin")
LISTS = ("act_pos", "act", "src_pos", "src")
THRESHOLDS = ("reach", "base", "population", "ceiling", "floor")
NO_TOKEN = np.uint64(2**32)
_TWIN_WEIGHTS = mix(np.arange(TWIN_BEFORE + TWIN_AFTER + 1, dtype=np.uint64)) | np.uint64(1)


@dataclass(frozen=True, slots=True)
class Candidates:
    """Sequences in which features fire, at their strongest token there.

    value: the activation at ``position`` of ``sequence`` (numbered through the corpus), with its sign
    key: the random number that decides samples
    twin: hash of the tokens around ``position``
    act_pos, act: where in the window the feature fires, and how strongly
    src_pos, src: of a feature that reads sequences, the tokens that contribute most to ``value``, and how much
    """

    feature: Int32[np.ndarray, " n"]
    sequence: Int32[np.ndarray, " n"]
    position: Int32[np.ndarray, " n"]
    value: Float32[np.ndarray, " n"]
    key: UInt32[np.ndarray, " n"]
    twin: Int64[np.ndarray, " n"]
    act_pos: Ragged
    act: Ragged
    src_pos: Ragged
    src: Ragged

    def __len__(self) -> int:
        return len(self.feature)

    @staticmethod
    def none() -> Candidates:
        """No candidates."""
        i32, f32 = np.zeros(0, np.int32), np.zeros(0, np.float32)
        nothing = offsets_of(i32)
        pos, act = Ragged(np.zeros(0, np.uint16), nothing), Ragged(f32, nothing)
        return Candidates(i32, i32, i32, f32, np.zeros(0, np.uint32), np.zeros(0, np.int64), pos, act, pos, act)

    def take(self, rows: Int64[np.ndarray, " m"]) -> Candidates:
        """Some of the candidates, in that order."""
        return Candidates(
            self.feature[rows],
            self.sequence[rows],
            self.position[rows],
            self.value[rows],
            self.key[rows],
            self.twin[rows],
            *(getattr(self, name).take(rows) for name in LISTS),
        )

    @staticmethod
    def join(parts: list[Candidates]) -> Candidates:
        """All candidates of several lots."""

        def column(name: str) -> np.ndarray:
            return np.concatenate([getattr(part, name) for part in parts])

        values: dict[str, Any] = {name: column(name) for name in FIELDS}
        values |= {name: Ragged.join([getattr(part, name) for part in parts]) for name in LISTS}
        return Candidates(**values)

    def twin_rank(self, order: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        """How many twins of the same feature and sign come before each candidate in ``order``."""
        key = (self.side[order] << TWIN_BITS) | self.twin[order]
        by_twin = order_of(key)
        rank = np.empty(len(self), np.int64)
        rank[order[by_twin]] = rank_in_runs(key[by_twin])
        return rank

    @property
    def side(self) -> Int64[np.ndarray, " n"]:
        """Feature and sign as one number: ``2 feature + (value < 0)``."""
        return self.feature.astype(np.int64) * 2 + (self.value < 0)

    def by_strength(self) -> Int64[np.ndarray, " n"]:
        """Order by feature and sign, the strongest first; equals in the order of their random numbers."""
        weakness = 2**31 - 1 - np.abs(self.value).view(np.int32).astype(np.int64)
        return order_of((self.side << 42) | (weakness << 11) | (self.key >> np.uint32(21)))


class ContextPool:
    """The pools of all features, and how many candidates each stratum has seen."""

    def __init__(self, n_features: int, *, top: int, window: int, seed: int) -> None:
        assert n_features <= 2**20, f"sort keys have 20 bits for the feature, found {n_features} features"
        self.top, self.window, self.seed = COPIES * top, window, seed
        self.reach = np.zeros(n_features, np.float32)
        self.base = np.full(n_features, -STRATA, np.int64)  # lowest stratum
        self.population = np.zeros((n_features, STRATA), np.int64)
        self.ceiling = np.full((n_features, STRATA), 2**32 - 1, np.uint32)  # of keys that may enter a stratum
        self.floor = np.zeros((n_features, 2), np.float32)  # of magnitudes that may enter the strongest, by sign
        self.pool = Candidates.none()
        self._buffer: list[Candidates] = []
        self._buffered = 0

    def update(self, firings: Firings) -> None:
        """Let a batch's candidates in."""
        if not len(firings.feature):
            return
        peak = _peaks(firings)
        feature, value = firings.feature[peak], firings.value[peak]
        magnitude = np.abs(value)
        self._raise(firings.features, np.maximum.reduceat(np.abs(firings.value), firings.segments[:-1]))
        key = (draw(self.seed, feature, firings.first + firings.sequence[peak]) >> np.uint64(32)).astype(np.uint32)
        stratum = self.stratum(feature, magnitude)
        np.add.at(self.population.reshape(-1), feature.astype(np.int64) * STRATA + stratum, 1)
        enters = magnitude >= self.floor[feature, (value < 0).astype(np.int64)]
        enters |= key <= self.ceiling[feature, stratum]
        entering = np.flatnonzero(enters)
        self._buffer.append(self._candidates(firings, entering, peak[entering], key[entering]))
        self._buffered += len(entering)
        if self._buffered >= max(BUFFER, len(self.pool) // 2):
            self.merge()

    def absorb(self, other: ContextPool) -> None:
        """Take in what another collected on other sequences."""
        every = np.arange(len(self.reach), dtype=np.int32)
        for pool, reach in ((self, other.reach.copy()), (other, self.reach.copy())):
            pool._raise(every, reach)
        self.population += other.population
        self._buffer += [other.pool, *other._buffer]
        self.merge()

    def state(self) -> dict[str, np.ndarray]:
        """All that was collected, as arrays."""
        self.merge()
        pool = {f"pool.{name}": getattr(self.pool, name) for name in FIELDS}
        lists = {name: getattr(self.pool, name) for name in LISTS}
        pool |= {f"pool.{name}": own.values for name, own in lists.items()}
        pool |= {f"pool.{name}.offsets": own.offsets for name, own in lists.items()}
        return {name: getattr(self, name) for name in THRESHOLDS} | pool

    def load(self, state: Mapping[str, np.ndarray]) -> None:
        """Go on from a state."""
        for name in THRESHOLDS:
            setattr(self, name, state[name])
        values: dict[str, Any] = {name: state[f"pool.{name}"] for name in FIELDS}
        values |= {name: Ragged(state[f"pool.{name}"], state[f"pool.{name}.offsets"]) for name in LISTS}
        self.pool = Candidates(**values)

    def stratum(
        self, feature: Int32[np.ndarray, " n"], magnitude: Float32[np.ndarray, " n"]
    ) -> Int64[np.ndarray, " n"]:
        """Stratum of magnitudes, 0 the weakest, relative to what each feature has reached so far."""
        return np.clip((magnitude.view(np.int32) >> SHIFT) - self.base[feature], 0, STRATA - 1)

    def merge(self) -> None:
        """Merge the buffer into the pool: keep who is among the strongest or in a sample, and raise the thresholds."""
        pool = Candidates.join([self.pool, *self._buffer])
        self._buffer, self._buffered = [], 0
        self.pool = pool.take(np.flatnonzero(self._among_strongest(pool) | self.sampled(pool)))

    def _among_strongest(self, pool: Candidates) -> Bool[np.ndarray, " n"]:
        order = pool.by_strength()
        order = order[pool.twin_rank(order)[order] < COPIES]
        side = pool.side[order]
        rank = rank_in_runs(side)
        last = order[rank == self.top - 1]
        self.floor.reshape(-1)[pool.side[last]] = np.abs(pool.value[last])
        keep = np.zeros(len(pool), bool)
        keep[order[rank < self.top]] = True
        return keep

    def sampled(self, pool: Candidates) -> Bool[np.ndarray, " n"]:
        """Who is in the sample of a stratum; closes the strata to keys that are too large for them."""
        stratum = pool.feature.astype(np.int64) * STRATA + self.stratum(pool.feature, np.abs(pool.value))
        order = order_of((stratum << 32) | pool.key)
        rank = rank_in_runs(stratum[order])
        last = order[rank == PER_STRATUM - 1]
        self.ceiling.reshape(-1)[stratum[last]] = pool.key[last]
        keep = np.zeros(len(pool), bool)
        keep[order[rank < PER_STRATUM]] = True
        return keep

    def _raise(self, features: Int32[np.ndarray, " m"], magnitude: Float32[np.ndarray, " m"]) -> None:
        """Let strata follow the largest magnitudes: where they rise, the lowest run together."""
        higher = magnitude > self.reach[features]
        features, magnitude = features[higher], magnitude[higher]
        self.reach[features] = magnitude
        base = (magnitude.view(np.int32) >> SHIFT).astype(np.int64) - (STRATA - 1)
        step = base - self.base[features]
        features, base, step = features[step > 0], base[step > 0], np.minimum(step[step > 0], STRATA)
        if not len(features):
            return
        self.base[features] = base
        source = np.arange(STRATA) + step[:, None]
        inside, source = source < STRATA, np.minimum(source, STRATA - 1)
        bottom = np.minimum(step, STRATA - 1)[:, None]
        population, ceiling = self.population[features], self.ceiling[features]
        moved = np.where(inside, np.take_along_axis(population, source, 1), 0)
        moved[:, :1] = np.take_along_axis(np.cumsum(population, axis=1), bottom, 1)
        self.population[features] = moved
        closed = np.where(inside, np.take_along_axis(ceiling, source, 1), np.uint32(2**32 - 1))
        closed[:, :1] = np.take_along_axis(np.minimum.accumulate(ceiling, axis=1), bottom, 1)
        self.ceiling[features] = closed

    def _candidates(
        self,
        firings: Firings,
        group: Int64[np.ndarray, " m"],
        peak: Int64[np.ndarray, " m"],
        key: UInt32[np.ndarray, " m"],
    ) -> Candidates:
        sequence, position = firings.sequence[peak], firings.position[peak]
        lengths = lengths_of(firings.counts)
        start, stop = window_around(position, lengths[sequence], self.window)
        first, n = firings.groups[group], np.diff(firings.groups)[group]
        entry, owner = spans(first, n), np.repeat(np.arange(len(group)), n)
        where = firings.position[entry]
        inside = (where >= start[owner]) & (where < stop[owner])
        entry, offsets = entry[inside], offsets_of(np.bincount(owner[inside], minlength=len(group)))
        return Candidates(
            firings.feature[peak],
            (firings.first + sequence).astype(np.int32),
            position,
            firings.value[peak],
            key,
            twin_hashes(firings.tokens, lengths)[sequence, position],
            Ragged(firings.position[entry].astype(np.uint16), offsets),
            Ragged(firings.value[entry], offsets),
            *_strongest_sources(firings, sequence, firings.feature[peak], position),
        )


def _strongest_sources(
    firings: Firings,
    sequence: Int32[np.ndarray, " n"],
    feature: Int32[np.ndarray, " n"],
    position: Int32[np.ndarray, " n"],
) -> tuple[Ragged, Ragged]:
    """The tokens that contribute most to some activations, in their order, and how much."""
    if firings.sources is None or not len(feature):
        nothing = np.zeros(len(feature) + 1, np.int64)
        return Ragged(np.zeros(0, np.uint16), nothing), Ragged(np.zeros(0, np.float32), nothing)
    each = firings.sources(sequence, feature, position)
    place = np.sort(np.argsort(-np.abs(each), axis=1, kind="stable")[:, :SOURCES], axis=1)
    value = np.take_along_axis(each, place, 1)
    keep = value != 0
    return Ragged.from_table(place.astype(np.uint16), keep), Ragged.from_table(value, keep)


def lengths_of(counts: Bool[np.ndarray, "sequence pos"]) -> Int64[np.ndarray, " sequence"]:
    """Tokens of each sequence up to the last one that counts: what follows is padding."""
    return np.where(counts.any(1), counts.shape[1] - counts[:, ::-1].argmax(1), 0)


def window_around(
    position: Int32[np.ndarray, " n"], length: Int64[np.ndarray, " n"], window: int
) -> tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " n"]]:
    """Bounds of ``window`` tokens with ``position`` three quarters in: a feature is mostly about what came before."""
    stop = np.minimum(np.maximum(position + window // 4 + 1, window), length)
    return np.maximum(stop - window, 0), stop


def twin_hashes(
    tokens: UInt32[np.ndarray, "sequence pos"], lengths: Int64[np.ndarray, " sequence"]
) -> Int64[np.ndarray, "sequence pos"]:
    """Hash of the 16 tokens around each position (11 before it, 4 after): equal for contexts that are twins."""
    n, width = tokens.shape
    padded = np.full((n, TWIN_BEFORE + width + TWIN_AFTER), NO_TOKEN)
    padded[:, TWIN_BEFORE : TWIN_BEFORE + width] = np.where(np.arange(width) < lengths[:, None], tokens, NO_TOKEN)
    total = np.zeros(tokens.shape, np.uint64)
    for offset, weight in enumerate(_TWIN_WEIGHTS):
        total += weight * padded[:, offset : offset + width]
    return (mix(total) >> np.uint64(64 - TWIN_BITS)).astype(np.int64)


def _peaks(firings: Firings) -> Int64[np.ndarray, " g"]:
    """Entry of the largest magnitude of each group; the first of equals."""
    magnitude = np.abs(firings.value)
    starts, n = firings.groups[:-1], np.diff(firings.groups)
    hit = np.flatnonzero(magnitude == np.repeat(np.maximum.reduceat(magnitude, starts), n))
    group = np.repeat(np.arange(len(starts)), n)[hit]
    return hit[np.diff(group, prepend=-1) != 0]
