"""The tables' history: from an empty database, or an older one, to what this release reads.

Revisions lie in ``migrations/versions``, one file each, numbered. A database whose revision this release does not know
was made by a newer one, and is refused. Two processes that open a new workspace at once make it once: the first holds a
lock until the tables are there.
"""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, inspect, text

from monoscope.core.errors import DataError
from monoscope.features.workspace.connect import WRITES, available

MIGRATIONS = Path(__file__).with_name("migrations")
LOCK = 0x6D6F6E6F  # "mono"


def revision(engine: Engine) -> str | None:
    """Revision of a database; None for one without tables."""
    with available(), engine.connect() as connection:
        return _revision(connection)


def head(migrations: Path | None = None) -> str:
    """The newest revision this release knows."""
    found = ScriptDirectory.from_config(_config(migrations or MIGRATIONS)).get_current_head()
    assert found is not None, "there is a first revision"
    return found


def upgrade(engine: Engine, to: str = "head") -> tuple[str | None, str | None]:
    """Bring a database to a revision, in one transaction; returns the revisions before and after.

    Raises DataError for a database that a newer release made, or that is somebody else's.
    """
    config = _config(MIGRATIONS)
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    writer = engine.execution_options(**{WRITES: True})
    with available(), writer.connect() as connection, connection.begin():
        take_turn(connection)
        found = _revision(connection)
        if found is not None and found not in known:
            raise DataError(
                f"this workspace has revision {found}, and this monoscope knows up to {max(known)}: a newer release "
                "made it; update monoscope, or name another workspace"
            )
        if found is None and (tables := inspect(connection).get_table_names()):
            raise DataError(
                f"this database holds tables that are not a workspace's ({', '.join(sorted(tables)[:5])}); "
                "name an empty one"
            )
        config.attributes["connection"] = connection
        command.upgrade(config, to)
        return found, _revision(connection)


def take_turn(connection: Connection) -> None:
    """Wait until no other process opens the same workspace; SQLite has one that writes at a time anyway."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": LOCK})


def _revision(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


def _config(migrations: Path) -> Config:
    config = Config()
    config.set_main_option("script_location", str(migrations).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config
