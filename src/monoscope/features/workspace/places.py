"""What the workspace remembers of pages and files: bundles, runs, graphs, filters, links, settings."""

from __future__ import annotations

import secrets
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from monoscope.features.workspace.errors import MissingError
from monoscope.features.workspace.records import (
    Bundle,
    BundleDraft,
    Filter,
    FilterDraft,
    GraphDraft,
    Link,
    LinkDraft,
    Run,
    RunDraft,
    SavedGraph,
    Setting,
    SettingDraft,
    Subgraph,
    SubgraphDraft,
)
from monoscope.features.workspace.store import Store, now
from monoscope.features.workspace.tables import (
    BundleRow,
    FilterRow,
    GraphRow,
    LinkRow,
    RunRow,
    SettingRow,
    SubgraphRow,
)
from monoscope.features.workspace.ulid import ALPHABET

SHORT = 10  # characters of a link's address: 50 bits


class BundleStore(Store[BundleDraft, Bundle]):
    """Bundles that were opened, one for each path."""

    table, draft, record, word, unique = BundleRow, BundleDraft, Bundle, "bundle", ("path",)


class RunStore(Store[RunDraft, Run]):
    """Training runs that were seen, one for each path."""

    table, draft, record, word, unique = RunRow, RunDraft, Run, "run", ("path",)


class GraphStore(Store[GraphDraft, SavedGraph]):
    """Saved attribution graphs, one for each slug."""

    table, draft, record, word, unique = GraphRow, GraphDraft, SavedGraph, "graph", ("slug",)


class SubgraphStore(Store[SubgraphDraft, Subgraph]):
    """Saved views of graphs."""

    table, draft, record, word = SubgraphRow, SubgraphDraft, Subgraph, "subgraph"
    fixed = frozenset({"graph_id"})


class FilterStore(Store[FilterDraft, Filter]):
    """Saved filters."""

    table, draft, record, word = FilterRow, FilterDraft, Filter, "filter"


class LinkStore(Store[LinkDraft, Link]):
    """Pages' states behind short addresses."""

    table, draft, record, word = LinkRow, LinkDraft, Link, "link"

    def open(self, short: str) -> Link:
        """The link of a short address. Raises MissingError if there is none, or it has expired."""
        with self.database.reading() as session:
            row = session.scalar(select(LinkRow).where(LinkRow.short == short, LinkRow.deleted.is_(None)))
            if row is None or (row.expires is not None and row.expires < now()):
                raise MissingError(f"there is no link {short!r}" + ("" if row is None else " any more: it has expired"))
            return self._record(row)

    def _derived(self, session: Session, draft: LinkDraft) -> dict[str, Any]:
        return {"short": "".join(secrets.choice(ALPHABET) for _ in range(SHORT)).lower()}


class SettingStore(Store[SettingDraft, Setting]):
    """Settings: one value for each key and author."""

    table, draft, record, word = SettingRow, SettingDraft, Setting, "setting"
    fixed, unique = frozenset({"key"}), ("key", "author")

    def all(self) -> dict[str, dict[str, Any]]:
        """Settings of this author, by key."""
        rows = self.page(limit=1000, author=self.database.author)
        return {row.key: row.value for row in rows}
