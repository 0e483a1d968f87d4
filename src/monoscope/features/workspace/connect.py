"""Where a workspace is: a SQLite file, or a PostgreSQL database.

SQLite runs with a write-ahead log, so that reading goes on while somebody writes; that needs shared memory, which
network file systems do not have, and there the old rollback journal is used instead. A transaction that will write says
so when it begins (``BEGIN IMMEDIATE``): one that reads first and then asks to write could be refused at once, whatever
the time-out, when another process wrote in between.
Source: sqlite.org/wal.html, sqlite.org/isolation.html.
"""

from __future__ import annotations

import json
import sqlite3
import time
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, OperationalError

from monoscope.core.errors import ConfigError, DataError, OutputError
from monoscope.core.io import writing
from monoscope.features.workspace.errors import BusyError

WRITES = "monoscope_writes"
BUSY_MS = 5000
SHARED = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "lustre", "gpfs", "fuse.sshfs"})


def workspace_url(where: str | Path) -> URL:
    """The address of a database: a path is a SQLite file. Raises ConfigError for what is neither."""
    text = str(where)
    if "://" not in text:
        return URL.create("sqlite", database=str(Path(text).expanduser().resolve()))
    try:
        url = make_url(text)
    except ArgumentError:
        raise ConfigError(f"{text.partition('://')[0]}://... is not the address of a database") from None
    if url.drivername in ("postgresql", "postgres"):
        url = url.set(drivername="postgresql+psycopg")
    if url.drivername not in ("sqlite", "postgresql+psycopg"):
        raise ConfigError(
            f"a workspace is a SQLite file or postgresql+psycopg://USER@HOST/NAME; found {url.drivername}://"
        )
    if url.drivername == "sqlite" and (not url.database or url.database == ":memory:"):
        raise ConfigError("a workspace in memory would be gone with this process; name a file")
    return url


def refuse_missing(where: str | Path) -> None:
    """Raises DataError if a workspace is said to be in a file that is not there; a server is asked only later."""
    url = workspace_url(where)
    if url.drivername == "sqlite" and not Path(str(url.database)).is_file():
        raise DataError(f"there is no workspace at {url.database}")


def connect(url: URL) -> Engine:
    """An engine whose connections are set up. Nothing is read or written yet."""
    settings: dict[str, Any] = {"json_serializer": _dumps}
    if url.drivername == "sqlite":
        path = Path(str(url.database))
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        engine = create_engine(url, connect_args={"timeout": BUSY_MS / 1000, "check_same_thread": False}, **settings)
        _prepare_sqlite(engine, path)
        return engine
    try:
        return create_engine(url, pool_pre_ping=True, **settings)
    except ModuleNotFoundError:
        raise ConfigError("PostgreSQL needs the package psycopg: pip install 'monoscope[postgres]'") from None


@contextmanager
def available() -> Iterator[None]:
    """Turns what a locked or silent database says into BusyError."""
    try:
        yield
    except OperationalError as error:
        if "database is locked" in str(error.orig):
            seconds = BUSY_MS // 1000
            message = f"another process has been writing to the workspace for {seconds} s; try again"
            raise BusyError(message) from None
        raise BusyError(f"the workspace's database does not answer: {error.orig}") from error


def _prepare_sqlite(engine: Engine, path: Path) -> None:
    journal = "DELETE" if file_system(path) in SHARED else "WAL"

    @event.listens_for(engine, "connect")
    def _(connection: sqlite3.Connection, record: object) -> None:
        nonlocal journal
        connection.isolation_level = None  # transactions are begun below, not by the driver
        connection.execute(f"PRAGMA busy_timeout={BUSY_MS}")
        connection.execute("PRAGMA foreign_keys=ON")
        if _journal(connection, journal) != journal.lower():
            journal = "DELETE"
            _journal(connection, journal)
        connection.execute(f"PRAGMA synchronous={'NORMAL' if journal == 'WAL' else 'FULL'}")

    @event.listens_for(engine, "begin")
    def _(connection: Connection) -> None:
        writes = connection.get_execution_options().get(WRITES, False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    try:
        engine.connect().close()
    except Exception as error:
        raise OutputError(f"cannot open {path} as a SQLite file: {getattr(error, 'orig', error)}") from None
    if journal == "DELETE":
        warnings.warn(
            f"{path} is on a file system without a write-ahead log: reading waits while somebody writes; "
            "a local disk, or PostgreSQL, is faster",
            stacklevel=4,
        )


def _journal(connection: sqlite3.Connection, mode: str) -> str:
    """Choose the kind of journal; returns the kind there is. SQLite does not wait for others here, so this does."""
    until = time.monotonic() + BUSY_MS / 1000
    while True:
        try:
            found = connection.execute("PRAGMA journal_mode").fetchone()[0]
            return found if found == mode.lower() else connection.execute(f"PRAGMA journal_mode={mode}").fetchone()[0]
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > until:
                raise
            time.sleep(0.02)


def file_system(path: Path, mounts: Iterable[str] | None = None) -> str:
    """Type of the file system that holds a path, by the kernel's table of mounts; empty where there is none."""
    if mounts is None:
        table = Path("/proc/mounts")
        mounts = table.read_text(encoding="utf-8", errors="replace").splitlines() if table.is_file() else ()
    best, kind = -1, ""
    for line in mounts:
        _, at, name, *_ = line.split(" ")
        place = Path(at.replace("\\040", " "))
        if path.is_relative_to(place) and len(place.parts) >= best:
            best, kind = len(place.parts), name
    return kind


def _dumps(value: Any) -> str:
    return json.dumps(value, allow_nan=False)
