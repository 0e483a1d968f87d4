"""What the documentation says of predicted memory is what was measured."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_the_page_says_what_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    bench = importlib.import_module("bench_memory")
    page, machines = bench.PAGE.read_text(), bench.machines()
    measured = [machine for machine in machines.values() if machine.get("memory")]
    assert measured
    assert bench.rendered(page, machines) == page
    for row in measured[0]["memory"].values():
        row["peak"] *= 2
    assert bench.rendered(page, machines) != page
