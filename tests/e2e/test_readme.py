"""The Python of the README, on a small share of its tokens, does what it says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    names: dict[str, object] = {}
    exec(code.replace("1_000_000", "20_000").replace("600_000", "8_000"), names)
    out = capsys.readouterr().out
    assert "for i in range(" in out
    assert "Feature(7, " in out
    assert (tmp_path / "runs" / "readme-sae" / "weights.safetensors").is_file()
    assert (tmp_path / "runs" / "readme-features.mono" / "manifest.json").is_file()
