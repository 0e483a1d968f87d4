"""What several processes train together is what one trains alone: every case, on meshes of two and of four processes.

The processes of a world are started once and run all of its cases; see ``mesh_world``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import mesh_world
import pytest
from mesh_world import MESHES, cases, name

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], dict[str, str]]:
    """What a world of so many processes found, by case."""

    @cache
    def run(processes: int) -> dict[str, str]:
        place = tmp_path_factory.mktemp(f"world{processes}")
        out, command = place / "out.json", [sys.executable, mesh_world.__file__]
        arguments = [str(processes), str(place / "rendezvous"), str(out)]
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join([str(Path(mesh_world.__file__).parent), *sys.path]),
        }
        started = [
            subprocess.Popen([*command, str(rank), *arguments], env=environment, stderr=subprocess.PIPE, text=True)
            for rank in range(processes)
        ]
        errors = [process.communicate()[1] for process in started]
        assert out.is_file(), "\n".join(errors)
        return json.loads(out.read_text())

    return run


@pytest.mark.parametrize(
    ("function", "wiring", "mesh", "processes"),
    [
        pytest.param(*case, mesh, processes, id=name(*case, mesh))
        for processes, meshes in MESHES.items()
        for mesh in meshes
        for case in (*cases(), ("traffic", "autoencoder"))
    ],
)
def test_a_mesh_trains_what_one_process_trains(
    results: Callable[[int], dict[str, str]], function: str, wiring: str, mesh: tuple[int, int], processes: int
) -> None:
    assert results(processes)[name(function, wiring, mesh)] == ""
