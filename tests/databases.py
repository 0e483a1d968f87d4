"""Databases to test a workspace on: a SQLite file, and a PostgreSQL server of our own, without a network port."""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from monoscope.features.workspace import Workspace

_number = itertools.count()


def postgres_binaries() -> Path | None:
    """Directory of initdb and postgres: on the path, or where Debian puts them."""
    if found := shutil.which("initdb"):
        return Path(found).resolve().parent
    return max(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name), default=None)


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """Address of a server's maintenance database."""
    binaries = postgres_binaries()
    if binaries is None:
        pytest.skip("needs PostgreSQL: apt-get install postgresql")
    # The server refuses to run as root; its directory must be one that its user can reach.
    user = {}
    directory = Path(tempfile.mkdtemp(prefix="monoscope-pg-"))
    if os.getuid() == 0:
        nobody = pwd.getpwnam("nobody")
        os.chown(directory, nobody.pw_uid, nobody.pw_gid)
        user = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
    data, port = directory / "data", 5432 + os.getpid() % 20000
    quiet = {"cwd": directory, "stdout": subprocess.DEVNULL, **user}
    init = ["-D", data, "-U", "monoscope", "--auth=trust", "--no-sync", "--encoding=UTF8", "--locale=C"]
    subprocess.run([binaries / "initdb", *init], check=True, **quiet)
    settings = {"listen_addresses": "", "unix_socket_directories": directory, "port": port, "fsync": "off"}
    settings |= {"full_page_writes": "off", "shared_buffers": "16MB", "max_connections": 60}
    options = [option for name, value in settings.items() for option in ("-c", f"{name}={value}")]
    with (directory / "log").open("w") as log:
        server = subprocess.Popen([binaries / "postgres", "-D", data, *options], stderr=log, **quiet)
    try:
        address = f"host={directory} port={port} user=monoscope dbname=postgres"
        _wait(address, directory / "log")
        yield address
    finally:
        server.send_signal(signal.SIGINT)  # disconnects whoever is still there
        server.wait(timeout=30)
        shutil.rmtree(directory)


def _wait(address: str, log: Path) -> None:
    for _ in range(200):
        try:
            psycopg.connect(address).close()
            return
        except psycopg.OperationalError:
            time.sleep(0.05)
    raise AssertionError(f"PostgreSQL did not start:\n{log.read_text()}")


def new_database(address: str) -> str:
    """URL of a new, empty database of the server."""
    name = f"workspace_{next(_number)}"
    with psycopg.connect(address, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE template0")
        host, port = connection.info.host, connection.info.port
    return f"postgresql+psycopg://monoscope@/{name}?host={host}&port={port}"


@pytest.fixture(params=["sqlite", "postgresql"])
def workspace_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a new workspace can be: a test that asks for it runs on both databases."""
    if request.param == "sqlite":
        return str(tmp_path / "workspace.db")
    return new_database(request.getfixturevalue("postgres"))


@pytest.fixture
def workspace(workspace_url: str) -> Iterator[Workspace]:
    """A new, empty workspace, on both databases."""
    with Workspace.open(workspace_url) as opened:
        yield opened
