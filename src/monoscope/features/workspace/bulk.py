"""Explanations by the hundred thousand: a thousand a transaction, each at most once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

from sqlalchemy import insert, select
from sqlalchemy.orm import Session

from monoscope.features.workspace.labels import ASKED, mean_of_latest, next_serial
from monoscope.features.workspace.records import ExplanationDraft, ScoreDraft
from monoscope.features.workspace.store import Database, now
from monoscope.features.workspace.tables import ExplanationRow, ScoreRow
from monoscope.features.workspace.ulid import ulid

CHUNK = 1000
Scores = Sequence[tuple[str, float]]


def add_explanations(database: Database, rows: Iterable[tuple[ExplanationDraft, Scores]]) -> Iterator[tuple[int, int]]:
    """Add explanations with their scores, by scorer; the same text of the same method and judge is added once.

    Yields, after each transaction, how many rows were read and how many were new. What was added stays, whatever the
    next row brings; doing it again adds what is missing.
    """
    rows = iter(rows)
    while chunk := list(islice(rows, CHUNK)):
        with database.writing() as session:
            serials = {fp: next_serial(session, fp) for fp in sorted({draft.dictionary_fp for draft, _ in chunk})}
            known = {key for fp in serials for key in _known(session, fp, chunk)}
            explanations, scores = [], []
            for draft, its in chunk:
                if _key(draft) not in known:
                    known.add(_key(draft))
                    kept = _kept(database)
                    score = {"score": mean_of_latest(its), "serial": serials[draft.dictionary_fp]}
                    explanations.append(kept | draft.model_dump() | score)
                    for scorer, value in its:
                        given = ScoreDraft(explanation_id=kept["id"], scorer=scorer, value=value)
                        scores.append(_kept(database) | given.model_dump())
            if explanations:
                session.execute(insert(ExplanationRow), explanations)
            if scores:
                session.execute(insert(ScoreRow), scores)
        yield len(chunk), len(explanations)


def _kept(database: Database) -> dict[str, Any]:
    time = now()
    return {"id": ulid(), "version": 1, "created": time, "updated": time, "deleted": None, "author": database.author}


def _key(draft: Any) -> tuple[Any, ...]:
    return draft.dictionary_fp, draft.feature, draft.text, draft.method, draft.judge


def _known(session: Session, dictionary_fp: str, chunk: Sequence[tuple[ExplanationDraft, Scores]]) -> Iterator[tuple]:
    """Explanations that the features of a chunk have already."""
    table = ExplanationRow
    features = sorted({draft.feature for draft, _ in chunk if draft.dictionary_fp == dictionary_fp})
    for start in range(0, len(features), ASKED):
        named = table.feature.in_(features[start : start + ASKED])
        statement = select(table.dictionary_fp, table.feature, table.text, table.method, table.judge)
        statement = statement.where(table.dictionary_fp == dictionary_fp, table.deleted.is_(None), named)
        yield from (tuple(row) for row in session.execute(statement))
