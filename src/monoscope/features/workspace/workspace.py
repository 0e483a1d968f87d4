"""Workspace: what people add to features, in one SQLite file, or in PostgreSQL by its address.

    workspace = Workspace.open("workspace.db")
    workspace.labels.write(dictionary_fp, 1043, "opening brackets")
    workspace.labels.best(dictionary_fp, 1043).text
    workspace.by("ada").lists.create(ListDraft(name="brackets"))

Any number of processes may open one workspace; a process that is forked or spawned opens its own. Methods may be called
from any thread.
"""

from __future__ import annotations

from datetime import timedelta
from functools import cached_property
from pathlib import Path
from types import TracebackType

from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from monoscope.features.workspace import migrate
from monoscope.features.workspace.backup import backup
from monoscope.features.workspace.connect import connect, workspace_url
from monoscope.features.workspace.jobs import JobQueue
from monoscope.features.workspace.labels import ExplanationStore, LabelStore, ScoreStore
from monoscope.features.workspace.marks import (
    BookmarkStore,
    FeatureTagStore,
    ListItemStore,
    ListStore,
    NoteStore,
    TagStore,
)
from monoscope.features.workspace.places import (
    BundleStore,
    FilterStore,
    GraphStore,
    LinkStore,
    RunStore,
    SettingStore,
    SubgraphStore,
)
from monoscope.features.workspace.records import Audit, FeatureList, Note, Tag, Uses, feature_target
from monoscope.features.workspace.store import Database, now
from monoscope.features.workspace.table_base import Base, Kept
from monoscope.features.workspace.tables import (
    AuditRow,
    BookmarkRow,
    DictionaryRow,
    ExplanationRow,
    FeatureTagRow,
    LabelRow,
    ListItemRow,
    ListRow,
    Meta,
    NoteRow,
    TagRow,
)
from monoscope.features.workspace.ulid import ulid

KEEP_DELETED = timedelta(days=30)


class Workspace:
    """An open workspace. See ``open``."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.bundles = BundleStore(database)
        self.runs = RunStore(database)
        self.labels = LabelStore(database)
        self.explanations = ExplanationStore(database)
        self.scores = ScoreStore(database)
        self.bookmarks = BookmarkStore(database)
        self.tags = TagStore(database)
        self.feature_tags = FeatureTagStore(database)
        self.lists = ListStore(database)
        self.items = ListItemStore(database)
        self.notes = NoteStore(database)
        self.filters = FilterStore(database)
        self.links = LinkStore(database)
        self.graphs = GraphStore(database)
        self.subgraphs = SubgraphStore(database)
        self.settings = SettingStore(database)
        self.jobs = JobQueue(database)

    @classmethod
    def open(cls, where: Path | str, *, author: str = "local") -> Workspace:
        """The workspace of a SQLite file or a database's address.

        A new one is made; one of an older release is brought up to date, a SQLite file after a copy of it was put
        beside it. What was deleted more than 30 days ago is removed, once a day. Raises DataError for a database that a
        newer release made.
        """
        engine = connect(workspace_url(where))
        workspace = cls(Database(engine, author))
        try:
            found = migrate.revision(engine)
            if found != migrate.head():
                if found is not None and engine.url.drivername == "sqlite":
                    path = Path(str(engine.url.database))
                    backup(path, path.with_name(f"{path.stem}.before-{migrate.head()}{path.suffix}"))
                migrate.upgrade(engine)
            workspace._daily()
        except BaseException:
            workspace.close()
            raise
        return workspace

    def by(self, author: str) -> Workspace:
        """The same workspace, in another author's hands; it shares its connections and what it holds in memory."""
        other = Workspace(Database(self.database.engine, author))
        other.labels.share(self.labels)
        return other

    @property
    def url(self) -> str:
        """Address of the database, its password left out."""
        return self.database.engine.url.render_as_string(hide_password=True)

    @property
    def path(self) -> Path | None:
        """The SQLite file; None for a workspace in PostgreSQL."""
        url = self.database.engine.url
        return Path(str(url.database)) if url.drivername == "sqlite" else None

    @cached_property
    def install_id(self) -> str:
        """A number that this workspace keeps for life, wherever it is moved."""
        with self.database.reading() as session:
            return session.get_one(Meta, "install_id").value

    def uses(self, dictionary_fp: str, feature: int) -> Uses:
        """Lists, notes and tags of a feature, and whether this author bookmarked it."""
        with self.database.reading() as session:
            lists = session.scalars(
                select(ListRow)
                .join(ListItemRow, ListItemRow.list_id == ListRow.id)
                .where(*_live(ListRow, ListItemRow), *_of(ListItemRow, dictionary_fp, feature))
                .order_by(ListRow.name, ListRow.id)
            )
            tags = session.scalars(
                select(TagRow)
                .join(FeatureTagRow, FeatureTagRow.tag_id == TagRow.id)
                .where(*_live(TagRow, FeatureTagRow), *_of(FeatureTagRow, dictionary_fp, feature))
                .order_by(TagRow.name)
            )
            target = feature_target(dictionary_fp, feature)
            notes = session.scalars(
                select(NoteRow)
                .where(*_live(NoteRow), NoteRow.target_kind == "feature", NoteRow.target_id == target)
                .order_by(NoteRow.id)
            )
            mine = BookmarkRow.author == self.database.author
            bookmarked = session.scalar(
                select(BookmarkRow.id).where(*_live(BookmarkRow), mine, *_of(BookmarkRow, dictionary_fp, feature))
            )
            return Uses(
                lists=tuple(FeatureList.model_validate(row) for row in lists),
                notes=tuple(Note.model_validate(row) for row in notes),
                tags=tuple(Tag.model_validate(row) for row in tags),
                bookmarked=bookmarked is not None,
            )

    def audit(self, target: str | None = None, *, limit: int = 100) -> list[Audit]:
        """The latest changes, newest first; of one row by its target, ``TABLE/ID``."""
        statement = select(AuditRow).order_by(AuditRow.id.desc()).limit(max(1, min(limit, 1000)))
        if target is not None:
            statement = statement.where(AuditRow.target == target)
        with self.database.reading() as session:
            return [Audit.model_validate(row) for row in session.scalars(statement)]

    def purge(self, keep: timedelta = KEEP_DELETED) -> int:
        """Remove for good what was deleted longer ago than ``keep``; returns the number of rows."""
        before = now() - keep
        with self.database.writing() as session:
            for table in (LabelRow, ExplanationRow):
                latest = select(table.dictionary_fp, func.max(table.serial)).where(table.deleted < before)
                for fingerprint, serial in session.execute(latest.group_by(table.dictionary_fp)).all():
                    mark = update(DictionaryRow).where(
                        DictionaryRow.fingerprint == fingerprint, DictionaryRow.purged < serial
                    )
                    session.execute(mark.values(purged=serial).execution_options(synchronize_session=False))
            return sum(
                session.execute(delete(table).where(table.deleted < before)).rowcount  # type: ignore[attr-defined]
                for table in kept_tables()
            )

    def close(self) -> None:
        """Give up the connections."""
        self.database.engine.dispose()

    def __enter__(self) -> Workspace:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Workspace({self.url!r}, author={self.database.author!r})"

    def _daily(self) -> None:
        today = now().date().isoformat()
        with self.database.reading() as session:
            if session.get(Meta, "install_id") is not None and _value(session, "purged") == today:
                return
        with self.database.writing() as session:
            migrate.take_turn(session.connection())
            if session.get(Meta, "install_id") is None:
                session.merge(Meta(key="install_id", value=ulid()))
            session.merge(Meta(key="purged", value=today))
        self.purge()


def kept_tables() -> list[type[Kept]]:
    """Tables whose rows are deleted softly, each after those it refers to."""
    tables = {mapper.local_table: mapper.class_ for mapper in Base.registry.mappers}
    return [tables[table] for table in Base.metadata.sorted_tables if issubclass(tables[table], Kept)]


def _value(session: Session, key: str) -> str | None:
    row = session.get(Meta, key)
    return None if row is None else row.value


def _live(*tables: type[Kept]) -> list:
    return [table.deleted.is_(None) for table in tables]


def _of(table: type, dictionary_fp: str, feature: int) -> tuple:
    return table.dictionary_fp == dictionary_fp, table.feature == feature
