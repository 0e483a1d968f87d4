"""What is written outlasts a power loss, and what a killed process had begun is cleared away."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest

from monoscope.core import io


def listing(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.iterdir())


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """What reaches the disk, in order."""
    seen: list[str] = []
    fsync, replace = os.fsync, os.replace

    def noted_fsync(descriptor: int) -> None:
        seen.append(f"sync {Path(os.readlink(f'/proc/self/fd/{descriptor}')).relative_to(tmp_path)}")
        fsync(descriptor)

    def noted_replace(old: Path, new: Path) -> None:
        seen.append(f"name {Path(new).relative_to(tmp_path)}")
        replace(old, new)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "replace", noted_replace)
    return seen


def test_bytes_reach_the_disk_before_the_name_and_the_name_before_anything_else(
    tmp_path: Path, calls: list[str]
) -> None:
    io.write_text(tmp_path / "a.txt", "a")
    pid = os.getpid()
    assert calls == [f"sync .a.txt.{pid}.partial", "name a.txt", "sync ."]


def test_all_files_of_a_directory_reach_the_disk_before_its_name(tmp_path: Path, calls: list[str]) -> None:
    with io.output_directory(tmp_path / "run") as partial:
        (partial / "deep").mkdir()
        (partial / "deep" / "a").write_text("")
        (partial / "b").write_text("")
    begun = f".run.{os.getpid()}.partial"
    assert sorted(calls[:-2]) == [f"sync {begun}{name}" for name in ("", "/b", "/deep", "/deep/a")]
    assert calls[-2:] == ["name run", "sync ."]


def test_a_new_directory_of_a_run_reaches_the_disk(tmp_path: Path, calls: list[str]) -> None:
    with io.owned(tmp_path / "run"):
        assert calls == ["sync ."]


@pytest.mark.parametrize("at_once", [True, False])
def test_what_stands_in_a_place_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: bool) -> None:
    if not at_once:
        monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: object())
    for content in ("old", "new"):
        with io.output_directory(tmp_path / "run", force=True) as partial:
            (partial / content).write_text("")
    assert listing(tmp_path) == ["run"]
    assert listing(tmp_path / "run") == ["new"]


BEGUN = """
import os, pathlib, sys, time
from monoscope.core.io import output_directory
with output_directory(pathlib.Path(sys.argv[1])) as partial:
    (partial / "half").write_text("")
    print("begun", flush=True)
    time.sleep(120)
"""


def test_what_killed_processes_began_is_removed_and_what_others_write_is_not(tmp_path: Path) -> None:
    out = tmp_path / "a[1]"  # a name that would be a pattern
    with subprocess.Popen([sys.executable, "-c", BEGUN, str(out)], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with io.output_directory(out) as partial:
            (partial / "mine").write_text("")
        assert listing(tmp_path) == [f".a[1].{other.pid}.partial", "a[1]"]
        other.kill()
        other.wait()
        with io.output_directory(out, force=True) as partial:
            (partial / "mine").write_text("")
    assert listing(tmp_path) == ["a[1]"]
    assert listing(out) == ["mine"]
