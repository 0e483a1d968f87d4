"""A workspace's rows, copied whole from one database to another and compared afterwards.

What is read is one moment of the source; what is written appears at once, or not at all.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, Table, func, insert, select

from monoscope.core.errors import DataError, OutputError
from monoscope.core.io import atomic_path
from monoscope.core.progress import progress
from monoscope.features.workspace import migrate
from monoscope.features.workspace.backup import backup
from monoscope.features.workspace.connect import WRITES, connect, refuse_missing, workspace_url
from monoscope.features.workspace.table_base import Base
from monoscope.features.workspace.workspace import Workspace

CHUNK = 1000


def move(source: str | Path, target: str | Path) -> dict[str, int]:
    """Copy a workspace to a place that holds none yet; returns rows by table. The source stays as it is.

    Raises OutputError if there is something at the target, DataError if the copy is not the source's equal; then
    nothing was written there.
    """
    if workspace_url(source) == workspace_url(target):
        raise OutputError("a workspace cannot be moved onto itself")
    refuse_missing(source)
    with Workspace.open(source) as opened:
        engine = connect(workspace_url(target))
        try:
            migrate.upgrade(engine)
            with engine.connect() as connection:
                if any(_count(connection, table) for table in Base.metadata.sorted_tables):
                    plain = engine.url.render_as_string(hide_password=True)
                    raise OutputError(f"there is a workspace at {plain} already; name a new file, or an empty database")
            return _copy(opened.database.engine, engine)
        finally:
            engine.dispose()


def save(source: str | Path, to: Path) -> int:
    """Copy a workspace of either kind to a SQLite file that nobody writes to; returns its bytes."""
    refuse_missing(source)
    url = workspace_url(source)
    if url.drivername == "sqlite":
        return backup(Path(str(url.database)), to)
    with atomic_path(to) as partial:
        move(source, partial)
    return to.stat().st_size


def _copy(source: Engine, target: Engine) -> dict[str, int]:
    tables = Base.metadata.sorted_tables
    snapshot = source.connect()
    if source.dialect.name == "postgresql":
        snapshot = snapshot.execution_options(isolation_level="REPEATABLE READ")
    with snapshot, target.execution_options(**{WRITES: True}).connect() as connection, connection.begin():
        rows = {table.name: _count(snapshot, table) for table in tables}
        with progress("move", 2 * sum(rows.values()), "rows") as bar:
            for table in tables:
                for chunk in _chunks(snapshot, table):
                    connection.execute(insert(table), chunk)
                    bar.advance(len(chunk), table=table.name)
            for table in tables:
                if _digest(snapshot, table) != _digest(connection, table):
                    raise DataError(f"the copy of {table.name} differs from the original; nothing was written")
                bar.advance(rows[table.name], table=table.name)
    return rows


def _count(connection: Connection, table: Table) -> int:
    return connection.execute(select(func.count()).select_from(table)).scalar_one()


def _chunks(connection: Connection, table: Table) -> Iterator[list[dict[str, Any]]]:
    ordered = select(table).order_by(*table.primary_key.columns)
    rows = connection.execution_options(yield_per=CHUNK).execute(ordered).mappings()
    for chunk in rows.partitions(CHUNK):
        yield [dict(row) for row in chunk]


def _digest(connection: Connection, table: Table) -> str:
    """Hash of all rows, whatever order the database would sort text in."""
    digests = []
    for chunk in _chunks(connection, table):
        for row in chunk:
            text = json.dumps(row, sort_keys=True, default=str)
            digests.append(hashlib.sha256(text.encode()).digest())
    return hashlib.sha256(b"".join(sorted(digests))).hexdigest()
