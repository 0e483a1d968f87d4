from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from served import TOKEN, hostile_bundle

from monoscope.features import FeatureBundle
from monoscope.server import Server, Settings


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> FeatureBundle:
    return hostile_bundle(tmp_path_factory.mktemp("served") / "Some Run" / "features.mono")


@pytest.fixture(scope="session")
def root(bundle: FeatureBundle) -> Path:
    return bundle.path.parent.parent


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Starts servers of paths, with settings by keyword; they are stopped after the test."""
    running: list[Server] = []

    def build(*paths: Path, **settings: Any) -> Server:
        if not settings.get("no_token"):
            settings.setdefault("token", TOKEN)
        settings.setdefault("db", str(tmp_path / "workspace.db"))
        server = Server(paths, Settings(port=0, **settings)).start()
        running.append(server)
        return server

    yield build
    for server in running:
        server.stop()


@pytest.fixture(scope="module")
def server(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    db = str(tmp_path_factory.mktemp("workspace") / "workspace.db")
    server = Server([root], Settings(port=0, token=TOKEN, db=db)).start()
    server.state.library.matched.wait(10)
    yield server
    server.stop()


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[httpx.Client]:
    """A client that the server lets in."""
    headers = {"Authorization": f"Bearer {TOKEN}"}
    with httpx.Client(base_url=f"{server.address}/api/v1", headers=headers, trust_env=False) as client:
        yield client


@pytest.fixture(scope="module")
def stranger(server: Server) -> Iterator[httpx.Client]:
    """A client without a token."""
    with httpx.Client(base_url=server.address, trust_env=False) as client:
        yield client
