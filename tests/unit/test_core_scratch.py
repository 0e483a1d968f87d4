"""Directories for a while: gone with the block, with the object, and, after a kill, with the next one that is made."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from monoscope.core.scratch import MARK, SETTLING, Scratch

HOLDING = "import sys; from monoscope.core.scratch import Scratch; s = Scratch(); print(s.path, flush=True); input()"


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The system's place for temporary files, for this process and those it starts."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


def holder() -> tuple[subprocess.Popen[str], Path]:
    """A process that has a directory, and where that is."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDING], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def grow_old(path: Path) -> None:
    """Let it be longer ago that a directory was made than a new one may do without its lock."""
    mark = path.parent / MARK
    long_ago = mark.stat().st_mtime - 2 * SETTLING
    os.utime(mark, (long_ago, long_ago))


def test_it_is_empty_and_goes_with_the_block(temporary: Path) -> None:
    with pytest.raises(KeyError), Scratch() as path:
        assert not any(path.iterdir())
        (path / "file").write_text("x")
        raise KeyError
    assert not any(temporary.iterdir())


def test_it_goes_with_the_object(temporary: Path) -> None:
    scratch = Scratch()
    assert scratch.path.is_dir()
    del scratch
    gc.collect()
    assert not any(temporary.iterdir())


def test_what_a_killed_process_left_is_removed_and_nothing_else(temporary: Path) -> None:
    killed, left = holder()
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    alive, held = holder()
    (left / "file").write_text("x")
    named_alike = temporary / "monoscope-run"
    named_alike.mkdir()
    with Scratch():
        assert left.is_dir(), "it may be that a new one does not hold its lock yet"
    for path in (left, held):
        grow_old(path)
    with Scratch():
        assert not left.parent.exists()
        assert held.is_dir()
        assert named_alike.is_dir()
    alive.communicate("\n")
    assert not held.parent.exists()
