"""Tables: made, brought up to date, never touched when they are somebody else's."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, inspect, text

from monoscope.core.errors import ConfigError, DataError, OutputError
from monoscope.features.workspace import BusyError, Workspace, migrate
from monoscope.features.workspace.connect import connect, file_system
from monoscope.features.workspace.connect import workspace_url as address
from monoscope.features.workspace.table_base import Base

REVISIONS = [
    script.revision
    for script in ScriptDirectory.from_config(migrate._config(migrate.MIGRATIONS)).walk_revisions("base", "heads")
]


@pytest.fixture
def engine(workspace_url: str) -> Iterator[Engine]:
    opened = connect(address(workspace_url))
    yield opened
    opened.dispose()


@pytest.mark.parametrize("revision", ["base", *REVISIONS])
def test_every_older_revision_becomes_what_the_models_say(engine: Engine, revision: str) -> None:
    if revision != "base":
        migrate.upgrade(engine, revision)
    assert migrate.upgrade(engine)[1] == migrate.head() == migrate.revision(engine)
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []


def test_the_comparison_sees_a_difference(engine: Engine) -> None:
    migrate.upgrade(engine)
    with engine.begin() as connection:
        connection.execute(text("DROP INDEX uq_tags_name"))
        connection.execute(text("ALTER TABLE tags DROP COLUMN color"))
        found = compare_metadata(MigrationContext.configure(connection), Base.metadata)
    assert {entry[0] for entry in found} == {"add_index", "add_column"}


def test_a_newer_workspace_is_refused(workspace_url: str, engine: Engine) -> None:
    migrate.upgrade(engine)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(DataError, match="has revision 9999, and this monoscope knows up to 0001: a newer release"):
        Workspace.open(workspace_url)
    assert migrate.revision(engine) == "9999"


def test_somebody_elses_database_is_refused(workspace_url: str, engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE cats (name TEXT)"))
    with pytest.raises(DataError, match=r"tables that are not a workspace's \(cats\)"):
        Workspace.open(workspace_url)
    assert inspect(engine).get_table_names() == ["cats"]


def test_an_older_workspace_is_copied_and_brought_up_to_date(
    workspace_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Workspace.open(workspace_url) as opened:
        opened.labels.write("ab", 1, "kept")
        install_id = opened.install_id
    newer = tmp_path / "migrations"
    shutil.copytree(migrate.MIGRATIONS, newer)
    (newer / "versions" / "v9000_more.py").write_text(
        "import sqlalchemy as sa\nfrom alembic import op\n"
        f"revision, down_revision = '9000', '{migrate.head()}'\n"
        "def upgrade():\n    op.add_column('tags', sa.Column('icon', sa.Text()))\n"
    )
    monkeypatch.setattr(migrate, "MIGRATIONS", newer)
    with Workspace.open(workspace_url) as opened:
        assert opened.labels.all("ab")[1].text == "kept"
        assert opened.install_id == install_id
        assert migrate.revision(opened.database.engine) == "9000"
        columns = [column["name"] for column in inspect(opened.database.engine).get_columns("tags")]
        assert "icon" in columns
    if "://" not in workspace_url:
        copy = connect(address(tmp_path / "workspace.before-9000.db"))
        assert migrate.revision(copy) == migrate.head(Path(migrate.__file__).with_name("migrations"))
        copy.dispose()


def test_a_migration_that_fails_leaves_the_workspace_as_it_was(
    workspace_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Workspace.open(workspace_url).close()
    newer = tmp_path / "migrations"
    shutil.copytree(migrate.MIGRATIONS, newer)
    (newer / "versions" / "v9000_broken.py").write_text(
        "import sqlalchemy as sa\nfrom alembic import op\n"
        f"revision, down_revision = '9000', '{migrate.head()}'\n"
        "def upgrade():\n    op.add_column('tags', sa.Column('icon', sa.Text()))\n    raise RuntimeError('half-way')\n"
    )
    with monkeypatch.context() as patched:
        patched.setattr(migrate, "MIGRATIONS", newer)
        with pytest.raises(RuntimeError, match="half-way"):
            Workspace.open(workspace_url)
    with Workspace.open(workspace_url) as opened:
        columns = [column["name"] for column in inspect(opened.database.engine).get_columns("tags")]
        assert "icon" not in columns


def test_sqlite_is_set_up_for_several_processes(tmp_path: Path) -> None:
    with Workspace.open(tmp_path / "deep" / "w.db") as opened:
        with opened.database.reading() as session:
            found = [session.execute(text(f"PRAGMA {name}")).scalar() for name in ("journal_mode", "foreign_keys")]
            assert found == ["wal", 1]
            assert session.execute(text("PRAGMA busy_timeout")).scalar() == 5000
        assert opened.path == tmp_path / "deep" / "w.db"
        assert str(opened.path) in opened.url


def test_without_a_write_ahead_log_there_is_a_journal_and_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("monoscope.features.workspace.connect.file_system", lambda path: "nfs4")
    with (
        pytest.warns(UserWarning, match="without a write-ahead log"),
        Workspace.open(tmp_path / "w.db") as opened,
        opened.database.reading() as session,
    ):
        assert session.execute(text("PRAGMA journal_mode")).scalar() == "delete"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Workspace.open(tmp_path / "w.db") as opened:
            assert opened.labels.write("ab", 1, "x").text == "x"


def test_the_file_system_is_that_of_the_nearest_mount() -> None:
    mounts = ["/dev/a / ext4 rw 0 0", "host:/x /data nfs4 rw 0 0", "tmp /data/my\\040scratch tmpfs rw 0 0"]
    assert file_system(Path("/home/x/w.db"), mounts) == "ext4"
    assert file_system(Path("/data/w.db"), mounts) == "nfs4"
    assert file_system(Path("/data/my scratch/w.db"), mounts) == "tmpfs"
    assert file_system(Path("/x"), []) == ""


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("mysql://host/name", "found mysql://"),
        ("sqlite://", "in memory"),
        ("sqlite:///:memory:", "in memory"),
        ("://", "not the address of a database"),
    ],
)
def test_what_is_no_place_for_a_workspace_is_refused(where: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Workspace.open(where)


def test_addresses_of_postgresql_name_their_driver() -> None:
    assert address("postgresql://u@h/n").drivername == "postgresql+psycopg"
    assert address("~/w.db").database == str(Path.home() / "w.db")


def test_a_file_that_is_no_database_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("not a database, but long enough to be read as the header of one: " * 20)
    before = path.read_bytes()
    with pytest.raises(OutputError, match="as a SQLite file: file is not a database"):
        Workspace.open(path)
    assert path.read_bytes() == before
    with pytest.raises(OutputError):
        Workspace.open(tmp_path)


def test_a_silent_server_is_a_message(tmp_path: Path) -> None:
    with pytest.raises(BusyError, match="does not answer"):
        Workspace.open(f"postgresql+psycopg://u@/n?host={tmp_path}")
