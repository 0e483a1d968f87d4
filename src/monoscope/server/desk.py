"""The workspace as the server uses it: opened when it is first needed, read by feature, kept as columns of the table.

Opening loads SQLAlchemy, which no page should wait for, so it is begun in the background. A workspace that cannot be
opened takes nothing away from reading: what people wrote is then missing, and writing says why.
"""

from __future__ import annotations

import getpass
import os
import re
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monoscope.core.errors import UserError
from monoscope.server.problems import ProblemError
from monoscope.server.security.author import signed_in
from monoscope.server.table.added import Added, AddedRow

if TYPE_CHECKING:
    from monoscope.features.workspace import Workspace

MOST_USERS = 256
KEPT = 16  # dictionaries whose labels stay in memory


class Desk:
    """See above. Safe to use from several threads."""

    def __init__(self, where: str, author: str) -> None:
        self.where, self._author = where or str(default_workspace()), author or default_author()
        self._lock, self._reading = threading.Lock(), threading.Lock()
        self._workspace: Workspace | None = None
        self._theirs: dict[str, Workspace] = {}
        self._problem: str | None = None
        self._known: dict[tuple[str, str], Added] = {}  # by author, whose bookmarks they hold, and dictionary

    @property
    def address(self) -> str:
        """Where the workspace is: a path, or the address of a database without its password and options."""
        if "://" not in self.where:
            return str(Path(self.where).expanduser().absolute())
        return re.sub(r"(://[^:/@]*):.*@", r"\1:***@", self.where).partition("?")[0]

    @property
    def author(self) -> str:
        """Who writes: the user whom a trusted proxy signed in, or else the server's own author."""
        return signed_in() or self._author

    @property
    def workspace(self) -> Workspace:
        """The workspace, in its author's hands. Raises ProblemError, 503 with the reason, if it cannot be opened."""
        with self._lock:
            if self._workspace is None and self._problem is None:
                from monoscope.features.workspace import Workspace

                try:
                    self._workspace = Workspace.open(self.where, author=self._author)
                except UserError as error:
                    self._problem = str(error)
            if self._workspace is None:
                raise ProblemError(
                    503, f"the workspace cannot be used: {self._problem}", hint="server.db names another"
                )
            return self._workspace if (user := signed_in()) is None else self._of(user, self._workspace)

    def _of(self, user: str, workspace: Workspace) -> Workspace:
        if user not in self._theirs:
            if len(self._theirs) >= MOST_USERS:
                self._theirs.clear()
            self._theirs[user] = workspace.by(user)
        return self._theirs[user]

    @property
    def problem(self) -> str | None:
        """Why the workspace cannot be used; None while it can, or nobody has tried."""
        return self._problem

    def added(self, dictionary_fp: str) -> Added:
        """What people added to the features of a dictionary, as it stands now."""
        try:
            workspace = self.workspace
        except ProblemError:
            return Added()
        key = self.author, dictionary_fp
        version = f"{self.author} {_version(workspace, dictionary_fp)}"
        known = self._known.get(key)
        if known is not None and known.version == version:
            return known
        with self._reading:
            known = self._known.get(key)
            if known is None or known.version != version:
                known = Added(version, _rows(workspace, dictionary_fp))
                self._known.pop(key, None)
                self._known[key] = known
                while len(self._known) > KEPT:
                    self._known.pop(next(iter(self._known)))
            return known

    def known(self, dictionary_fp: str) -> Added:
        """What was last read of it, at no cost."""
        return self._known.get((self.author, dictionary_fp)) or Added()

    def counts(self) -> dict[str, int] | None:
        """Labeled features by dictionary; None while the workspace is not open yet. Nobody waits for that here."""
        if self._workspace is None:
            return None if self._problem is None else {}
        return self._workspace.labels.counts()

    def close(self) -> None:
        """Give up the connections."""
        with self._lock:
            if self._workspace is not None:
                self._workspace.close()
                self._workspace = None
                self._theirs.clear()


def default_workspace() -> Path:
    """The file in the user's data directory."""
    if sys.platform == "darwin":
        base = Path.home() / "Library" / "Application Support"
    else:
        base = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    return base / "monoscope" / "workspace.db"


def default_author() -> str:
    """The user's name on this machine."""
    try:
        return getpass.getuser()[:200] or "local"
    except (KeyError, OSError):
        return "local"


def _version(workspace: Workspace, dictionary_fp: str) -> str:
    """Changes whenever a label, an explanation, a tag or a bookmark of a dictionary does, whoever changes it."""
    from sqlalchemy import func, select

    from monoscope.features.workspace.tables import BookmarkRow, FeatureTagRow, TagRow

    parts: list[Any] = [workspace.labels.serial(dictionary_fp)]
    with workspace.database.reading() as session:
        for table in (BookmarkRow, FeatureTagRow):
            of = table.dictionary_fp == dictionary_fp
            parts += session.execute(select(func.count(), func.max(table.updated)).where(of)).one()
        parts.append(session.scalar(select(func.max(TagRow.updated))))
    return "|".join(map(str, parts))


def _rows(workspace: Workspace, dictionary_fp: str) -> dict[int, AddedRow]:
    labels = workspace.labels.all(dictionary_fp)
    tags = workspace.feature_tags.all(dictionary_fp)
    bookmarks = workspace.bookmarks.all(dictionary_fp)
    rows = {}
    for feature in sorted({*labels, *tags, *bookmarks}):
        label = labels.get(feature)
        rows[feature] = AddedRow(
            label=None if label is None else label.text,
            label_source=None if label is None else label.source,
            score=None if label is None else label.score,
            tags=tags.get(feature, ()),
            bookmarked=feature in bookmarks,
        )
    return rows
