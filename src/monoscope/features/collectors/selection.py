"""Which of the candidates become a feature's contexts: interval rule, version 1.

0          the strongest, up to 30 that are no twins; of a signed feature half from each end, where there are as many
1 .. n     a sample from each of n equal bands of (0, reach], 1 the strongest; up to 5 each
-1         a sample of all sequences in which it fires, of those not chosen yet; up to 10

``reach`` is the largest absolute activation. A sequence gives a feature one context at most, and a token window that
repeats gives one too, except that the strongest show one twin of each, marked ``dup_of``.

Samples are weighted by how many candidates a stratum stands for: with u uniform, w = seen / kept, those with the
smallest -ln(u) / w are drawn (Efraimidis and Spirakis 2006).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64, Int8, Int32, Int64, UInt16, UInt32

from monoscope.features.chance import draw
from monoscope.features.collectors.contexts import COPIES, STRATA, Candidates, ContextPool, window_around
from monoscope.features.columns import Ragged, order_of, rank_in_runs

TOP, RANDOM, NEGATIVE = 0, -1, -2
RULE = "v1: equal-width bands of (0, max |act|], one context per sequence, twins folded"
FILLER = 1e-9  # weight of candidates that are in no sample: they serve only where a band has too few others


@dataclass(frozen=True, slots=True)
class ContextTable:
    """Contexts of all features, sorted by (feature, interval, rank). Columns are those of the bundle."""

    feature: Int32[np.ndarray, " n"]
    interval: Int8[np.ndarray, " n"]
    rank: UInt16[np.ndarray, " n"]
    max_act: Float32[np.ndarray, " n"]
    max_pos: UInt16[np.ndarray, " n"]
    seq: UInt32[np.ndarray, " n"]
    start: UInt16[np.ndarray, " n"]
    stop: UInt16[np.ndarray, " n"]
    dup_of: Int32[np.ndarray, " n"]
    act_pos: Ragged
    act: Ragged
    src_pos: Ragged
    src_val: Ragged

    def __len__(self) -> int:
        return len(self.feature)

    @staticmethod
    def join(parts: list[ContextTable]) -> ContextTable:
        """All contexts of several tables, sorted."""

        def column(name: str) -> np.ndarray:
            return np.concatenate([getattr(part, name) for part in parts])

        group = column("feature").astype(np.int64) * 256 + (column("interval").astype(np.int64) + 128)
        order = order_of((group << 16) | column("rank"))
        return ContextTable(
            column("feature")[order],
            column("interval")[order],
            column("rank")[order],
            column("max_act")[order],
            column("max_pos")[order],
            column("seq")[order],
            column("start")[order],
            column("stop")[order],
            column("dup_of")[order],
            *(
                Ragged.join([getattr(part, name) for part in parts]).take(order)
                for name in ("act_pos", "act", "src_pos", "src_val")
            ),
        )


def select(
    pool: ContextPool, lengths: Int64[np.ndarray, " sequence"], *, n: int, per_interval: int, top: int, random: int
) -> ContextTable:
    """Contexts where features fire, from a finished pool; ``lengths`` are those of all sequences of the corpus."""
    pool.merge()
    candidates = pool.pool
    strength = candidates.by_strength()
    twin_rank = candidates.twin_rank(strength)
    chosen = np.full(len(candidates), NEGATIVE, np.int8)
    chosen[_strongest(candidates, strength, twin_rank, top)] = TOP
    dup_of = _fold_twins(candidates, twin_rank, chosen)
    free = (chosen == NEGATIVE) & (twin_rank == 0)
    weight = _weights(pool, candidates)
    magnitude = np.abs(candidates.value)
    band = np.floor((1 - magnitude / pool.reach[candidates.feature]) * n).astype(np.int64) + 1
    band = np.clip(band, 1, n)
    group = candidates.feature.astype(np.int64) * (n + 1) + band
    drawn = _sample(candidates, np.flatnonzero(free), group, weight, per_interval, pool.seed + 1)
    chosen[drawn] = band[drawn]
    free[drawn] = False
    drawn = _sample(
        candidates, np.flatnonzero(free), candidates.feature.astype(np.int64), weight, random, pool.seed + 2
    )
    chosen[drawn] = RANDOM
    return _table(candidates, chosen, dup_of, lengths, pool.window)


def _strongest(
    candidates: Candidates, strength: Int64[np.ndarray, " n"], twin_rank: Int64[np.ndarray, " n"], top: int
) -> Int64[np.ndarray, " m"]:
    order = strength[twin_rank[strength] == 0]
    side = candidates.side[order]
    available = np.bincount(side, minlength=2 * (int(candidates.feature.max(initial=0)) + 1)).reshape(-1, 2)
    half = top - top // 2
    quota = np.maximum(top - available[:, ::-1], half)  # each end gets what the other leaves, and half at least
    quota[:, 1] = np.minimum(quota[:, 1], top - np.minimum(available[:, 0], quota[:, 0]))
    return order[rank_in_runs(side) < quota.reshape(-1)[side]]


def _fold_twins(
    candidates: Candidates, twin_rank: Int64[np.ndarray, " n"], chosen: Int8[np.ndarray, " n"]
) -> Int64[np.ndarray, " n"]:
    """Candidate that each one is a twin of, -1 for none; twins of the strongest are chosen with them."""
    # Stable orders: by twin window, and within it by rank, so that the kept one comes first.
    order = np.argsort(twin_rank, kind="stable")
    order = order[order_of(candidates.twin[order])]
    order = order[order_of(candidates.side[order])]
    first = np.maximum.accumulate(np.where(twin_rank[order] == 0, np.arange(len(order)), 0))
    kept = np.full(len(order), -1, np.int64)
    kept[order] = order[first]
    twins = (twin_rank > 0) & (twin_rank < COPIES)
    twins[twins] = chosen[kept[twins]] == TOP
    chosen[twins] = TOP
    return np.where(twins, kept, -1)


def _weights(pool: ContextPool, candidates: Candidates) -> Float64[np.ndarray, " n"]:
    sampled = pool.sampled(candidates)
    stratum = candidates.feature.astype(np.int64) * STRATA + pool.stratum(candidates.feature, np.abs(candidates.value))
    kept = np.bincount(stratum[sampled], minlength=pool.population.size)
    weight = pool.population.reshape(-1)[stratum] / np.maximum(kept[stratum], 1)
    return np.where(sampled, weight, FILLER)


def _sample(
    candidates: Candidates,
    rows: Int64[np.ndarray, " m"],
    group: Int64[np.ndarray, " n"],
    weight: Float64[np.ndarray, " n"],
    most: int,
    seed: int,
) -> Int64[np.ndarray, " k"]:
    u = (draw(seed, candidates.feature[rows], candidates.sequence[rows]) >> np.uint64(11)).astype(np.float64)
    u = (u + 0.5) / 2**53
    wait = -np.log(u) / weight[rows]
    order = np.argsort(wait)
    order = order[order_of(group[rows][order])]
    return rows[order[rank_in_runs(group[rows][order]) < most]]


def _table(
    candidates: Candidates,
    chosen: Int8[np.ndarray, " n"],
    dup_of: Int64[np.ndarray, " n"],
    lengths: Int64[np.ndarray, " sequence"],
    window: int,
) -> ContextTable:
    weakness = 2**31 - 1 - np.abs(candidates.value).view(np.int32).astype(np.int64)
    order = np.flatnonzero(chosen > NEGATIVE)
    order = order[np.argsort(candidates.key[order], kind="stable")]
    order = order[order_of(weakness[order])]
    group = candidates.feature.astype(np.int64) * 256 + (chosen.astype(np.int64) + 128)
    order = order[order_of(group[order])]
    rank = np.full(len(candidates), -1, np.int64)
    rank[order] = rank_in_runs(group[order])
    kept = candidates.take(order)
    start, stop = window_around(kept.position, lengths[kept.sequence], window)
    twin = dup_of[order]
    return ContextTable(
        kept.feature,
        chosen[order],
        rank[order].astype(np.uint16),
        kept.value,
        kept.position.astype(np.uint16),
        kept.sequence.astype(np.uint32),
        start.astype(np.uint16),
        stop.astype(np.uint16),
        np.where(twin >= 0, rank[twin], -1).astype(np.int32),
        kept.act_pos,
        kept.act,
        kept.src_pos,
        kept.src,
    )
