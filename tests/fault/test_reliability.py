"""A few of every fault in every run of the tests, by the script that does hundreds; the page says what it found."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "reliability.py"
TRIED = (
    *("kills train", "kills harvest", "kills analyze", "points train", "points harvest"),
    *("asked to stop", "full disk", "damaged checkpoint", "damaged shard", "leaping clock"),
    *("not finite", "two processes", "lost rank", "lost of two"),
)


@pytest.mark.slow
def test_nothing_is_lost(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
    out = tmp_path / "results.json"
    few = ["--runs", "2", "--seconds", "20", "--times", "1", "--seed", "5"]
    command = [sys.executable, str(SCRIPT), *few, "--out", str(out), "--only", *TRIED]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1200)
    parts = json.loads(out.read_text())["parts"] if out.is_file() else {}
    assert done.returncode == 0, (done.stderr[-3000:], [part["failures"] for part in parts.values()])
    for name, part in parts.items():
        if name.startswith(("kills", "points")):
            assert part["runs"] == part["exact"] >= 1, name
            assert part["kills"] >= part["runs"], name
            assert part["broken_files"] == 0, name
            assert part.get("intervals_lost_at_most", 0) <= 1, name
        else:
            assert part["held"] == part["runs"], name
            assert part["runs"] >= 1 or "left_out" in part, name
    assert parts["lost rank"]["restarts"] == parts["lost of two"]["restarts"] == 1


def test_pieces_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    added = importlib.import_module("reliability_page").added
    one = {"runs": 2, "kills": 3, "exact": 2, "intervals_lost_at_most": 1, "failures": [], "calls": 9, "seconds": 1.25}
    two = {"runs": 1, "kills": 1, "exact": 0, "intervals_lost_at_most": 0, "failures": ["x"], "calls": 8, "seconds": 2}
    both = {"runs": 3, "kills": 4, "exact": 2, "intervals_lost_at_most": 1, "failures": ["x"], "calls": 8}
    assert added(one, two) == both | {"seconds": pytest.approx(3.2, abs=0.06)}
    assert added({}, one) == one | {"seconds": pytest.approx(1.2, abs=0.06)}


def test_the_page_says_what_was_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    results = json.loads((SCRIPT.parent / "results" / "reliability.json").read_text())
    page = (ROOT / "docs" / "reliability.md").read_text()
    rendered = importlib.import_module("reliability_page").rendered
    assert rendered(page, results) == page
    for name, part in results["parts"].items():
        assert part["failures"] == [], name
        part["runs"] += 1
    assert rendered(page, results) != page
