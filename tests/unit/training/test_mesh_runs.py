"""Runs of several processes: stopped on one mesh, gone on with on another."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from mesh_processes import check_same, run

from monoscope.training.shared import shared_checkpoints

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process trains that nobody stops."""
    out = tmp_path_factory.mktemp("whole") / "run"
    run(1, out, 1)
    return out


def test_four_processes_are_gone_on_with_by_two_and_by_one(whole: Path, tmp_path: Path) -> None:
    run(4, tmp_path / "a", 2, "--stop", 15)
    (step, checkpoint), *_ = shared_checkpoints(tmp_path / "a")
    assert 1 <= step < 12
    assert not list(checkpoint.glob("*.pt"))
    assert len(list(checkpoint.glob("*.safetensors"))) == 4
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    run(2, tmp_path / "a", 2, "--resume")
    check_same(tmp_path / "a", whole)
    run(1, tmp_path / "b", 1, "--resume")
    check_same(tmp_path / "b", whole)
    assert not shared_checkpoints(tmp_path / "a")


def test_one_process_is_gone_on_with_by_four(whole: Path, tmp_path: Path) -> None:
    run(1, tmp_path / "a", 1, "--stop", 17)
    run(4, tmp_path / "a", 2, "--resume")
    check_same(tmp_path / "a", whole)


def test_an_error_of_one_process_ends_all_and_is_said_once(tmp_path: Path) -> None:
    # The first twelve batches are read by all, to start from.
    said = run(2, tmp_path / "a", 1, "--fail", 15)
    assert said.count("error: ") == 1
    assert "error: a batch cannot be read" in said
