"""A feature as the wire carries it, read from its bundle."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from monoscope.features.drawn import contexts_record, digits, feature_record, short
from monoscope.features.records import Feature as StoredFeature
from monoscope.features.records import Neighbor as StoredNeighbor
from monoscope.server.library.library import Entry
from monoscope.server.problems import ProblemError
from monoscope.server.state import State
from monoscope.server.table.added import AddedRow
from monoscope.server.texts import texts_of
from monoscope.server.wire.feature import Context, ContextGroup, Contexts, Feature, Neighbor, Neighbors, SiteNorm

NEAREST = 20


def feature_of(state: State, entry: Entry, index: int) -> Feature:
    """Everything about a feature but its contexts."""
    bundle = entry.bundle
    stored = bundle.feature(index, contexts=False)
    rare = bundle.features.slice(index, 1).select(["best_score", "cluster"]).to_pylist()[0] if _has_rare(entry) else {}
    writes = entry.manifest.dictionary.writes
    return Feature(
        dictionary=entry.id,
        reference=f"{entry.manifest.model.id or 'model'}/{entry.id}/{index}",
        n_features=entry.n_features,
        **feature_record(stored),
        best_score=rare.get("best_score"),
        cluster=rare.get("cluster"),
        sites=_sites(writes, stored) if len(writes) > 1 else None,
        **texts_of(state, entry, index),
    )


def contexts_of(entry: Entry, index: int, interval: int | None, limit: int, window: int | None) -> Contexts:
    """A feature's contexts, those of the strongest interval first, then the bands, random ones, and look-alikes."""
    bundle = entry.bundle
    record = contexts_record(bundle.feature(index), bundle.special, interval=interval, limit=limit, window=window)
    groups = [
        ContextGroup.model_construct(
            **group | {"contexts": [Context.model_construct(**context) for context in group["contexts"]]}
        )
        for group in record.pop("groups")
    ]
    return Contexts.model_construct(groups=groups, **record)


def neighbors_of(state: State, entry: Entry, index: int, by: str) -> Neighbors:
    """The neighbors that a bundle stores."""
    stored = entry.bundle.feature(index, contexts=False)
    found = {"decoder": stored.decoder_neighbors, "encoder": stored.encoder_neighbors, "coactivation": stored.together}[
        by
    ]
    return Neighbors(
        by=by, measure="pmi" if by == "coactivation" else "cosine", features=_neighbors(state, entry, found)
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
    return Neighbors(by=f"other:{other.id}", measure="cosine", features=_neighbors(state, other, found))


def _cosines(direction: np.ndarray, rows: np.ndarray, norms: np.ndarray) -> np.ndarray:
    """Cosines with half-precision rows, a block at a time: the whole of them is never widened at once."""
    out = np.empty(len(rows), np.float32)
    for start in range(0, len(rows), 8192):
        out[start : start + 8192] = rows[start : start + 8192].astype(np.float32) @ direction
    size = np.maximum(norms.astype(np.float32) * np.linalg.norm(direction), 1e-30)
    return np.where(np.isfinite(norms) & (norms > 0), out / size, -np.inf)


def _neighbors(state: State, entry: Entry, found: Sequence[StoredNeighbor]) -> list[Neighbor]:
    table, added = entry.bundle.features.select(["top_token", "density"]), state.added(entry).rows
    return [_neighbor(entry, neighbor, table, added.get(neighbor.feature)) for neighbor in found]


def _neighbor(entry: Entry, neighbor: StoredNeighbor, table: pa.Table, added: AddedRow | None) -> Neighbor:
    row = table.slice(neighbor.feature, 1).to_pylist()
    facts: dict[str, Any] = row[0] if row else {"top_token": None, "density": None}
    token, vocabulary = facts["top_token"], entry.bundle.vocabulary
    return Neighbor(
        dictionary=entry.id,
        feature=neighbor.feature,
        value=short(neighbor.value),
        label=None if added is None else added.label,
        top_token=vocabulary[token] if token is not None and token < len(vocabulary) else None,
        density=facts["density"],
    )


def _sites(writes: list[str], stored: StoredFeature) -> list[SiteNorm]:
    norms, cosines = digits(stored.write_norms), digits(stored.write_cosine)
    cosines += [None] * (len(norms) - len(cosines))
    return [SiteNorm(site=site, norm=n, cosine=c) for site, n, c in zip(writes, norms, cosines, strict=False)]


def _has_rare(entry: Entry) -> bool:
    names = entry.bundle.features.schema.names
    return "best_score" in names and "cluster" in names
