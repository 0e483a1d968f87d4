"""Several processes that train into a store elsewhere, as on one machine and as on two; one is lost, others go on."""

from __future__ import annotations

import socket
import subprocess
import sys
import uuid
from pathlib import Path

import mesh_run
import pytest
import torch
from mesh_processes import check_same, environment, run
from object_store import s3 as s3

from monoscope.core.stores.mirror import fetch_all
from monoscope.core.stores.remote import Remote
from monoscope.dictionaries import load
from monoscope.training.shared import shared_checkpoints

pytestmark = pytest.mark.slow


@pytest.fixture
def place(s3: str) -> Remote:
    return Remote(f"{s3}/{uuid.uuid4().hex}")


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes train into a directory they share, when nobody stops them."""
    out = tmp_path_factory.mktemp("together") / "run"
    run(2, out, 2)
    return out


def check_equal(one: Path, other: Path) -> None:
    found, expected = (load(path).state_dict() for path in (one, other))
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


def here(place: Remote, directory: Path) -> Path:
    """A copy of a run on this machine."""
    fetch_all(place, directory)
    return directory


def on_two_machines(out: Remote, *flags: object) -> list[int]:
    """How two processes end that share no directory: each is the first on a machine of its own, as far as it knows."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, *map(str, (mesh_run.__file__, out, 2, 2, *flags))]
    meeting = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    processes = [
        subprocess.Popen(command, env=environment() | meeting | {"RANK": str(rank)}, stderr=subprocess.DEVNULL)
        for rank in range(2)
    ]
    return [process.wait() for process in processes]


def test_two_processes_stop_and_one_or_two_go_on(place: Remote, together: Path, tmp_path: Path) -> None:
    run(2, place, 2, "--stop", 15)
    stopped = here(place, tmp_path / "stopped")
    (step, checkpoint), *_ = shared_checkpoints(stopped)
    assert 1 <= step < 12
    assert len(list(checkpoint.glob("*.safetensors"))) == 2
    assert len(list(stopped.glob("checkpoint-*"))) == 2
    run(1, stopped, 1, "--resume")
    check_same(stopped, together)
    run(2, place, 2, "--resume")
    check_equal(here(place, tmp_path / "done"), together)
    check_same(tmp_path / "done", together)
    assert set(place.sizes()) == {"config.toml", "weights.safetensors", "training.toml", "metrics.jsonl"}


def test_one_process_stops_and_two_go_on(place: Remote, together: Path, tmp_path: Path) -> None:
    run(1, place, 1, "--stop", 17)
    run(2, place, 2, "--resume")
    check_same(here(place, tmp_path / "done"), together)


def test_of_a_checkpoint_that_was_not_sent_whole_nothing_is_used(place: Remote, together: Path, tmp_path: Path) -> None:
    first, second = on_two_machines(place, "--lose", 5)  # one file with each checkpoint
    assert second == -9
    assert first == 1
    left = here(place, tmp_path / "left")
    assert [step for step, _ in shared_checkpoints(left)] == [3, 2]
    (torn,) = {*left.glob("checkpoint-*")} - {path for _, path in shared_checkpoints(left)}
    assert torn.name.startswith("checkpoint-00000004.")
    assert [path.name for path in torn.iterdir()] == ["shard-00001-model-00001-of-00001.safetensors"]
    assert on_two_machines(place, "--resume") == [0, 0]
    check_equal(here(place, tmp_path / "done"), together)
    assert set(place.sizes()) == {"config.toml", "weights.safetensors", "training.toml", "metrics.jsonl"}
