"""The page of measured speed, its charts and the README's table are what the committed results say."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def pages(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("performance_page")


def side(speed: int, fvu: float) -> dict[str, Any]:
    phase = {"tokens_per_s": speed, "spread": [speed - 10, speed + 10], "steps": 100}
    return {"train": phase, "encode": phase, "peak_mb": 500, "fvu": fvu, "dead": 0.02, "l0": 32.0}


def row(peer: str, others: float) -> dict[str, Any]:
    ratio = {"median": 4.25, "spread": [4.0, 4.5]}
    return {
        "data": "minilm",
        "peer": peer,
        "allocator": "default",
        "requirements": [f"{peer}==1.2"],
        "others": [{"before": 0.0, "mean": 0.0, "worst": 0.5}, {"before": 0.0, "mean": others, "worst": 0.5}],
        "sides": {peer: side(1000, 0.3), "monoscope": side(4250, 0.125)},
        "ratios": {"monoscope": {"train": ratio, "encode": ratio}},
        "measured": "2026-11-26 12:00",
        "sources": "0",
    }


def results(*rows: dict[str, Any]) -> dict[str, Any]:
    machine = {"processor": "Abacus", "cores": 2, "vector units": [], "memory_gb": 8, "system": "Linux"}
    return {"machine": machine, "peers": {str(i): each for i, each in enumerate(rows)}}


def test_the_page_is_what_the_results_say(pages: Any) -> None:
    assert pages.PAGE.read_text() == pages.page(pages.saved(), pages.saved_interface())


def test_the_charts_are_what_the_results_say(pages: Any) -> None:
    assert {path.name: path.read_text() for path in pages.CHARTS.glob("*.svg")} == pages.charts(pages.saved())


def test_the_table_of_the_readme_is_made_of_rows(pages: Any) -> None:
    text = pages.README.read_text()
    assert pages.with_table(text, pages.readme(pages.saved())) == text


def test_a_library_stands_beside_what_monoscope_did_in_the_same_run(pages: Any) -> None:
    page = pages.page([results(row("sae-lens", 0.01))])
    assert "| SAELens 1.2 | 1,000 | 4.25 (4.00 to 4.50) | 1,000 | 4.25 (4.00 to 4.50) | 500 | 0.300 | 2.0% |" in page
    assert "| **monoscope, pure PyTorch** | 4,250 |  | 4,250 |  | 500 | 0.125 | 2.0% |" in page


def test_a_row_from_a_busy_machine_bears_a_star(pages: Any) -> None:
    page = pages.page([results(row("sae-lens", 0.01), row("llamascopium", 0.3))])
    assert "SAELens 1.2 |" in page
    assert "llamascopium 1.2 * |" in page


def test_a_target_that_is_missed_is_bold_and_a_busy_machine_bears_a_star(pages: Any) -> None:
    met = {"part": "feature", "interaction": "next feature", "target_ms": 50, "p50_ms": 20.04, "p95_ms": 31.0, "n": 40}
    met |= {"others": 0.01, "measured": "2026-11-26 23:00"}
    missed = met | {"interaction": "context length", "target_ms": 30, "others": 0.4}
    sizes = dict.fromkeys(("initial_script_kb_gzip", "script_of_a_feature_kb_gzip"), 35.0)
    sizes |= dict.fromkeys(("feature_kb_plain_p50", "feature_kb_plain_p95"), 40.0)
    seen = {
        "machine": results()["machine"],
        "browser": "Browser 1",
        "features": 131_072,
        "rows": [met, missed],
        "sizes": sizes,
        "requests": {"n": {"feature": 1000}, "elsewhere": []},
    }
    page = pages.page([], seen)
    assert "| next feature | 50 | 20.0 | 31.0 | 40 |\n" in page
    assert "| context length * | 30 | 20.0 | **31.0** | 40 |\n" in page
    assert "Requests to any other host: 0 of 1,000." in page


def test_a_part_that_was_not_judged_shows_no_quality(pages: Any) -> None:
    tuned = row("sae-lens", 0.01) | {"allocator": "tuned"}
    for each in tuned["sides"].values():
        del each["fvu"], each["dead"]
    page = pages.page([results(tuned)])
    assert "| SAELens 1.2 | 1,000 | 4.25 (4.00 to 4.50) | 1,000 | 4.25 (4.00 to 4.50) | 500 |\n" in page
    assert "GLIBC_TUNABLES" in page


def test_parts_are_measured_again_only_where_the_sources_have_changed(
    pages: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    machine = importlib.import_module("machine")
    monkeypatch.setattr(machine, "results_file", lambda: tmp_path / "machines" / "abacus.json")
    monkeypatch.setattr(machine, "sources", lambda: "then")
    machine.record("peers", "a", {"speed": 1})
    machine.record("growth", "b", {"speed": 2})
    assert machine.is_measured("peers", "a")
    assert not machine.is_measured("peers", "b")
    assert json.loads((tmp_path / "machines" / "abacus.json").read_text())["growth"]["b"]["speed"] == 2
    monkeypatch.setattr(machine, "sources", lambda: "now")
    assert not machine.is_measured("peers", "a")


def test_a_part_that_would_take_too_long_is_left_for_the_next_call(
    pages: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    machine = importlib.import_module("machine")
    monkeypatch.setattr(machine, "results_file", lambda: tmp_path / "abacus.json")
    monkeypatch.setattr("sys.argv", ["bench", "--seconds", "100"])
    parts = iter(machine.Parts("peers", ["a", "b"], "", typical=1000))
    assert next(parts) == "a"
    with pytest.raises(SystemExit) as ended:
        next(parts)
    assert ended.value.code == machine.MORE
    assert list(machine.Parts("peers", ["a", "b"], "", typical=10)) == ["a", "b"]


def test_a_part_that_lacks_a_round_is_not_measured(pages: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    machine = importlib.import_module("machine")
    monkeypatch.setattr(machine, "results_file", lambda: tmp_path / "abacus.json")
    machine.record("peers", "a", {"complete": False})
    assert not machine.is_measured("peers", "a")
    machine.record("peers", "a", {"complete": True})
    assert machine.is_measured("peers", "a")


def test_the_middle_of_values_is_interpolated(pages: Any) -> None:
    machine = importlib.import_module("machine")
    assert machine.middle([3.0, 1.0, 2.0]) == 2.0
    assert machine.quantile([0.0, 10.0], 0.1) == 1.0


@pytest.mark.slow
def test_sides_train_and_encode_in_turns_and_are_judged_alike(
    pages: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    turns = importlib.import_module("turns")
    monkeypatch.setattr(turns, "wait_for_quiet", lambda: None)
    x = np.random.default_rng(0).standard_normal((512, 16), dtype=np.float32)
    np.save(tmp_path / "train.npy", x)
    np.save(tmp_path / "held_out.npy", x[:100])
    pure = turns.Side("", "monoscope", env={"MONOSCOPE_NATIVE": "0"})
    wider = turns.Side("", "monoscope", env={"MONOSCOPE_NATIVE": "0"}, job={"features": 128})
    job = {"data": str(tmp_path), "d": 16, "features": 32, "k": 4, "batch": 64, "steps": 6, "judge": True}
    found = turns.go({"a": pure, "b": pure, "wider": wider}, job, "default", 2)
    assert [len(turn) for turn in found["times"]["a"]["train"]] == [2, 2, 1]  # nobody asks for more after the last
    a, b, wider = (found["sides"][name] for name in ("a", "b", "wider"))
    assert (a["fvu"], a["l0"], a["encode"]["steps"]) == (b["fvu"], 4.0, 10)
    assert a["fvu"] != wider["fvu"]
    assert turns.compare(found, "a", "b", "train")["turns"] == 2
