"""What every test lives under: one thread, fixed seeds, no network. Shapes and types are checked by an import hook."""

from __future__ import annotations

import os
import random
import socket
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["OMP_NUM_THREADS"] = "1"  # of the processes that tests start, too

import numpy as np
import pytest
import shape_checks  # noqa: F401 (before what it checks)
import torch
from databases import postgres, workspace, workspace_url  # noqa: F401
from hypothesis import settings

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read once, when Triton is first imported

torch.set_num_threads(1)
settings.register_profile("monoscope", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("monoscope")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--network", action="store_true", help="run the tests that need the internet")
    parser.addoption("--interop", action="store_true", help="run the tests in other libraries' own environments")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    absent = {}
    if not torch.cuda.is_available():
        absent["gpu"] = "needs a CUDA device"
    if not config.getoption("--network"):
        absent["network"] = "needs the internet: run with --network"
    if not config.getoption("--interop"):
        absent["interop"] = "needs environments of other libraries: make interop"
    for item in items:
        for marker in absent.keys() & {mark.name for mark in item.iter_markers()}:
            item.add_marker(pytest.mark.skip(reason=absent[marker]))


@pytest.fixture(autouse=True)
def fixed_seeds() -> None:
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def no_network(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any connection but to this machine fails at once, and says so."""
    if request.node.get_closest_marker("network") is None:
        connect = socket.socket.connect

        def local_only(self: socket.socket, address: Any) -> None:
            if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "::1", "localhost"):
                raise OSError(f"a test reached for the network: {address}")
            connect(self, address)

        monkeypatch.setattr(socket.socket, "connect", local_only)
