"""A feature as the wire carries it, read from its bundle."""

from __future__ import annotations

from typing import Any

import numpy as np

from monoscope.features.records import Context as StoredContext
from monoscope.features.records import Feature as StoredFeature
from monoscope.features.records import Histogram
from monoscope.features.records import Neighbor as StoredNeighbor
from monoscope.features.records import Token as StoredToken
from monoscope.server.library.library import Entry
from monoscope.server.problems import ProblemError
from monoscope.server.state import State
from monoscope.server.table.columns import digits
from monoscope.server.texts import texts_of
from monoscope.server.wire.base import Token
from monoscope.server.wire.dictionary import Bins
from monoscope.server.wire.feature import (
    Band,
    Context,
    ContextGroup,
    Contexts,
    Feature,
    FiredOn,
    Neighbor,
    Neighbors,
    SiteNorm,
)

NEAREST = 20
SAME = (
    "n_fired density n_sequences max_act p999_act mean_act std_act is_dead dec_norm enc_norm enc_dec_cos "
    "first_pos_share logit_kurtosis"
)


def feature_of(state: State, entry: Entry, index: int) -> Feature:
    """Everything about a feature but its contexts."""
    bundle = entry.bundle
    stored = bundle.feature(index)
    rare = bundle.features.slice(index, 1).select(["best_score", "cluster"]).to_pylist()[0] if _has_rare(entry) else {}
    low = float(stored.acts.edges[0]) if len(stored.acts.edges) else 0.0
    signed = low < 0
    writes = entry.manifest.dictionary.writes
    return Feature(
        dictionary=entry.id,
        index=index,
        reference=f"{entry.manifest.model.id or 'model'}/{entry.id}/{index}",
        n_features=entry.n_features,
        **{name: getattr(stored, name) for name in SAME.split()},
        min_act=low if signed else 0.0,
        signed=signed,
        best_score=rare.get("best_score"),
        cluster=rare.get("cluster"),
        act_histogram=_bins(stored.acts),
        logit_histogram=_bins(stored.logits),
        quantiles=digits(stored.quantiles),
        bands=[
            Band(interval=i.number, low=_short(i.low), high=_short(i.high), share=_short(i.share))
            for i in stored.intervals
        ],
        tokens=_fired_on(stored),
        promoted=_tokens(stored.promoted),
        suppressed=_tokens(stored.suppressed),
        sites=_sites(writes, stored) if len(writes) > 1 else None,
        **texts_of(state, entry, index),
    )


def contexts_of(entry: Entry, index: int, interval: int | None, limit: int, window: int | None) -> Contexts:
    """A feature's contexts, those of the strongest interval first, then the bands, random ones, and look-alikes."""
    bundle = entry.bundle
    stored = bundle.feature(index)
    groups: dict[int, list[StoredContext]] = {}
    for context in stored.contexts:
        if interval is None or context.interval == interval:
            groups.setdefault(context.interval, []).append(context)
    ids: dict[int, int] = {}
    bands = {band.number: band for band in stored.intervals}
    ordered = sorted(groups, key=lambda number: (number < 0, abs(number)))
    out = []
    for number in ordered:
        band = bands.get(number)
        out.append(
            ContextGroup.model_construct(
                interval=number,
                low=None if band is None else _short(band.low),
                high=None if band is None else _short(band.high),
                share=None if band is None else _short(band.share),
                contexts=[_context(context, ids, window) for context in groups[number][:limit]],
            )
        )
    vocabulary, special = bundle.vocabulary, bundle.special
    largest = max((abs(context.max_act) for context in stored.contexts), default=None)
    return Contexts.model_construct(
        strings=[vocabulary[i] for i in ids],
        special=[place for i, place in ids.items() if i in special],
        max_act=None if largest is None else _short(largest),
        groups=out,
    )


def neighbors_of(state: State, entry: Entry, index: int, by: str) -> Neighbors:
    """The neighbors that a bundle stores."""
    stored = entry.bundle.feature(index)
    found = {"decoder": stored.decoder_neighbors, "encoder": stored.encoder_neighbors, "coactivation": stored.together}[
        by
    ]
    return Neighbors(
        by=by, measure="pmi" if by == "coactivation" else "cosine", features=[_neighbor(state, entry, n) for n in found]
    )


def other_neighbors(state: State, entry: Entry, index: int, other: Entry) -> Neighbors:
    """The features of another dictionary whose directions are nearest, by cosine."""
    mine, theirs = entry.bundle.directions(), other.bundle.directions()
    if mine is None or theirs is None:
        lacking = entry.id if mine is None else other.id
        raise ProblemError(409, f"the bundle {lacking} carries no directions to compare", found=lacking)
    if mine.shape[1] != theirs.shape[1]:
        raise ProblemError(
            422, "the two dictionaries write vectors of different widths", found=theirs.shape[1], expected=mine.shape[1]
        )
    direction = mine[index].astype(np.float32)
    cosine = _cosines(direction, theirs, other.bundle.column("dec_norm"))
    nearest = np.argpartition(-cosine, min(NEAREST, len(cosine) - 1))[:NEAREST]
    nearest = nearest[np.argsort(-cosine[nearest], kind="stable")]
    found = [StoredNeighbor(int(i), float(cosine[i])) for i in nearest if np.isfinite(cosine[i])]
    return Neighbors(by=f"other:{other.id}", measure="cosine", features=[_neighbor(state, other, n) for n in found])


def _cosines(direction: np.ndarray, rows: np.ndarray, norms: np.ndarray) -> np.ndarray:
    """Cosines with half-precision rows, a block at a time: the whole of them is never widened at once."""
    out = np.empty(len(rows), np.float32)
    for start in range(0, len(rows), 8192):
        out[start : start + 8192] = rows[start : start + 8192].astype(np.float32) @ direction
    size = np.maximum(norms.astype(np.float32) * np.linalg.norm(direction), 1e-30)
    return np.where(np.isfinite(norms) & (norms > 0), out / size, -np.inf)


def _neighbor(state: State, entry: Entry, neighbor: StoredNeighbor) -> Neighbor:
    row = entry.bundle.features.slice(neighbor.feature, 1).select(["top_token", "density"]).to_pylist()
    facts: dict[str, Any] = row[0] if row else {"top_token": None, "density": None}
    token, vocabulary = facts["top_token"], entry.bundle.vocabulary
    added = state.added(entry).rows.get(neighbor.feature)
    return Neighbor(
        dictionary=entry.id,
        feature=neighbor.feature,
        value=_short(neighbor.value),
        label=None if added is None else added.label,
        top_token=vocabulary[token] if token is not None and token < len(vocabulary) else None,
        density=facts["density"],
    )


def _context(context: StoredContext, ids: dict[int, int], window: int | None) -> Context:
    first, last = 0, context.stop - context.start
    if window is not None and last > window:
        first = min(max(context.peak - window // 2, 0), last - window)
        last = first + window
    acts = context.acts[first:last]
    fires = np.flatnonzero(acts)
    return Context.model_construct(
        rank=context.rank,
        seq=context.sequence,
        doc=context.document,
        start=context.start + first,
        stop=context.start + last,
        peak=context.peak - first,
        max_act=_short(context.max_act),
        dup_of=context.dup_of,
        tokens=[ids.setdefault(token, len(ids)) for token in context.token_ids[first:last]],
        pos=fires.tolist(),
        val=digits(acts[fires]),
        src_pos=[position - context.start - first for position, _ in context.sources],
        src_val=[_short(value) for _, value in context.sources],
    )


def _fired_on(stored: StoredFeature) -> list[FiredOn]:
    means = digits(stored.token_means)
    return [
        FiredOn(id=t.id, text=t.text, share=_short(t.value), mean=m) for t, m in zip(stored.tokens, means, strict=True)
    ]


def _tokens(tokens: tuple[StoredToken, ...]) -> list[Token]:
    return [Token(id=token.id, text=token.text, value=_short(token.value)) for token in tokens]


def _sites(writes: list[str], stored: StoredFeature) -> list[SiteNorm]:
    norms, cosines = digits(stored.write_norms), digits(stored.write_cosine)
    cosines += [None] * (len(norms) - len(cosines))
    return [SiteNorm(site=site, norm=n, cosine=c) for site, n, c in zip(writes, norms, cosines, strict=False)]


def _bins(histogram: Histogram) -> Bins:
    return Bins(edges=digits(histogram.edges), counts=histogram.counts.tolist(), scale="linear")


def _has_rare(entry: Entry) -> bool:
    names = entry.bundle.features.schema.names
    return "best_score" in names and "cluster" in names


def _short(value: float) -> Any:
    return float(f"{value:.6g}") if np.isfinite(value) else None
