"""Labels, explanations and their scores, and the one line that is shown for a feature.

A person's choice comes first (of several, the latest), then an imported label, then the explanation with the best
score, then the latest explanation without one. Every change raises its dictionary's serial, so that the labels of 131k
features are read once and then kept up to date by what changed.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal

from sqlalchemy import distinct, func, select, union, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from monoscope.core.progress import progress
from monoscope.features.workspace.records import (
    BestLabel,
    Explanation,
    ExplanationDraft,
    ExplanationScore,
    Label,
    LabelDraft,
    ScoreDraft,
)
from monoscope.features.workspace.store import Store
from monoscope.features.workspace.tables import DictionaryRow, ExplanationRow, LabelRow, ScoreRow

KEPT_DICTIONARIES = 32
ASKED = 500  # features named in one query

Kind = Literal["label", "explanation"]
BestLabels = Mapping[int, BestLabel]


def next_serial(session: Session, dictionary_fp: str) -> int:
    """Number of the next change to a dictionary's labels; nobody else gets one until this transaction ends."""
    raised = (
        update(DictionaryRow)
        .where(DictionaryRow.fingerprint == dictionary_fp)
        .values(serial=DictionaryRow.serial + 1)
        .returning(DictionaryRow.serial)
        .execution_options(synchronize_session=False)
    )
    if (serial := session.scalar(raised)) is not None:
        return serial
    try:
        with session.begin_nested():
            session.add(DictionaryRow(fingerprint=dictionary_fp, serial=1, purged=0))
        return 1
    except IntegrityError:  # another process was first
        serial = session.scalar(raised)
        assert serial is not None
        return serial


class LabelStore(Store[LabelDraft, Label]):
    """Labels: one for each feature and author."""

    table, draft, record, word = LabelRow, LabelDraft, Label, "label"
    fixed = frozenset({"dictionary_fp", "feature"})
    unique = ("dictionary_fp", "feature", "author")

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._known: dict[str, tuple[int, BestLabels]] = {}
        self._lock = threading.Lock()

    def share(self, other: LabelStore) -> None:
        """Keep labels in the same memory as another author's store."""
        self._known, self._lock = other._known, other._lock

    def write(self, dictionary_fp: str, feature: int, text: str) -> Label:
        """Give a feature this author's label, whatever it was before."""
        whole = {"dictionary_fp": dictionary_fp, "feature": feature, "text": text}
        return self.put(self._validated({**whole, "source": "user", "explanation_id": None}))  # type: ignore[arg-type]

    def choose(self, explanation_id: str) -> Label:
        """Make an explanation this author's label of its feature. Raises MissingError if it is not there."""
        with self.database.reading() as session:
            row = ExplanationStore(self.database)._row(session, explanation_id)
        whole = {"dictionary_fp": row.dictionary_fp, "feature": row.feature, "text": row.text[:2000]}
        draft = self._validated({**whole, "source": "explanation", "explanation_id": explanation_id})
        return self.put(draft)  # type: ignore[arg-type]

    def update(self, id: str, *, etag: str | None = None, **changes: Any) -> Label:
        """Change a label; new words make it its author's own."""
        if "text" in changes and "source" not in changes:
            changes |= {"source": "user", "explanation_id": None}
        return super().update(id, etag=etag, **changes)

    def of(self, dictionary_fp: str, feature: int) -> list[Label]:
        """Every author's label of a feature, the latest first."""
        rows = self.page(dictionary_fp=dictionary_fp, feature=feature)
        return sorted(rows, key=lambda row: row.updated, reverse=True)

    def best(self, dictionary_fp: str, feature: int) -> BestLabel | None:
        """The line shown for one feature."""
        with self.database.reading() as session:
            return _best(session, dictionary_fp, [feature]).get(feature)

    def all(self, dictionary_fp: str) -> BestLabels:
        """The line shown for every feature that has one. The first call reads them all, later ones what changed."""
        with self._lock:
            serial, known = self._known.pop(dictionary_fp, (0, MappingProxyType({})))
            latest, changed = self.changes(dictionary_fp, serial)
            if changed is None:
                with self.database.reading() as session:
                    known = MappingProxyType(_best(session, dictionary_fp, None))
            elif changed:
                with self.database.reading() as session:
                    found = _best(session, dictionary_fp, changed)
                gone = {feature for feature in changed if feature not in found}
                kept = {feature: label for feature, label in known.items() if feature not in gone}
                known = MappingProxyType(kept | found)
            self._known[dictionary_fp] = (latest, known)
            while len(self._known) > KEPT_DICTIONARIES:
                self._known.pop(next(iter(self._known)))
            return known

    def lines(self, dictionary_fp: str, features: list[int] | None = None) -> dict[int, list[tuple[Kind, str]]]:
        """Every text of these features, or of all: what is shown first, then other labels, then explanations."""
        found: dict[int, list[tuple[Kind, str]]] = {}
        with self.database.reading() as session:
            for feature, best in _best(session, dictionary_fp, features).items():
                found[feature] = [("explanation" if best.source == "explanation" else "label", best.text)]
            for chosen in _asked(features):
                for table in (LabelRow, ExplanationRow):
                    kind: Kind = "label" if table is LabelRow else "explanation"
                    for row in _rows(session, table, dictionary_fp, chosen):
                        texts = found[row["feature"]]
                        if row["text"] not in (text for _, text in texts):
                            texts.append((kind, row["text"]))
        return found

    def serial(self, dictionary_fp: str) -> int:
        """Number of the latest change to a dictionary's labels and explanations; 0 before the first."""
        return self.state(dictionary_fp)[0]

    def serials(self) -> dict[str, int]:
        """Number of the latest change to each dictionary's labels and explanations."""
        with self.database.reading() as session:
            return {
                fp: serial for fp, serial in session.execute(select(DictionaryRow.fingerprint, DictionaryRow.serial))
            }

    def changes(self, dictionary_fp: str, since: int) -> tuple[int, list[int] | None]:
        """The latest serial, and the features that changed after ``since``; None where all must be read again."""
        latest, purged = self.state(dictionary_fp)
        if latest == since:
            return latest, []
        if since == 0 or since < purged or since > latest:
            return latest, None
        newer = [
            select(table.feature).where(table.dictionary_fp == dictionary_fp, table.serial > since)
            for table in (LabelRow, ExplanationRow)
        ]
        with self.database.reading() as session:
            return latest, sorted(session.scalars(union(*newer)))

    def state(self, dictionary_fp: str) -> tuple[int, int]:
        """Serial of a dictionary, and the serial up to which deleted rows were purged."""
        with self.database.reading() as session:
            row = session.get(DictionaryRow, dictionary_fp)
            return (0, 0) if row is None else (row.serial, row.purged)

    def counts(self) -> dict[str, int]:
        """Number of features with a label or an explanation, by dictionary."""
        pairs = [
            select(table.dictionary_fp, table.feature).where(table.deleted.is_(None))
            for table in (LabelRow, ExplanationRow)
        ]
        both = union(*pairs).subquery()
        statement = select(both.c.dictionary_fp, func.count(distinct(both.c.feature))).group_by(both.c.dictionary_fp)
        with self.database.reading() as session:
            return {fingerprint: n for fingerprint, n in session.execute(statement)}

    def _derived(self, session: Session, draft: LabelDraft) -> dict[str, Any]:
        return {"serial": next_serial(session, draft.dictionary_fp)}

    def _touched(self, session: Session, row: LabelRow) -> dict[str, Any]:
        return {"serial": next_serial(session, row.dictionary_fp)}


class ExplanationStore(Store[ExplanationDraft, Explanation]):
    """Explanations: any number for a feature."""

    table, draft, record, word = ExplanationRow, ExplanationDraft, Explanation, "explanation"
    fixed = frozenset({"dictionary_fp", "feature"})

    def of(self, dictionary_fp: str, feature: int) -> list[Explanation]:
        """Explanations of a feature, the best first, those without a score last."""
        rows = self.page(dictionary_fp=dictionary_fp, feature=feature, limit=1000)
        return sorted(rows, key=lambda row: (row.score is None, -(row.score or 0.0), row.id))

    def add(self, rows: Iterable[tuple[ExplanationDraft, Sequence[tuple[str, float]]]]) -> int:
        """Add many explanations with their scores, each at most once; returns how many were new."""
        from monoscope.features.workspace.bulk import add_explanations

        with progress("take in explanations", None, "explanations") as bar:
            new = 0
            for read, added in add_explanations(self.database, rows):
                new += added
                bar.advance(read, new=new)
            return new

    def _derived(self, session: Session, draft: ExplanationDraft) -> dict[str, Any]:
        return {"serial": next_serial(session, draft.dictionary_fp)}

    def _touched(self, session: Session, row: ExplanationRow) -> dict[str, Any]:
        return {"serial": next_serial(session, row.dictionary_fp)}


class ScoreStore(Store[ScoreDraft, ExplanationScore]):
    """Scores; each writes the mean of its explanation's scorers, the latest value of each, beside the explanation."""

    table, draft, record, word = ScoreRow, ScoreDraft, ExplanationScore, "score"
    fixed = frozenset({"explanation_id", "scorer"})

    def of(self, explanation_id: str) -> list[ExplanationScore]:
        """Scores of an explanation, oldest first."""
        return self.page(explanation_id=explanation_id, limit=1000)

    def _insert(self, session: Session, draft: ScoreDraft, **columns: Any) -> ExplanationScore:
        ExplanationStore(self.database)._row(session, draft.explanation_id)
        score = super()._insert(session, draft, **columns)
        self._average(session, draft.explanation_id)
        return score

    def _write(self, session: Session, row: Any, values: Mapping[str, Any]) -> ExplanationScore:
        score = super()._write(session, row, values)
        self._average(session, row.explanation_id)
        return score

    def _average(self, session: Session, explanation_id: str) -> None:
        explanation = session.get(ExplanationRow, explanation_id)
        assert explanation is not None, "a foreign key holds it"
        serial = next_serial(session, explanation.dictionary_fp)  # first, so that two scorers see each other's values
        rows = session.execute(
            select(ScoreRow.scorer, ScoreRow.value)
            .where(ScoreRow.explanation_id == explanation_id, ScoreRow.deleted.is_(None))
            .order_by(ScoreRow.id)
        )
        score = mean_of_latest((scorer, value) for scorer, value in rows)
        session.execute(
            update(ExplanationRow)
            .where(ExplanationRow.id == explanation_id)
            .values(score=score, serial=serial)
            .execution_options(synchronize_session=False)
        )


def mean_of_latest(scores: Iterable[tuple[str, float]]) -> float | None:
    """Mean over scorers of each one's latest value; None without any."""
    latest = dict(scores)
    return sum(latest.values()) / len(latest) if latest else None


def _best(session: Session, dictionary_fp: str, features: list[int] | None) -> dict[int, BestLabel]:
    """The line shown for these features, or for all; see the module's rule."""
    found: dict[int, BestLabel] = {}
    for chosen in _asked(features):
        for row in _rows(session, ExplanationRow, dictionary_fp, chosen):
            standing = found.get(row["feature"])
            if standing is None or _order(row["score"]) >= _order(standing.score):
                found[row["feature"]] = _shown(row, "explanation")
        rows = list(_rows(session, LabelRow, dictionary_fp, chosen))
        for row in sorted(rows, key=lambda row: (row["source"] != "imported", row["updated"], row["id"])):
            found[row["feature"]] = _shown(row, row["source"])
    return found


def _asked(features: list[int] | None) -> list[list[int]] | list[None]:
    """Features in groups that one query can name; or all of them, without a name."""
    return [None] if features is None else [features[i : i + ASKED] for i in range(0, len(features), ASKED)]


def _order(score: float | None) -> float:
    return -math.inf if score is None else score


def _rows(session: Session, table: Any, dictionary_fp: str, features: list[int] | None) -> Iterable[Mapping[str, Any]]:
    statement = select(table.id, table.feature, table.text, table.author, ExplanationRow.score)
    if table is LabelRow:
        statement = statement.add_columns(LabelRow.source, LabelRow.updated).outerjoin(
            ExplanationRow, LabelRow.explanation_id == ExplanationRow.id
        )
    statement = statement.where(table.dictionary_fp == dictionary_fp, table.deleted.is_(None)).order_by(table.id)
    if features is not None:
        statement = statement.where(table.feature.in_(features))
    return (dict(row) for row in session.execute(statement).mappings())


def _shown(row: Mapping[str, Any], source: Any) -> BestLabel:
    return BestLabel(row["feature"], row["text"], source, row["author"], row["score"])
