"""The page of the comparison of methods: what it shows of a row, and what it lets a row claim."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[4] / "benchmarks"


@pytest.fixture
def pages(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("worlds_page")


def row(score: float, matched: str = "measured") -> dict[str, Any]:
    values = [score + 0.001 * i for i in range(5)]
    metrics = {metric: values for metric in ("ev", "mcc", "mcc_adj", "f1", "f1_hungarian", "absorption", "leak")}
    return {"metrics": metrics | {"l0": [6.0] * 5, "hedging": [None] * 5}, "matched": [matched] * 5, "pw_mcc": score}


def test_a_row_claims_what_its_seeds_allow(pages: Any) -> None:
    rows = {"BatchTopK": row(0.8), "TopK": row(0.7), "Gated": row(0.805), "ReLU + L1": row(0.9, "off")}
    assert pages.against(rows, "TopK") == "loses MCC, F1, EV"
    assert pages.against(rows, "Gated") == "even"
    assert pages.against(rows, "ReLU + L1") == "at another L0"
    assert pages.against(rows, "BatchTopK") == ""


def test_a_row_shows_mean_spread_and_how_its_l0_was_met(pages: Any) -> None:
    cells = pages.line("TopK", row(0.7, "interpolated"), {"mcc": "MCC", "l0": "L0", "hedging": "hedging"}, "even")
    assert cells == ["TopK *", "0.702 ± 0.002", "6.00 ± 0.00", "", "0.700", "even"]


def test_the_page_has_a_table_for_every_world_measured(pages: Any) -> None:
    methods = {"BatchTopK": row(0.8), "Matryoshka BatchTopK": row(0.9), "frozen decoder": row(0.1)}
    limits = {"pursuit at the true L0": row(1.0), "linear encoder": row(0.9), "random": row(0.05)}
    results = {
        "budget": {"tokens": 1000, "batch_tokens": 10, "lr": 0.1, "held_out": 100},
        "seeds": [[0, 0, 0]] * 5,
        "rows": {"W3": {"methods": methods, "bounds": limits}},
    }
    page = pages.page(results)
    assert page.count("\n## W3") == 1
    assert "\n## W1" not in page
    shown = [line.split(" | ")[0] for line in page.splitlines() if line.startswith("|") and "±" in line]
    assert shown[:4] == ["| *pursuit at the true L0*", "| *linear encoder*", "| BatchTopK", "| Matryoshka BatchTopK"]
    assert "1,000 tokens" in page
    assert "EV: 0.100 of it is lost by a linear encoder" in page
    assert "0.100 by the best method here (Matryoshka BatchTopK)" in page
    found = "MCC on W3: Matryoshka BatchTopK 0.902 ± 0.002, BatchTopK 0.802 ± 0.002"
    assert f"| it recovers more of the hierarchy | {found} | yes |" in page
    assert "Over all 3 rows of methods above, its rank correlation with MCC is 1.00" in page
    assert page.count(" | no |") == 2  # the made-up Matryoshka absorbs and leaks more
