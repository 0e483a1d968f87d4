"""Which features fire together: pointwise mutual information over a sample of tokens.

    pmi(f, g) = ln( n_fg N / (n_f n_g) )        n_fg of N tokens fire both

Pairs seen fewer than 5 times are left out. Pairs are ranked by pmi * n_fg / (n_fg + 1) * m / (m + 1) with
m = min(n_f, n_g), which takes rare coincidences down (Pantel and Lin 2002); the pmi itself is what is kept.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Int64

from monoscope.features.collectors.sample import Sample
from monoscope.features.columns import Columns, Ragged, offsets_of, order_of, rank_in_runs, spans

SHOWN, MIN_TOGETHER = 20, 5
MAX_PAIRS, PAIRS_AT_ONCE = 2**26, 2**21


def coactivation(sample: Sample) -> Columns:
    """co_features, co_pmi: the 20 features that go with each one most, and their pmi in nats."""
    n = sample.n_features
    feature, token, n_tokens = _bounded(sample)
    by_token = feature[order_of(token)]
    per_token = offsets_of(np.bincount(token, minlength=sample.counts.size))
    length = per_token[token + 1] - per_token[token]
    found = [np.zeros((3, 0), np.int64)]
    for part in _parts(feature, length):
        other = by_token[spans(per_token[token[part]], length[part])]
        found.append(_counted(np.repeat(feature[part], length[part]) * n + other, n))
    f, g, together = np.concatenate(found, axis=1)
    fired = np.bincount(feature, minlength=n)
    pmi = np.log(together * max(n_tokens, 1) / (fired[f].astype(np.float64) * fired[g]))
    fewer = np.minimum(fired[f], fired[g])
    score = pmi * together / (together + 1) * fewer / (fewer + 1)
    order = np.lexsort((g, -score, f))
    order = order[(score[order] > 0)]
    order = order[rank_in_runs(f[order]) < SHOWN]
    lists = {"co_features": g[order].astype(np.uint32), "co_pmi": pmi[order].astype(np.float32)}
    return Columns(lists={name: Ragged.from_groups(values, f[order], n) for name, values in lists.items()})


def _bounded(sample: Sample) -> tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " n"], int]:
    """Entries of as many tokens as keep the number of pairs in bounds, and how many tokens those are."""
    l0 = np.bincount(sample.token, minlength=sample.counts.size)
    allowed = np.cumsum(l0.astype(np.int64) ** 2) <= MAX_PAIRS
    kept = allowed[sample.token]
    n_tokens = int((sample.counts.reshape(-1) & allowed).sum())
    return sample.feature[kept].astype(np.int64), sample.token[kept].astype(np.int64), n_tokens


def _parts(feature: Int64[np.ndarray, " n"], pairs: Int64[np.ndarray, " n"]) -> list[slice]:
    """Cuts of entries between features, into parts that make about as many pairs as may be in memory at once."""
    if not len(feature):
        return []
    whole = np.flatnonzero(np.diff(feature, prepend=-1))
    before = (np.cumsum(pairs) - pairs)[whole]
    cuts = whole[np.flatnonzero(np.diff(before // PAIRS_AT_ONCE)) + 1]
    return [slice(int(a), int(b)) for a, b in zip([0, *cuts], [*cuts, len(feature)], strict=True)]


def _counted(pair: Int64[np.ndarray, " pairs"], n: int) -> Int64[np.ndarray, "3 m"]:
    """Two features, and how often they fire together, of the pairs seen often enough."""
    pair.sort()
    starts = np.flatnonzero(np.diff(pair, prepend=-1))
    count = np.diff(starts, append=len(pair))
    often = count >= MIN_TOGETHER
    f, g = np.divmod(pair[starts[often]], n)
    return np.stack([f, g, count[often]])[:, f != g]
