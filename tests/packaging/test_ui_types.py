"""The interface's types are those of the server's OpenAPI document."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
UI = ROOT / "ui"

pytestmark = pytest.mark.slow


def test_the_types_are_current(tmp_path: Path) -> None:
    if not (UI / "node_modules" / "openapi-typescript").is_dir():
        pytest.skip("needs the interface's packages: python ui/build.py npm ci")
    from monoscope.server.openapi import document

    (tmp_path / "openapi.json").write_text(json.dumps(document()))
    made = tmp_path / "schema.d.ts"
    command = [sys.executable, UI / "build.py", "npm", "exec", "--no", "--"]
    done = subprocess.run(
        [*command, "openapi-typescript", tmp_path / "openapi.json", "--output", made], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert made.read_text() == (UI / "src" / "api" / "schema.d.ts").read_text(), "not current: make types"
