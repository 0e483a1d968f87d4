"""Runs of several processes: stopped on one mesh, gone on with on another."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import mesh_run
import pytest
import torch

from monoscope.dictionaries import load
from monoscope.training.shared import shared_checkpoints

pytestmark = pytest.mark.slow


def run(processes: int, out: Path, features: int, *flags: object) -> str:
    """What ``mesh_run`` says in some processes; its activations come in two lanes."""
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", processes) if processes > 1 else ()
    command = [sys.executable, *map(str, (*launcher, mesh_run.__file__, out, features, 2, *flags))]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(Path(mesh_run.__file__).parent), *sys.path]),
    }
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (done.returncode == 0) != ("--fail" in flags), done.stderr
    return done.stderr


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process trains that nobody stops."""
    out = tmp_path_factory.mktemp("whole") / "run"
    run(1, out, 1)
    return out


def check_same(one: Path, other: Path) -> None:
    """Weights, and rows of the log but for times, up to rounding."""
    found, expected = (load(path).state_dict() for path in (one, other))
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-4, msg=name)
    logs = [[json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()] for path in (one, other)]
    assert [row["step"] for row in logs[0]] == [row["step"] for row in logs[1]] == list(range(1, 13))
    for a, b in zip(*logs, strict=True):
        for name in ("loss", "fvu", "l0", "dead"):
            assert a[name] == pytest.approx(b[name], rel=1e-3, abs=1e-5), (name, a["step"])


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
