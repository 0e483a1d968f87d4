"""What people do with features besides naming them: bookmarks, tags, lists and notes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import func, select, update

from monoscope.core.errors import DataError
from monoscope.features.workspace.records import (
    Bookmark,
    BookmarkDraft,
    FeatureList,
    FeatureRef,
    FeatureTag,
    FeatureTagDraft,
    ListDraft,
    ListItem,
    ListItemDraft,
    Note,
    NoteDraft,
    Tag,
    TagDraft,
)
from monoscope.features.workspace.store import Store
from monoscope.features.workspace.tables import BookmarkRow, FeatureTagRow, ListItemRow, ListRow, NoteRow, TagRow

FEATURE = frozenset({"dictionary_fp", "feature"})


class BookmarkStore(Store[BookmarkDraft, Bookmark]):
    """Bookmarks: one for each feature and author."""

    table, draft, record, word = BookmarkRow, BookmarkDraft, Bookmark, "bookmark"
    fixed, unique = FEATURE, ("dictionary_fp", "feature", "author")

    def set(self, dictionary_fp: str, feature: int) -> Bookmark:
        """Bookmark a feature, if it is not yet."""
        return self.put(BookmarkDraft(dictionary_fp=dictionary_fp, feature=feature))

    def all(self, dictionary_fp: str) -> frozenset[int]:
        """Features of a dictionary that this author bookmarked."""
        table = BookmarkRow
        statement = select(table.feature).where(
            table.dictionary_fp == dictionary_fp, table.author == self.database.author, table.deleted.is_(None)
        )
        with self.database.reading() as session:
            return frozenset(session.scalars(statement))


class TagStore(Store[TagDraft, Tag]):
    """Tags: one for each name."""

    table, draft, record, word = TagRow, TagDraft, Tag, "tag"
    unique = ("name",)


class FeatureTagStore(Store[FeatureTagDraft, FeatureTag]):
    """Tags on features."""

    table, draft, record, word = FeatureTagRow, FeatureTagDraft, FeatureTag, "tag of a feature"
    fixed, unique = FEATURE | {"tag_id"}, ("dictionary_fp", "feature", "tag_id")

    def mark(self, dictionary_fp: str, feature: int, name: str) -> FeatureTag:
        """Put the tag of this name on a feature; it is made if there is none."""
        tag = TagStore(self.database).put(TagDraft(name=name))
        return self.put(FeatureTagDraft(dictionary_fp=dictionary_fp, feature=feature, tag_id=tag.id))

    def all(self, dictionary_fp: str) -> dict[int, tuple[str, ...]]:
        """Names of the tags of every feature that has one, in alphabetical order."""
        statement = (
            select(FeatureTagRow.feature, TagRow.name)
            .join(TagRow, TagRow.id == FeatureTagRow.tag_id)
            .where(
                FeatureTagRow.dictionary_fp == dictionary_fp,
                FeatureTagRow.deleted.is_(None),
                TagRow.deleted.is_(None),
            )
            .order_by(TagRow.name)
        )
        found: dict[int, list[str]] = defaultdict(list)
        with self.database.reading() as session:
            for feature, name in session.execute(statement):
                found[feature].append(name)
        return {feature: tuple(names) for feature, names in found.items()}

    def counts(self) -> dict[str, int]:
        """Number of features that carry each tag, by the tag's id."""
        statement = (
            select(FeatureTagRow.tag_id, func.count())
            .where(FeatureTagRow.deleted.is_(None))
            .group_by(FeatureTagRow.tag_id)
        )
        with self.database.reading() as session:
            return {tag: n for tag, n in session.execute(statement)}


class ListStore(Store[ListDraft, FeatureList]):
    """Lists."""

    table, draft, record, word = ListRow, ListDraft, FeatureList, "list"


class ListItemStore(Store[ListItemDraft, ListItem]):
    """Features in lists, each once. Positions are numbers between their neighbors', so that a move writes one row."""

    table, draft, record, word = ListItemRow, ListItemDraft, ListItem, "list item"
    fixed, unique = FEATURE | {"list_id"}, ("list_id", "dictionary_fp", "feature")

    def of(self, list_id: str) -> list[ListItem]:
        """A list's items, in order."""
        with self.database.reading() as session:
            ListStore(self.database)._row(session, list_id)
            rows = session.scalars(self._live(list_id).order_by(ListItemRow.position, ListItemRow.id))
            return [self._record(row) for row in rows]

    def counts(self) -> dict[str, int]:
        """Number of features in each list, by the list's id."""
        statement = (
            select(ListItemRow.list_id, func.count()).where(ListItemRow.deleted.is_(None)).group_by(ListItemRow.list_id)
        )
        with self.database.reading() as session:
            return {list_id: n for list_id, n in session.execute(statement)}

    def add(self, list_id: str, features: Iterable[FeatureRef], *, note: str = "") -> list[ListItem]:
        """Append features to a list; those it has already stay where they are. Returns the items of all of them."""
        with self.database.writing() as session:
            self._hold(session, list_id)
            present = {(row.dictionary_fp, row.feature): row for row in session.scalars(self._live(list_id))}
            last = max((row.position for row in present.values()), default=0.0)
            items = []
            for ref in features:
                key = (ref.dictionary_fp, ref.feature)
                if key not in present:
                    last += 1.0
                    whole = {"dictionary_fp": key[0], "feature": key[1], "list_id": list_id, "position": last}
                    draft = self._validated({**whole, "note": note})
                    item = self._insert(session, draft)  # type: ignore[arg-type]
                    present[key] = session.get_one(ListItemRow, item.id)
                items.append(self._record(present[key]))
            return items

    def move(self, item_id: str, before: str | None, *, etag: str | None = None) -> ListItem:
        """Move an item in front of another of its list, or to the end."""
        with self.database.writing() as session:
            row = self._row(session, item_id)
            self._hold(session, row.list_id)
            session.refresh(row, with_for_update=True)  # as whoever held the list before has left it
            row = self._current(session, item_id, etag)
            others = [
                other
                for other in session.scalars(self._live(row.list_id).order_by(ListItemRow.position, ListItemRow.id))
                if other.id != item_id
            ]
            place = len(others) if before is None else next((i for i, o in enumerate(others) if o.id == before), None)
            if place is None:
                raise DataError(f"{before} is no other item of the same list")
            position = _between(others, place)
            if position is None:
                self._renumber(session, others)
                position = _between(others, place)
                assert position is not None, "whole numbers have room between them"
            return self._write(session, row, {"position": position})

    def _live(self, list_id: str) -> Any:
        return select(ListItemRow).where(ListItemRow.list_id == list_id, ListItemRow.deleted.is_(None))

    def _hold(self, session: Any, list_id: str) -> None:
        """Keep others from changing the list's order until this transaction ends."""
        ListStore(self.database)._row(session, list_id)
        session.execute(select(ListRow.id).where(ListRow.id == list_id).with_for_update())

    def _renumber(self, session: Any, rows: Sequence[ListItemRow]) -> None:
        for i, row in enumerate(rows):
            session.execute(
                update(ListItemRow)
                .where(ListItemRow.id == row.id)
                .values(position=float(i + 1))
                .execution_options(synchronize_session=False)
            )
            session.expire(row)


class NoteStore(Store[NoteDraft, Note]):
    """Notes about features, dictionaries, lists, graphs, runs and pages."""

    table, draft, record, word = NoteRow, NoteDraft, Note, "note"
    fixed = frozenset({"target_kind", "target_id"})

    def counts(self, target_kind: str) -> dict[str, int]:
        """Number of notes on each target of a kind."""
        statement = (
            select(NoteRow.target_id, func.count())
            .where(NoteRow.target_kind == target_kind, NoteRow.deleted.is_(None))
            .group_by(NoteRow.target_id)
        )
        with self.database.reading() as session:
            return {target: n for target, n in session.execute(statement)}


def _between(rows: Sequence[ListItemRow], place: int) -> float | None:
    """A position in front of ``rows[place]``; None where two neighbors leave no number between them."""
    low = rows[place - 1].position if place else None
    high = rows[place].position if place < len(rows) else None
    if low is None or high is None:
        return (high - 1.0) if high is not None else (low or 0.0) + 1.0
    middle = (low + high) / 2
    return middle if low < middle < high else None
