"""The built wheel, installed into an environment of its own, serves the interface."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from served import hostile_bundle

ROOT = Path(__file__).parents[2]
BUILT = ROOT / "src" / "monoscope" / "_ui"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python of an environment with the wheel, and what it depends on from this one."""
    if not (BUILT / "index.html").is_file():
        pytest.skip("the interface is not built: python ui/build.py")
    scratch = tmp_path_factory.mktemp("installed")
    project = scratch / "project"
    project.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", ".gitignore", "hatch_build.py"):
        shutil.copy(ROOT / name, project / name)
    for name in ("ui", "src"):
        shutil.copytree(ROOT / name, project / name, ignore=shutil.ignore_patterns("node_modules", "__pycache__"))
    run = {"cwd": project, "check": True, "capture_output": True}
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", scratch], **run)
    (wheel,) = scratch.glob("*.whl")
    venv.create(scratch / "venv", with_pip=False)
    python = scratch / "venv" / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index", wheel]
    subprocess.run(pip, **run)
    (site,) = (scratch / "venv" / "lib").glob("python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


@pytest.fixture(scope="module")
def url(python: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("shown")
    hostile_bundle(folder / "features.mono")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [python, "-m", "monoscope", "serve", folder, "--port", "0", "--json"]
    command += ["--set", f"server.db={folder / 'workspace.db'}"]
    process = subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise AssertionError(process.communicate()[1])
    yield json.loads(line)["url"]
    process.terminate()
    process.communicate(timeout=20)


def test_the_wheel_is_what_runs(python: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    code = "import monoscope; print(monoscope.__file__)"
    done = subprocess.run(
        [python, "-c", code], cwd=python.parent, env=environment, capture_output=True, text=True, check=True
    )
    assert Path(done.stdout.strip()).is_relative_to(python.parents[1])


def test_it_serves_the_page_its_scripts_and_the_api(url: str) -> None:
    with httpx.Client(trust_env=False, follow_redirects=True) as client:
        page = client.get(url, headers={"Accept": "text/html"})
        assert page.status_code == 200
        script = re.search(r'<script type="module"[^>]* src="(\./assets/[^"]+)"', page.text)
        assert script is not None, page.text
        loaded = client.get(page.url.join(script[1]))
        assert loaded.status_code == 200
        assert "javascript" in loaded.headers["content-type"]
        dictionaries = client.get(page.url.join("/api/v1/dictionaries")).json()
        assert [card["n_features"] for card in dictionaries] == [300]
