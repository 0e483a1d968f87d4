"""Labels and explanations as an index of words: SQLite's FTS5, in a file that can be made anew at any time.

    texts(id, kind, text)     one row a label or explanation
    lines                     FTS5 over it: words without case or accents, ranked by BM25

An id is ``dictionary << 40 | place << 8 | slot``: the features of a dictionary in order of how often they fire, and up
to 256 texts of each. Rows come back in order of their ids, so that a query with too many hits to rank, which costs
about 3 microseconds each, still answers with the features that fire most, at once.

Each dictionary remembers the serial of the labels it holds; what the workspace changed since is put in its place. Any
number of processes may share the file.
Source: sqlite.org/fts5.html.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt32

from monoscope.core.errors import OutputError
from monoscope.core.io import owned, remove, writing
from monoscope.core.progress import progress
from monoscope.features.search.records import Match, Why, cut
from monoscope.features.search.words import CLOSE, OPEN, unmark
from monoscope.features.workspace import BusyError, Workspace

VERSION = 1
SLOTS, PLACES = 8, 32  # bits
BUSY_MS = 2000
CHUNK = 2000  # lines a transaction
RANKED = 12_000  # hits that are ranked by their text
CONTROL = {i: " " for i in (*range(32), 0xE000, 0xE001)}

TABLES = """
CREATE TABLE dictionaries (number INTEGER PRIMARY KEY, fingerprint TEXT UNIQUE, serial INTEGER, places BLOB);
CREATE TABLE texts (id INTEGER PRIMARY KEY, kind TEXT, text TEXT);
CREATE VIRTUAL TABLE lines USING fts5(
    text, content='texts', content_rowid='id', tokenize='unicode61 remove_diacritics 2', prefix='1 2 3'
);
"""


class LineIndex:
    """The words of all labels and explanations of the dictionaries that were put in it."""

    def __init__(self, path: Path, workspace: Workspace) -> None:
        self.path, self.workspace = path, workspace
        self._local = threading.local()
        self._connections: list[sqlite3.Connection] = []
        self._numbers: dict[str, int] = {}
        self._order: dict[str, UInt32[np.ndarray, " F"]] = {}
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        self._prepare()

    def add(self, fingerprint: str, density: np.ndarray) -> None:
        """Make a dictionary known: how often its features fire gives their order. Nothing is indexed yet."""
        asked = "SELECT number, places FROM dictionaries WHERE fingerprint = ?"
        row = self._connection().execute(asked, (fingerprint,)).fetchone()
        if row is None or len(row[1]) != 4 * len(density):
            order = np.argsort(-np.nan_to_num(density), kind="stable").astype("<u4").tobytes()
            with self._writing() as connection:
                row = connection.execute(asked, (fingerprint,)).fetchone()
                if row is not None and len(row[1]) != len(order):
                    self._forget(connection, _range(row[0]))
                    connection.execute("DELETE FROM dictionaries WHERE number = ?", row[:1])
                    row = None
                row = (
                    row
                    or connection.execute(
                        "INSERT INTO dictionaries (fingerprint, serial, places) VALUES (?, 0, ?) "
                        "RETURNING number, places",
                        (fingerprint, order),
                    ).fetchone()
                )
        self._numbers[fingerprint] = row[0]
        self._order[fingerprint] = np.frombuffer(row[1], "<u4")

    def behind(self, fingerprint: str) -> int | None:
        """How many features' labels changed since they were indexed; None if all of them must be read."""
        _, changed = self.workspace.labels.changes(fingerprint, self._serial(fingerprint))
        return None if changed is None else len(changed)

    def refresh(self, fingerprint: str) -> bool:
        """Bring a dictionary's lines up to date; returns whether anything was done.

        Raises BusyError while another process does that.
        """
        behind = self.behind(fingerprint)
        if behind is None or behind > CHUNK:
            self._rebuild(fingerprint)
        elif behind:
            with self._writing() as connection:
                latest, changed = self.workspace.labels.changes(fingerprint, self._serial(fingerprint))
                for feature in changed or ():
                    if feature < len(self._order[fingerprint]):
                        self._forget(
                            connection, _range(self._numbers[fingerprint], self._place_of(fingerprint)[feature])
                        )
                self._insert(connection, self._rows(fingerprint, changed))
                self._remember(connection, fingerprint, latest)
        return behind != 0

    def _rebuild(self, fingerprint: str) -> None:
        """All lines anew, some thousand a transaction, so that nobody who writes a little has to wait for long."""
        try:
            with owned(self.path.with_suffix(".building")):
                if self.behind(fingerprint) == 0:
                    return
                latest, _ = self.workspace.labels.state(fingerprint)
                rows, span = self._rows(fingerprint, None), _range(self._numbers[fingerprint])
                with self._writing() as connection:
                    self._remember(connection, fingerprint, 0)
                while self._forget_some(span):
                    pass
                with progress("index labels", len(rows), "labels") as bar:
                    for start in range(0, len(rows), CHUNK):
                        with self._writing() as connection:
                            self._insert(connection, rows[start : start + CHUNK])
                        bar.advance(len(rows[start : start + CHUNK]))
                with self._writing() as connection:
                    self._remember(connection, fingerprint, latest)
        except OutputError as error:
            raise BusyError(f"another process is indexing labels: {error}") from None

    def _rows(self, fingerprint: str, features: list[int] | None) -> list[tuple[int, str, str]]:
        """Rows of the lines of these features, or of all, in the order of their ids."""
        number, place = self._numbers[fingerprint], self._place_of(fingerprint)
        lines = self.workspace.labels.lines(fingerprint, features)
        known = sorted((int(place[feature]), texts) for feature, texts in lines.items() if feature < len(place))
        return [
            (_range(number, at)[0] | slot, kind, text.translate(CONTROL))
            for at, texts in known
            for slot, (kind, text) in enumerate(texts[: 1 << SLOTS])
        ]

    def _place_of(self, fingerprint: str) -> Int64[np.ndarray, " F"]:
        """Place of every feature in the order of how often they fire."""
        order = self._order[fingerprint]
        place = np.empty(len(order), np.int64)
        place[order] = np.arange(len(order))
        return place

    def _insert(self, connection: sqlite3.Connection, rows: list[tuple[int, str, str]]) -> None:
        connection.executemany("INSERT INTO texts VALUES (?, ?, ?)", rows)
        connection.executemany("INSERT INTO lines (rowid, text) VALUES (?, ?)", [(id, text) for id, _, text in rows])

    def _remember(self, connection: sqlite3.Connection, fingerprint: str, serial: int) -> None:
        number = self._numbers[fingerprint]
        connection.execute("UPDATE dictionaries SET serial = ? WHERE number = ?", (serial, number))

    def texts(self, fingerprint: str) -> tuple[int, list[tuple[int, Why, str]]]:
        """The serial of a dictionary's lines, and all of them: feature, kind and text, what fires most first."""
        number, order = self._numbers[fingerprint], self._order[fingerprint]
        connection = self._connection()
        connection.execute("BEGIN")
        try:
            serial = self._serial(fingerprint)
            rows = connection.execute(
                "SELECT id, kind, text FROM texts WHERE id BETWEEN ? AND ? ORDER BY id", _range(number)
            )
            places = [(_place(id), kind, text) for id, kind, text in rows]
        finally:
            connection.execute("COMMIT")
        return serial, [(int(order[place]), kind, text) for place, kind, text in places]

    def serial(self, fingerprint: str) -> int:
        """Serial of the labels that are indexed."""
        return self._serial(fingerprint)

    def serials(self) -> dict[str, int]:
        """Serials of the labels that are indexed, by dictionary."""
        return dict(self._connection().execute("SELECT fingerprint, serial FROM dictionaries"))

    def search(self, fingerprints: Iterable[str], query: str, limit: int) -> dict[str, list[Match]]:
        """Lines that match an FTS5 query, by dictionary: best first, or what fires most first where there are many."""
        known = [fingerprint for fingerprint in fingerprints if fingerprint in self._numbers]
        connection = self._connection()
        counted = "SELECT count(*) FROM (SELECT 1 FROM lines WHERE lines MATCH ? AND rowid BETWEEN ? AND ? LIMIT ?)"
        hits = 0
        for fingerprint in known:
            span = _range(self._numbers[fingerprint])
            hits += connection.execute(counted, (query, *span, RANKED + 1 - min(hits, RANKED))).fetchone()[0]
        order = "ORDER BY rank" if hits <= RANKED else ""
        statement = (
            f"SELECT rowid, rank, highlight(lines, 0, '{OPEN}', '{CLOSE}'), "
            "(SELECT kind FROM texts WHERE id = lines.rowid) FROM lines "
            f"WHERE lines MATCH ? AND rowid BETWEEN ? AND ? {order} LIMIT ?"
        )
        found = {}
        for fingerprint in known:
            rows = connection.execute(statement, (query, *_range(self._numbers[fingerprint]), limit)).fetchall()
            found[fingerprint] = [
                self._match(fingerprint, id, -rank if order else 0.0, text, kind) for id, rank, text, kind in rows
            ]
        return found

    def close(self) -> None:
        """Give up all connections."""
        while self._connections:
            self._connections.pop().close()
        self._local = threading.local()

    def _match(self, fingerprint: str, id: int, score: float, marked: str, why: Why) -> Match:
        snippet, ranges = cut(*unmark(marked))
        return Match(int(self._order[fingerprint][_place(id)]), why, score, snippet, ranges)

    def _serial(self, fingerprint: str) -> int:
        number = self._numbers[fingerprint]
        row = self._connection().execute("SELECT serial FROM dictionaries WHERE number = ?", (number,)).fetchone()
        return 0 if row is None else row[0]

    def _forget(self, connection: sqlite3.Connection, span: tuple[int, int], most: int = -1) -> int:
        """Take lines out of the index; returns how many."""
        asked = "SELECT id, text FROM texts WHERE id BETWEEN ? AND ? ORDER BY id LIMIT ?"
        rows = connection.execute(asked, (*map(int, span), most)).fetchall()
        if rows:
            connection.executemany("INSERT INTO lines (lines, rowid, text) VALUES ('delete', ?, ?)", rows)
            connection.execute("DELETE FROM texts WHERE id BETWEEN ? AND ?", (rows[0][0], rows[-1][0]))
        return len(rows)

    def _forget_some(self, span: tuple[int, int]) -> int:
        with self._writing() as connection:
            return self._forget(connection, span, CHUNK)

    def _prepare(self) -> None:
        for attempt in range(2):
            try:
                with self._writing() as connection:
                    if (found := connection.execute("PRAGMA user_version").fetchone()[0]) == VERSION:
                        return
                    if found == 0 and not connection.execute("SELECT 1 FROM sqlite_master").fetchone():
                        for statement in TABLES.split(";\n")[:-1]:
                            connection.execute(statement)
                        connection.execute(f"PRAGMA user_version = {VERSION}")
                        return
            except sqlite3.DatabaseError as error:
                if attempt or isinstance(error, sqlite3.OperationalError):
                    raise
            self.close()  # of another release, or broken: everything in it can be made again
            for name in (self.path.name, f"{self.path.name}-wal", f"{self.path.name}-shm"):
                remove(self.path.with_name(name))

    def _connection(self) -> sqlite3.Connection:
        """A connection of this thread's own."""
        if not hasattr(self._local, "connection"):
            waiting = BUSY_MS / 1000
            connection = sqlite3.connect(self.path, timeout=waiting, isolation_level=None, check_same_thread=False)
            connection.execute("PRAGMA synchronous=NORMAL")
            self._local.connection = connection
            self._connections.append(connection)
        return self._local.connection

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        try:
            connection = self._connection()
            if connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
                connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            raise BusyError(f"the search index {self.path} cannot be written now: {error}") from None
        try:
            yield connection
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")


def _place(id: int) -> int:
    return id >> SLOTS & (1 << PLACES) - 1


def _range(number: int, place: Any = None) -> tuple[int, int]:
    """Ids of a dictionary's lines, or of one feature's."""
    if place is None:
        return number << PLACES + SLOTS, (number + 1 << PLACES + SLOTS) - 1
    first = number << PLACES + SLOTS | int(place) << SLOTS
    return first, first + (1 << SLOTS) - 1
