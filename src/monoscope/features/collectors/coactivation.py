"""Which features fire together: pointwise mutual information over a sample of tokens.

    pmi(f, g) = ln( n_fg N / (n_f n_g) )        n_fg of N tokens fire both

Pairs seen fewer than 5 times are left out. Pairs are ranked by pmi * n_fg / (n_fg + 1) * m / (m + 1) with
m = min(n_f, n_g), which takes rare coincidences down (Pantel and Lin 2002); the pmi itself is what is kept.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64

from monoscope.features.collectors.sample import Sample
from monoscope.features.columns import Columns, Ragged, offsets_of, order_of, spans

SHOWN, MIN_TOGETHER = 20, 5
MAX_PAIRS, PAIRS_AT_ONCE = 2**26, 2**21
CELLS = 2**22


def coactivation(sample: Sample) -> Columns:
    """co_features, co_pmi: the 20 features that go with each one most, and their pmi in nats."""
    n = sample.n_features
    feature, token, n_tokens = _bounded(sample)
    by_token = feature[order_of(token)]
    per_token = offsets_of(np.bincount(token, minlength=sample.counts.size))
    bounds = offsets_of(np.bincount(feature, minlength=n))
    fired = np.diff(bounds)
    rows = max(1, CELLS // n)
    found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for start in range(0, n, rows):
        stop = min(start + rows, n)
        together = np.zeros((stop - start) * n, np.int64)
        for part in _parts(token[bounds[start] : bounds[stop]], per_token):
            entries = slice(bounds[start] + part.start, bounds[start] + part.stop)
            at = token[entries]
            length = per_token[at + 1] - per_token[at]
            other = by_token[spans(per_token[at], length)]
            together += np.bincount(np.repeat(feature[entries] - start, length) * n + other, minlength=len(together))
        found.append(_strongest(together.reshape(-1, n), fired, start, n_tokens))
    ids, pmi, keep = (np.concatenate(part) for part in zip(*found, strict=True))
    return Columns(lists={"co_features": Ragged.from_table(ids, keep), "co_pmi": Ragged.from_table(pmi, keep)})


def _bounded(sample: Sample) -> tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " n"], int]:
    """Entries of as many tokens as keep the number of pairs in bounds, and how many tokens those are."""
    l0 = np.bincount(sample.token, minlength=sample.counts.size)
    allowed = np.cumsum(l0.astype(np.int64) ** 2) <= MAX_PAIRS
    kept = allowed[sample.token]
    n_tokens = int((sample.counts.reshape(-1) & allowed).sum())
    return sample.feature[kept].astype(np.int64), sample.token[kept].astype(np.int64), n_tokens


def _parts(at: Int64[np.ndarray, " n"], per_token: Int64[np.ndarray, " t1"]) -> list[slice]:
    """Cuts of entries into parts that make about as many pairs as may be in memory at once."""
    pairs = np.cumsum(per_token[at + 1] - per_token[at])
    if not len(pairs):
        return []
    cuts = np.flatnonzero(np.diff(pairs // PAIRS_AT_ONCE)) + 1
    return [slice(int(a), int(b)) for a, b in zip([0, *cuts], [*cuts, len(at)], strict=True)]


def _strongest(
    together: Int64[np.ndarray, "rows F"], fired: Int64[np.ndarray, " F"], start: int, n_tokens: int
) -> tuple[np.ndarray, np.ndarray, Bool[np.ndarray, "rows k"]]:
    rows = np.arange(len(together))
    together[rows, start + rows] = 0
    row, other = np.nonzero(together >= MIN_TOGETHER)
    n_fg = together[row, other].astype(np.float64)
    n_f, n_g = fired[start + row].astype(np.float64), fired[other].astype(np.float64)
    pmi: Float64[np.ndarray, " pairs"] = np.log(n_fg * max(n_tokens, 1) / (n_f * n_g))
    fewer = np.minimum(n_f, n_g)
    table = torch.full(together.shape, -torch.inf, dtype=torch.float32)
    table[torch.from_numpy(row), torch.from_numpy(other)] = torch.from_numpy(
        (pmi * n_fg / (n_fg + 1) * fewer / (fewer + 1)).astype(np.float32)
    )
    best = table.topk(min(SHOWN, together.shape[1]), dim=1)
    ids = best.indices.numpy()
    keep = (best.values > 0).numpy()
    n_best = together[rows[:, None], ids].astype(np.float64)
    expected = fired[start + rows][:, None].astype(np.float64) * fired[ids] / max(n_tokens, 1)
    shown = np.log(np.where(keep, n_best, 1) / np.where(keep, expected, 1))
    return ids.astype(np.uint32), shown.astype(np.float32), keep
