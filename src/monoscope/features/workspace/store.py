"""Rows of one table as records: make, get, page, update, delete, restore.

A change reads the row, compares its etag where one is given, and writes ``WHERE version = ?``; nothing written by
somebody else in between is lost. Every update and delete leaves what was there before in ``audit``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, ClassVar, Generic, TypeVar

from pydantic import ValidationError
from sqlalchemy import Engine, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from monoscope.core.errors import ConfigError, DataError, nearest
from monoscope.features.workspace.connect import WRITES, available
from monoscope.features.workspace.errors import BusyError, ConflictError, MissingError
from monoscope.features.workspace.fields import Draft, Row
from monoscope.features.workspace.table_base import Kept
from monoscope.features.workspace.tables import AuditRow
from monoscope.features.workspace.ulid import ulid

D = TypeVar("D", bound=Draft)
R = TypeVar("R", bound=Row)
PAGE = 1000


class Database:
    """An engine, and who writes through it."""

    def __init__(self, engine: Engine, author: str) -> None:
        self.engine, self.author = engine, author
        self._writer = engine.execution_options(**{WRITES: True})

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """One consistent look."""
        with available(), Session(self.engine, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """One transaction, written whole or not at all."""
        with available(), Session(self._writer, expire_on_commit=False) as session, session.begin():
            yield session


class Store(Generic[D, R]):
    """The rows of one table. ``fixed`` fields are set once; two rows never agree in all ``unique`` fields."""

    table: ClassVar[type[Kept]]
    draft: ClassVar[type[Draft]]
    record: ClassVar[type[Row]]
    word: ClassVar[str]
    fixed: ClassVar[frozenset[str]] = frozenset()
    unique: ClassVar[tuple[str, ...]] = ()

    def __init__(self, database: Database) -> None:
        self.database = database

    def create(self, draft: D) -> R:
        """A new row. Raises ConflictError, with the row in its way, where there may be only one."""
        try:
            with self.database.writing() as session:
                return self._insert(session, draft)
        except IntegrityError as error:
            raise self._collision(draft, error) from None

    def put(self, draft: D) -> R:
        """The row that says this: a new one, or the one with the same ``unique`` fields, changed to it."""
        for _ in range(10):
            try:
                return self.create(draft)
            except ConflictError as conflict:
                standing = conflict.current
            if standing is None:
                continue
            values = {name: getattr(draft, name) for name in draft.model_fields_set - self.fixed}
            changes = {name: value for name, value in values.items() if value != getattr(standing, name)}
            try:
                return self.update(standing.id, **changes) if changes else self.get(standing.id)
            except MissingError:  # deleted in between: make it again
                continue
        raise BusyError(f"others write and delete this {self.word} faster than it can be written")

    def get(self, id: str) -> R:
        """The row of an id. Raises MissingError."""
        with self.database.reading() as session:
            return self._record(self._row(session, id))

    def page(self, *, after: str = "", limit: int = 100, deleted: bool = False, **equals: Any) -> list[R]:
        """Rows with these values, oldest first, past the id ``after``; at most 1,000. ``deleted``: those instead."""
        self._check_names(equals)
        statement = select(self.table).where(self.table.id > after).order_by(self.table.id)
        statement = statement.where(self.table.deleted.is_not(None) if deleted else self.table.deleted.is_(None))
        for name, value in equals.items():
            statement = statement.where(getattr(self.table, name) == value)
        with self.database.reading() as session:
            return [self._record(row) for row in session.scalars(statement.limit(max(1, min(limit, PAGE))))]

    def update(self, id: str, *, etag: str | None = None, **changes: Any) -> R:
        """Change some fields of a row. Raises ConflictError, with the current row, if ``etag`` names an older state."""
        self._check_names(changes)
        if fixed := self.fixed & changes.keys():
            raise ConfigError(f"{', '.join(sorted(fixed))} of a {self.word} cannot change; make another {self.word}")
        try:
            with self.database.writing() as session:
                row = self._current(session, id, etag)
                whole = {name: getattr(row, name) for name in self.draft.model_fields} | changes
                values = self._columns(self._validated(whole))
                self._audit(session, "update", row)
                return self._write(session, row, {name: values[name] for name in changes})
        except IntegrityError as error:
            raise ConflictError(f"another {self.word} already has these values", None) from error

    def delete(self, id: str, *, etag: str | None = None) -> R:
        """Delete a row; ``restore`` brings it back for 30 days."""
        with self.database.writing() as session:
            row = self._current(session, id, etag)
            self._audit(session, "delete", row)
            return self._write(session, row, {"deleted": now()})

    def restore(self, id: str) -> R:
        """Bring back a deleted row. Raises ConflictError where another took its place."""
        try:
            with self.database.writing() as session:
                row = session.get(self.table, id)
                if row is None:
                    raise MissingError(f"there is no {self.word} {id!r}, or it was purged")
                if row.deleted is None:
                    return self._record(row)
                self._audit(session, "restore", row)
                return self._write(session, row, {"deleted": None})
        except IntegrityError as error:
            raise ConflictError(f"another {self.word} has taken the place of {id}", None) from error

    def _insert(self, session: Session, draft: D, **columns: Any) -> R:
        time = now()
        kept = {"id": ulid(), "version": 1, "created": time, "updated": time, "author": self.database.author}
        row = self.table(**kept, **self._columns(draft), **self._derived(session, draft), **columns)
        session.add(row)
        session.flush()
        return self._record(row)

    def _write(self, session: Session, row: Kept, values: Mapping[str, Any]) -> R:
        """Write to a row as it was read. Raises ConflictError if it changed since."""
        table = self.table
        changed = {**values, **self._touched(session, row), "version": row.version + 1, "updated": now()}
        done = session.execute(
            update(table)
            .where(table.id == row.id, table.version == row.version)
            .values(changed)
            .execution_options(synchronize_session=False)
        )
        if done.rowcount != 1:  # type: ignore[attr-defined]
            session.expire(row)
            raise ConflictError(f"this {self.word} was changed while it was being written", self._record(row))
        session.expire(row)
        return self._record(row)

    def _current(self, session: Session, id: str, etag: str | None) -> Any:
        row = self._row(session, id)
        record = self._record(row)
        if etag is not None and etag != record.etag:
            raise ConflictError(f"this {self.word} was changed by {row.author} at {row.updated:%Y-%m-%d %H:%M}", record)
        return row

    def _row(self, session: Session, id: str) -> Any:
        row = session.get(self.table, id)
        if row is None or row.deleted is not None:
            raise MissingError(f"there is no {self.word} {id!r}" + ("" if row is None else "; it was deleted"))
        return row

    def _record(self, row: Kept) -> R:
        return self.record.model_validate(row)  # type: ignore[return-value]

    def _columns(self, draft: Draft) -> dict[str, Any]:
        return draft.model_dump()

    def _validated(self, fields: Mapping[str, Any]) -> Draft:
        try:
            return self.draft.model_validate(fields)
        except ValidationError as error:
            first = error.errors()[0]
            raise DataError(f"{'.'.join(map(str, first['loc']))} of a {self.word}: {first['msg']}") from None

    def _derived(self, session: Session, draft: D) -> dict[str, Any]:
        """Columns of a new row that its draft does not give."""
        return {}

    def _touched(self, session: Session, row: Any) -> dict[str, Any]:
        """Columns that any change of a row sets."""
        return {}

    def _collision(self, draft: D, error: IntegrityError) -> Exception:
        equals = {name: getattr(draft, name) for name in self.unique if name != "author"}
        if "author" in self.unique:
            equals["author"] = self.database.author
        standing = self.page(limit=1, **equals) if equals else []
        if standing:
            return ConflictError(f"there is such a {self.word} already", standing[0])
        return MissingError(f"a {self.word} refers to a row that is not there ({error.orig})")

    def _audit(self, session: Session, action: str, row: Kept) -> None:
        before = self._record(row).model_dump(mode="json")
        target = f"{self.table.__tablename__}/{row.id}"
        session.add(
            AuditRow(id=ulid(), created=now(), actor=self.database.author, action=action, target=target, before=before)
        )

    def _check_names(self, values: Mapping[str, Any]) -> None:
        known = [*self.draft.model_fields, "author"]
        for name in values:
            if name not in known or not hasattr(self.table, name):
                raise ConfigError(f"a {self.word} has no {name!r}; {nearest(name, known)}")


def now() -> datetime:
    """The time, in UTC, to the microsecond."""
    return datetime.now(UTC)
