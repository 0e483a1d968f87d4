"""What the interface is built with: which Node serves, when a build is needed, what a build without pages says."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def build() -> ModuleType:
    spec = importlib.util.spec_from_file_location("ui_build", ROOT / "ui" / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def command(path: Path, lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{lines}\n")
    path.chmod(0o755)


def only(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PATH with one directory and what a shell needs."""
    monkeypatch.setenv("PATH", os.pathsep.join([str(path), "/usr/bin", "/bin"]))


@pytest.mark.parametrize(
    ("version", "serves"),
    [
        ("v20.18.3", False),
        ("v20.19.0", True),
        ("v21.7.0", False),
        ("v22.11.0", False),
        ("v22.12.0", True),
        ("v24.1.0", True),
        ("v18.20.0", False),
        ("nonsense", False),
    ],
)
def test_which_node_serves(build: ModuleType, version: str, serves: bool) -> None:
    assert build.node_serves(version) is serves


def test_an_old_node_on_path_is_not_taken(build: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command(tmp_path / "node", "echo v18.0.0")
    command(tmp_path / "npm", "exit 0")
    only(tmp_path, monkeypatch)
    assert build.node_on_path() is None


def test_the_stamp_follows_names_and_contents_of_the_sources(build: ModuleType, tmp_path: Path) -> None:
    ui = tmp_path / "ui"
    (ui / "src").mkdir(parents=True)
    (ui / "src" / "a.ts").write_text("1")
    first = build.stamp_of(ui)
    (ui / "node_modules").mkdir()
    (ui / "node_modules" / "a.js").write_text("anything")
    assert build.stamp_of(ui) == first
    (ui / "src" / "a.ts").write_text("2")
    second = build.stamp_of(ui)
    (ui / "src" / "a.ts").rename(ui / "src" / "b.ts")
    assert len({first, second, build.stamp_of(ui)}) == 3


def scratch_ui(tmp_path: Path) -> tuple[Path, Path]:
    ui, out = tmp_path / "ui", tmp_path / "_ui"
    (ui / "src").mkdir(parents=True)
    (ui / "package-lock.json").write_text("{}")
    return ui, out


# Stands for npm: `run build -- --outDir DIR` writes a page there, `run elements -- --outDir DIR` a module.
WRITES = """case $1 in
ci) mkdir -p node_modules ;;
run)
  mkdir -p "$5"
  if [ "$2" = build ]; then echo "<!doctype html>" > "$5/index.html"; else echo "export {}" > "$5/elements.js"; fi ;;
esac"""


def test_a_build_is_stamped_and_done_once(build: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ui, out = scratch_ui(tmp_path)
    command(tmp_path / "bin" / "node", "echo v22.12.0")
    command(tmp_path / "bin" / "npm", WRITES)
    only(tmp_path / "bin", monkeypatch)
    assert build.build(ui, out) is True
    assert build.is_built(ui, out)
    assert build.build(ui, out) is False
    (ui / "src" / "main.ts").write_text("changed")
    assert build.build(ui, out) is True


def test_a_build_that_writes_no_page_fails_and_leaves_the_old_one(
    build: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ui, out = scratch_ui(tmp_path)
    out.mkdir()
    (out / "index.html").write_text("old")
    command(tmp_path / "bin" / "node", "echo v22.12.0")
    command(tmp_path / "bin" / "npm", 'mkdir -p node_modules "${5:-.}"')
    only(tmp_path / "bin", monkeypatch)
    with pytest.raises(build.BuildError, match=r"no index\.html"):
        build.build(ui, out)
    assert (out / "index.html").read_text() == "old"


def test_a_build_without_the_elements_of_notebooks_fails(
    build: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ui, out = scratch_ui(tmp_path)
    command(tmp_path / "bin" / "node", "echo v22.12.0")
    command(
        tmp_path / "bin" / "npm",
        'mkdir -p node_modules "${5:-.}"; [ "$2" = build ] && echo page > "$5/index.html"; exit 0',
    )
    only(tmp_path / "bin", monkeypatch)
    with pytest.raises(build.BuildError, match=r"no elements\.js"):
        build.build(ui, out)
    assert not out.exists()


def test_without_a_registry_the_message_says_how_to_go_on(
    build: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ui, out = scratch_ui(tmp_path)
    command(tmp_path / "bin" / "node", "echo v22.12.0")
    command(tmp_path / "bin" / "npm", "echo network unreachable; exit 1")
    only(tmp_path / "bin", monkeypatch)
    with pytest.raises(build.BuildError, match="network unreachable") as caught:
        build.build(ui, out)
    assert "MONOSCOPE_UI=skip" in str(caught.value)


def test_an_unknown_command_is_refused() -> None:
    done = subprocess.run([sys.executable, ROOT / "ui" / "build.py", "chek"], capture_output=True, text=True)
    assert done.returncode == 1
    assert "chek" in done.stderr
