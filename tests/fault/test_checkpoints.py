"""Checkpoints are whole or known not to be; of two, one may be damaged."""

from __future__ import annotations

import errno
import os
import re
import shutil
from pathlib import Path

import pytest
import torch
from small_training import FAST, RECIPE, activations, assert_same

from monoscope.core.errors import DataError, OutputError
from monoscope.training import train, trainer
from monoscope.training.checkpoint import checkpoints, load_checkpoint, save_checkpoint, state_bytes


def flip(path: Path, place: int) -> None:
    """Change one bit."""
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def test_the_last_two_are_kept_newest_first(tmp_path: Path) -> None:
    for step in (0, 9, 10, 100_000_000):
        save_checkpoint(tmp_path, step, {"step": step, "w": torch.full((5,), float(step))})
    assert [path.name.split(".")[0] for path in checkpoints(tmp_path)] == [
        "checkpoint-100000000",
        "checkpoint-00000010",
    ]
    assert load_checkpoint(tmp_path)["step"] == 100_000_000


@pytest.mark.parametrize("place", [0, 300, -1])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(
    tmp_path: Path, place: int, caplog: pytest.LogCaptureFixture
) -> None:
    for step in (1, 2):
        save_checkpoint(tmp_path, step, {"step": step, "w": torch.arange(100.0)})
    newest, before = checkpoints(tmp_path)
    flip(newest, place)
    assert load_checkpoint(tmp_path)["step"] == 1
    assert [record.getMessage() for record in caplog.records] == [
        f"{newest} was changed after it was written: its SHA-256 differs",
        f"going on from {before.name}, the one before it",
    ]
    before.write_bytes(before.read_bytes()[:-10])
    with pytest.raises(DataError, match=rf"{newest.name} and {before.name} in .* were changed .* start anew"):
        load_checkpoint(tmp_path)


def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one_to_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = FAST | {"checkpoint_every": 0}
    whole = train(RECIPE, activations(), out=tmp_path / "whole", **settings)
    save = trainer.save_checkpoint

    def save_then_stop(directory: Path, step: int, state: dict[str, object]) -> None:
        save(directory, step, state)
        if step == 21:
            raise KeyboardInterrupt

    monkeypatch.setattr(trainer, "save_checkpoint", save_then_stop)
    with pytest.raises(KeyboardInterrupt):
        train(RECIPE, activations(), out=tmp_path / "run", **settings)
    monkeypatch.undo()
    flip(checkpoints(tmp_path / "run")[0], 1000)
    again = train(RECIPE, activations(), out=tmp_path / "run", resume=True, **settings)
    assert_same(whole, again)
    assert checkpoints(tmp_path / "run") == []


def test_a_disk_that_fills_leaves_what_was_there_and_says_how_much_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_checkpoint(tmp_path, 1, {"step": 1, "w": torch.zeros(1000)})
    before = checkpoints(tmp_path)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match=r"no room for the checkpoint of step 2 .* takes 8,000 bytes, and [\d,]+ are"):
        save_checkpoint(tmp_path, 2, {"step": 2, "w": [torch.zeros(1000), {"more": torch.zeros(1000)}]})
    assert checkpoints(tmp_path) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == [before[0].name]


def test_settings_that_weights_do_not_follow_from_may_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer.Log, "write", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        train(RECIPE, activations(), out=tmp_path / "run", **FAST)
    monkeypatch.undo()
    train(RECIPE, activations(), out=tmp_path / "run", resume=True, **FAST, checkpoint_every=7)


def test_a_run_killed_before_its_first_checkpoint_begins_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(trainer, "save_checkpoint", killed)
    with pytest.raises(KeyboardInterrupt):
        train(RECIPE, activations(), out=tmp_path / "run", **FAST)
    monkeypatch.undo()
    assert_same(
        train(RECIPE, activations(), **FAST), train(RECIPE, activations(), out=tmp_path / "run", resume=True, **FAST)
    )
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "training.toml").touch()
    (tmp_path / "other" / "metrics.jsonl").touch()
    with pytest.raises(DataError, match="nothing to resume: no checkpoint"):
        train(RECIPE, activations(), out=tmp_path / "other", resume=True, **FAST)


def test_a_disk_too_small_for_the_checkpoints_is_said_before_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=50_000))
    sizes: list[int] = []
    save = trainer.save_checkpoint

    def noted(directory: Path, step: int, state: dict[str, object]) -> None:
        save(directory, step, state)
        sizes.append(state_bytes(state))

    monkeypatch.setattr(trainer, "save_checkpoint", noted)
    train(RECIPE, activations(), out=tmp_path / "run", **FAST, checkpoint_every=0)
    (said,) = [record.getMessage() for record in caplog.records]
    found = re.search(r"has 50,000 bytes free, and the checkpoints of this run take ([\d,]+)", said)
    assert found
    predicted = int(found[1].replace(",", "")) // 3
    assert sizes[-1] <= predicted * 1.01  # counters and scales are not predicted
    assert sizes[-1] >= predicted * 0.99
