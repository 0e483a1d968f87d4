from __future__ import annotations

import pytest
from live_world import language_model, library, serving


@pytest.fixture(scope="session")
def lm():
    return language_model()


@pytest.fixture(scope="session")
def shelf_path(tmp_path_factory):
    """A directory of two dictionaries with their bundles."""
    return library(tmp_path_factory.mktemp("library"))


@pytest.fixture(scope="module")
def client(shelf_path, tmp_path_factory):
    with serving([shelf_path], db=str(tmp_path_factory.mktemp("db") / "workspace.db")) as client:
        yield client
