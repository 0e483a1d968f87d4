"""Which features fire together: pointwise mutual information over a sample of tokens.

    pmi(f, g) = ln( n_fg N / (n_f n_g) )        n_fg of N tokens fire both

Pairs seen fewer than 5 times are left out. Pairs are ranked by pmi * n_fg / (n_fg + 1) * m / (m + 1) with
m = min(n_f, n_g), which takes rare coincidences down (Pantel and Lin 2002); the pmi itself is what is kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from jaxtyping import Float64, Int64
from scipy.sparse import csr_array

from monoscope.features.collectors.sample import Sample
from monoscope.features.columns import Columns, Ragged, offsets_of, order_of, rank_in_runs

SHOWN, MIN_TOGETHER = 20, 5
MAX_PAIRS, PAIRS_AT_ONCE = 2**26, 2**21


def coactivation(sample: Sample) -> Columns:
    """co_features, co_pmi: the 20 features that go with each one most, and their pmi in nats."""
    n = sample.n_features
    feature, token, n_tokens = _bounded(sample)
    fired = np.bincount(feature, minlength=n).astype(np.float64)
    nothing = np.zeros(0, np.int64)
    parts = [(nothing, nothing, nothing.astype(np.float64))]
    for f, g, together in _pairs(feature, token, n, sample.counts.size):
        pmi = np.log(together * max(n_tokens, 1) / (fired[f] * fired[g]))
        fewer = np.minimum(fired[f], fired[g])
        score = pmi * together / (together + 1) * fewer / (fewer + 1)
        best = _best(f, g, score)
        parts.append((f[best], g[best], pmi[best]))
    f, g, pmi = (np.concatenate(column) for column in zip(*parts, strict=True))
    lists = {"co_features": g.astype(np.uint32), "co_pmi": pmi.astype(np.float32)}
    return Columns(lists={name: Ragged.from_groups(values, f, n) for name, values in lists.items()})


def _best(
    f: Int64[np.ndarray, " m"], g: Int64[np.ndarray, " m"], score: Float64[np.ndarray, " m"]
) -> Int64[np.ndarray, " best"]:
    """The pairs of the highest scores above 0 for each f, the highest first; equals in the order of g."""
    order = np.flatnonzero(score > 0)
    order = order[order_of(g[order])]
    weakness = 2**31 - 1 - score[order].astype(np.float32).view(np.int32).astype(np.int64)
    order = order[order_of((f[order] << 31) | weakness)]
    return order[rank_in_runs(f[order]) < SHOWN]


def _bounded(sample: Sample) -> tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " n"], int]:
    """Entries of as many tokens as keep the number of pairs in bounds, and how many tokens those are."""
    l0 = np.bincount(sample.token, minlength=sample.counts.size)
    allowed = np.cumsum(l0.astype(np.int64) ** 2) <= MAX_PAIRS
    kept = allowed[sample.token]
    n_tokens = int((sample.counts.reshape(-1) & allowed).sum())
    return sample.feature[kept].astype(np.int64), sample.token[kept].astype(np.int64), n_tokens


def _pairs(
    feature: Int64[np.ndarray, " n"], token: Int64[np.ndarray, " n"], n_features: int, n_tokens: int
) -> Iterator[Int64[np.ndarray, "3 m"]]:
    """Two features, and how often they fire together, of the pairs seen often enough: fires @ fires^T, in parts."""
    bounds = offsets_of(np.bincount(feature, minlength=n_features))
    fires = csr_array((np.ones(len(token), np.int32), token, bounds), shape=(n_features, n_tokens))
    by_token = fires.T.tocsr()
    pairs = np.append(0, np.cumsum(np.diff(by_token.indptr)[token]))[bounds]  # made by the features before each
    cuts = np.searchsorted(pairs, np.arange(PAIRS_AT_ONCE, pairs[-1], PAIRS_AT_ONCE), side="right") - 1
    edges = np.unique([0, *cuts, n_features])
    for start, end in pairwise(edges):
        product = (fires[start:end] @ by_token).tocoo()
        f, g = product.coords
        often = (product.data >= MIN_TOGETHER) & (f + start != g)
        yield np.stack([f[often] + start, g[often], product.data[often]], dtype=np.int64)
