"""Contexts where a feature stays silent: look-alikes first, then windows at random.

A look-alike is centered on one of the feature's most frequent tokens in a place where it does not fire. Both kinds are
windows of sampled sequences without a single firing of the feature, one a sequence, in sequences that gave the feature
no other context. A feature so dense that no window is silent has fewer.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Int64

from monoscope.features.chance import draw
from monoscope.features.collectors.contexts import lengths_of, window_around
from monoscope.features.collectors.sample import Sample
from monoscope.features.collectors.selection import NEGATIVE, ContextTable
from monoscope.features.columns import Ragged, offsets_of, order_of, rank_in_runs

TRIED, TOKENS = 8, 3  # places looked at for each negative wanted; how many of the frequent tokens have look-alikes
CHUNK = 1024


def negatives(
    sample: Sample,
    chosen: ContextTable,
    frequent: Ragged,
    alive: Bool[np.ndarray, " F"],
    *,
    n: int,
    window: int,
    seed: int,
) -> ContextTable:
    """Up to ``n`` silent contexts of each feature that lives, half of them look-alikes where there are as many.

    chosen: contexts where features fire, whose sequences are taken; frequent: the tokens each feature fires on most
    """
    taken = np.sort(chosen.feature.astype(np.int64) << 32 | chosen.seq)
    fires = sample.feature.astype(np.int64) * sample.counts.size + sample.token
    parts = []
    for start in range(0, sample.n_features, CHUNK):
        features = np.arange(start, min(start + CHUNK, sample.n_features))
        features = features[alive[features]]
        places = [*_look_alikes(sample, features, frequent, n, seed), *_anywhere(sample, features, n, seed)]
        if places:
            feature, place, kind = (np.concatenate(part) for part in zip(*places, strict=True))
            parts.append(_silent(sample, feature, place, kind, taken, fires, n, window))
    feature, place = (np.concatenate([part[i] for part in parts]) for i in (0, 1)) if parts else (np.zeros(0, int),) * 2
    return _table(sample, feature, place, window)


Places = tuple[np.ndarray, np.ndarray, np.ndarray]


def _look_alikes(
    sample: Sample, features: Int64[np.ndarray, " f"], frequent: Ragged, n: int, seed: int
) -> Iterator[Places]:
    """Random places of each feature's most frequent tokens, wherever it fires."""
    flat = np.where(sample.counts, sample.tokens.astype(np.int64), -1).reshape(-1)
    by_token = order_of(flat + 1)
    ordered = flat[by_token]
    for which in range(TOKENS):
        has = frequent.lengths[features] > which
        owner = features[has]
        token = frequent.values[frequent.offsets[owner] + which].astype(np.int64)
        first, last = (np.searchsorted(ordered, token, side=side) for side in ("left", "right"))
        owner, first, count = owner[last > first], first[last > first], (last - first)[last > first]
        owner, first, count = (np.repeat(x, n * TRIED // TOKENS) for x in (owner, first, count))
        pick = draw(seed + which, owner, np.arange(len(owner))) % np.maximum(count, 1).astype(np.uint64)
        yield owner, by_token[first + pick.astype(np.int64)], np.zeros(len(owner), np.int64)


def _anywhere(sample: Sample, features: Int64[np.ndarray, " f"], n: int, seed: int) -> Iterator[Places]:
    places = np.flatnonzero(sample.counts)
    if len(places):
        owner = np.repeat(features, n * TRIED)
        pick = draw(seed + TOKENS, owner, np.arange(len(owner))) % np.uint64(len(places))
        yield owner, places[pick.astype(np.int64)], np.ones(len(owner), np.int64)


def _silent(
    sample: Sample,
    feature: Int64[np.ndarray, " n"],
    place: Int64[np.ndarray, " n"],
    kind: Int64[np.ndarray, " n"],
    taken: Int64[np.ndarray, " t"],
    fires: Int64[np.ndarray, " e"],
    n: int,
    window: int,
) -> tuple[Int64[np.ndarray, " m"], Int64[np.ndarray, " m"]]:
    """The first ``n`` silent places of each feature, one a sequence; look-alikes may be half, and more if need be."""
    width = sample.counts.shape[1]
    row, position = np.divmod(place, width)
    start, stop = window_around(position.astype(np.int32), lengths_of(sample.counts)[row], window)
    base = feature * sample.counts.size + row * width
    silent = np.searchsorted(fires, base + start) == np.searchsorted(fires, base + stop)
    key = feature << 32 | sample.sequence[row]
    silent &= np.searchsorted(taken, key) == np.searchsorted(taken, key, side="right")
    feature, place, kind, row = feature[silent], place[silent], kind[silent], row[silent]
    order = order_of((feature << 33) | (row << 1) | kind)
    order = np.sort(order[rank_in_runs((feature << 32 | row)[order]) == 0])  # one a sequence, a look-alike if it can be
    feature, place, kind = feature[order], place[order], kind[order]
    order = order_of((feature << 1) | kind)
    surplus = (kind[order] == 0) & (rank_in_runs(((feature << 1) | kind)[order]) >= n - n // 2)
    order = order[order_of((feature[order] << 2) | (kind[order] + 2 * surplus))]
    order = order[rank_in_runs(feature[order]) < n]
    return feature[order], place[order]


def _table(
    sample: Sample, feature: Int64[np.ndarray, " n"], place: Int64[np.ndarray, " n"], window: int
) -> ContextTable:
    row, position = np.divmod(place, sample.counts.shape[1])
    start, stop = window_around(position.astype(np.int32), lengths_of(sample.counts)[row], window)
    nothing = offsets_of(np.zeros(len(feature), np.int64))
    return ContextTable(
        feature.astype(np.int32),
        np.full(len(feature), NEGATIVE, np.int8),
        rank_in_runs(feature).astype(np.uint16),
        np.zeros(len(feature), np.float32),
        position.astype(np.uint16),
        sample.sequence[row].astype(np.uint32),
        start.astype(np.uint16),
        stop.astype(np.uint16),
        np.full(len(feature), -1, np.int32),
        *(Ragged(np.zeros(0, dtype), nothing) for dtype in (np.uint16, np.float32) * 2),
    )
