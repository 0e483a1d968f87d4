"""Every recipe trains on the bundled model, as its file says but for the number of tokens."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from monoscope.cli.app import app
from monoscope.dictionaries import load

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "recipes").glob("*.toml"))
SMALL = {
    "training.tokens": 2000,
    "training.batch_tokens": 500,
    "training.shuffle_tokens": 1000,
    "text_tokens": 5000,
}
SNAPSHOTS = {"models": '{early = "bundled", late = "bundled"}'}  # those the file names are made by a script


@pytest.mark.slow
@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipe_trains(path: Path, tmp_path: Path) -> None:
    changes = SMALL | (SNAPSHOTS if "snapshots" in path.stem else {})
    given = [word for key, value in changes.items() for word in ("--set", f"{key}={value}")]
    done = CliRunner().invoke(app, ["train", str(path), "--out", str(tmp_path / "out"), "--json", *given])
    assert done.exit_code == 0, done.stderr
    for directory, summary in json.loads(done.stdout)["dictionaries"].items():
        assert load(directory).n_features > 0
        assert summary["fvu"] > 0


def test_the_page_of_recipes_lists_each_of_them() -> None:
    page = (ROOT / "docs" / "reference" / "recipes.md").read_text()
    assert all(f"](../../recipes/{path.name})" in page for path in RECIPES)


def test_the_benchmark_compares_each_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import bench_recipes

    assert sorted(bench_recipes.files([])) == [path.stem for path in RECIPES]
    for name, comparisons in bench_recipes.files([]).items():
        runs = bench_recipes.settings_of(name, comparisons, []).runs()
        assert {f"alternative.{key}" for one in comparisons for key in one.entries} < set(runs)
    del sys.modules["bench_recipes"]
