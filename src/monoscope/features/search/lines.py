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

import re
import sqlite3
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import numpy as np
from jaxtyping import UInt32

from monoscope.core.io import remove, writing
from monoscope.core.progress import progress
from monoscope.features.search.records import Match, Why, cut
from monoscope.features.workspace import BusyError, Workspace

VERSION = 1
SLOTS, PLACES = 8, 32  # bits
BUSY_MS = 2000
RANKED = 12_000  # hits that are ranked by their text
MOST_WORDS = 32
OPEN, CLOSE = "\ue000", "\ue001"  # around a match, where FTS5 marks it
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
        with self._writing() as connection:
            row = connection.execute(
                "SELECT number, places FROM dictionaries WHERE fingerprint = ?", (fingerprint,)
            ).fetchone()
            if row is not None and len(row[1]) != 4 * len(density):
                self._forget(connection, row[0])
                connection.execute("DELETE FROM dictionaries WHERE number = ?", row[:1])
                row = None
            if row is None:
                order = np.argsort(-np.nan_to_num(density), kind="stable").astype("<u4")
                row = connection.execute(
                    "INSERT INTO dictionaries (fingerprint, serial, places) VALUES (?, 0, ?) RETURNING number, places",
                    (fingerprint, order.tobytes()),
                ).fetchone()
        self._numbers[fingerprint] = row[0]
        self._order[fingerprint] = np.frombuffer(row[1], "<u4")

    def behind(self, fingerprint: str) -> int | None:
        """How many features' labels changed since they were indexed; None if all of them must be read."""
        _, changed = self.workspace.labels.changes(fingerprint, self._serial(fingerprint))
        return None if changed is None else len(changed)

    def refresh(self, fingerprint: str) -> bool:
        """Bring a dictionary's lines up to date; returns whether anything was done."""
        if self.behind(fingerprint) == 0:
            return False
        number, order = self._numbers[fingerprint], self._order[fingerprint]
        place = np.empty(len(order), np.int64)
        place[order] = np.arange(len(order))
        with self._writing() as connection:
            serial = connection.execute("SELECT serial FROM dictionaries WHERE number = ?", (number,)).fetchone()[0]
            latest, changed = self.workspace.labels.changes(fingerprint, serial)
            if changed is None:
                self._forget(connection, number)
            else:
                for feature in changed:
                    if feature < len(place):
                        self._forget(connection, number, int(place[feature]))
            lines = self.workspace.labels.lines(fingerprint, changed)
            with progress("index labels", sum(map(len, lines.values())), "labels") as bar:
                rows = (
                    (number << PLACES + SLOTS | int(place[feature]) << SLOTS | slot, kind, text.translate(CONTROL))
                    for feature, texts in lines.items()
                    if feature < len(place)
                    for slot, (kind, text) in enumerate(texts[: 1 << SLOTS])
                )
                for chunk in _chunks(rows):
                    connection.executemany("INSERT INTO texts VALUES (?, ?, ?)", chunk)
                    connection.executemany(
                        "INSERT INTO lines (rowid, text) VALUES (?, ?)", [(i, t) for i, _, t in chunk]
                    )
                    bar.advance(len(chunk))
            connection.execute("UPDATE dictionaries SET serial = ? WHERE number = ?", (latest, number))
        return True

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

    def _forget(self, connection: sqlite3.Connection, number: int, place: int | None = None) -> None:
        rows = connection.execute(
            "SELECT id, text FROM texts WHERE id BETWEEN ? AND ?", _range(number, place)
        ).fetchall()
        connection.executemany("INSERT INTO lines (lines, rowid, text) VALUES ('delete', ?, ?)", rows)
        connection.execute("DELETE FROM texts WHERE id BETWEEN ? AND ?", _range(number, place))

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


def words_query(text: str, *, prefix: bool) -> str | None:
    """FTS5 query for lines that hold all words of a text, the last one perhaps not finished; None without any words.

    Whatever FTS5 would take for syntax is quoted, or is no word.
    """
    words = re.findall(r"\w+", text)[:MOST_WORDS]
    quoted = [f'"{word}"' for word in words]
    if prefix and quoted and not text[-1:].isspace():
        quoted[-1] += "*"
    return " ".join(quoted) or None


def phrase_query(text: str) -> str | None:
    """FTS5 query for lines that hold the words of a text one behind the other; None without any words."""
    words = re.findall(r"\w+", text)[:MOST_WORDS]
    return f'"{" ".join(words)}"' if words else None


def unmark(marked: str) -> tuple[str, tuple[tuple[int, int], ...]]:
    """A text without the signs around its matches, and where they were."""
    text, ranges, start = "", [], 0
    for piece in re.split(f"([{OPEN}{CLOSE}])", marked):
        if piece == OPEN:
            start = len(text)
        elif piece == CLOSE:
            ranges.append((start, len(text)))
        else:
            text += piece
    return text, tuple(ranges)


def _place(id: int) -> int:
    return id >> SLOTS & (1 << PLACES) - 1


def _range(number: int, place: int | None = None) -> tuple[int, int]:
    """Ids of a dictionary's lines, or of one feature's."""
    if place is None:
        return number << PLACES + SLOTS, (number + 1 << PLACES + SLOTS) - 1
    first = number << PLACES + SLOTS | place << SLOTS
    return first, first + (1 << SLOTS) - 1


def _chunks(rows: Iterable[tuple[int, str, str]], size: int = 5000) -> Iterator[list[tuple[int, str, str]]]:
    rows = iter(rows)
    while chunk := list(islice(rows, size)):
        yield chunk
