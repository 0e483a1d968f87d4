"""Training runs: their curves as they are written, their settings, and two side by side."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect
from ui_pages import settle


@pytest.fixture
def runs(demo: Path, tmp_path: Path) -> Path:
    """Two runs with logs of their own: one finished, one that another process would still be writing."""
    for name, steps, k in (("narrow", 40, 16), ("wide", 25, 64)):
        run = tmp_path / "runs" / name
        shutil.copytree(demo / "dictionary", run)
        settings = (run / "training.toml").read_text().replace("k = 16", f"k = {k}")
        (run / "training.toml").write_text(settings)
        write(run, range(1, steps + 1))
    return tmp_path / "runs"


def write(run: Path, steps: range, mode: str = "w") -> None:
    with (run / "metrics.jsonl").open(mode) as file:
        for step in steps:
            row = {
                "step": step,
                "tokens": step * 4096,
                "tokens_per_s": 1000,
                "loss": 1 / step,
                "fvu": 1 / step,
                "l0": 16.0,
                "dead": 0.01,
            }
            file.write(json.dumps(row) + "\n")


def curve(page: Page, name: str) -> Any:
    return page.locator("figure.chart").filter(has=page.get_by_role("heading", name=name, exact=True))


def test_a_run_shows_its_curves_and_every_value_under_the_pointer(
    visit: Callable[..., Any], start: Any, runs: Path
) -> None:
    page = visit("/runs", at=start(runs))
    expect(page.get_by_role("row")).to_have_count(3)
    page.get_by_role("link", name="narrow").click()
    settle(page)
    fvu = curve(page, "FVU")
    expect(fvu.locator(".legend")).to_contain_text("0.025")
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.get_by_role("button", name="FVU: more").click()
    page.get_by_role("button", name="Copy as Python").click()
    expect(page.get_by_text("Copied")).to_be_visible()
    out: list[Any] = []
    exec(page.evaluate("navigator.clipboard.readText()"), {"print": lambda *words: out.append(words)})
    assert list(out[0][1]) == pytest.approx([1 / step for step in range(1, 41)])
    fvu.get_by_role("img").focus()
    page.keyboard.press("ArrowRight")
    expect(fvu.locator("figcaption")).to_contain_text("step 2")
    expect(fvu.locator(".legend")).to_contain_text("0.5")
    fvu.get_by_role("button", name="table").click()
    expect(fvu.get_by_role("table").get_by_role("row")).to_have_count(41)
    page.get_by_label("Logarithmic").check()
    page.locator("select").select_option("l0")
    expect(page.locator("figure.chart")).to_have_count(1)
    page.reload()
    settle(page)
    expect(page.get_by_label("Logarithmic")).to_be_checked()
    expect(page.locator("figure.chart")).to_have_count(1)


def test_two_runs_lie_over_each_other_and_say_what_differs(visit: Callable[..., Any], start: Any, runs: Path) -> None:
    page = visit("/runs", at=start(runs))
    page.get_by_label("Choose narrow").check()
    page.get_by_label("Choose wide").check()
    page.get_by_role("link", name="Compare curves").click()
    settle(page)
    expect(curve(page, "Loss").locator(".legend li")).to_have_count(2)
    difference = page.get_by_role("region", name="What differs")
    expect(difference).to_contain_text("recipe.function.k")
    expect(difference.get_by_role("row").filter(has_text="recipe.function.k")).to_contain_text("64")
    page.get_by_role("button", name="Show").click()
    page.get_by_label("Filter settings").fill("function.k")
    expect(page.get_by_role("region", name="Settings", exact=True)).to_contain_text("16")


def test_rows_that_are_written_meanwhile_are_drawn(visit: Callable[..., Any], start: Any, runs: Path) -> None:
    run = runs / "wide"
    for name in ("config.toml", "weights.safetensors"):
        (run / name).unlink()  # it is not finished
    served = start(runs)
    page = visit("/runs", at=served)
    page.get_by_role("link", name="wide").click()
    settle(page)
    expect(page.get_by_text("running").first).to_be_visible()
    write(run, range(26, 31), "a")
    expect(curve(page, "FVU").locator(".legend")).to_contain_text("0.0333")


def test_a_library_without_runs_says_how_to_make_one(visit: Callable[..., Any], start: Any, demo: Path) -> None:
    page = visit("/runs", at=start(demo / "features.mono"))
    expect(page.get_by_text("No training runs here")).to_be_visible()


def test_a_run_that_is_not_there(visit: Callable[..., Any], watch: Any) -> None:
    watch.allow("status of 404")
    page = visit("/runs/nobody")
    expect(page.get_by_role("alert")).to_contain_text("nobody")


def test_snapshots_of_a_run_are_described_from_its_page(
    visit: Callable[..., Any], start: Any, runs: Path, demo: Path
) -> None:
    for tokens in ("4096", "204800"):
        shutil.copytree(demo / "dictionary", runs / "narrow" / "snapshots" / tokens)
    page = visit("/runs/narrow", at=start(runs))
    points = page.get_by_role("region", name="What can be opened").get_by_role("listitem")
    expect(points).to_have_count(3)
    expect(points.nth(1)).to_contain_text("after 204,800 tokens")
    points.nth(2).get_by_role("button", name="Describe the features of").click()
    expect(page.get_by_role("heading", name="Jobs", exact=True)).to_be_visible()
    stop = page.get_by_role("main").get_by_role("button", name="Cancel")
    expect(stop).to_have_count(1)
    stop.click()
    expect(page.get_by_role("main").get_by_role("list").first).to_contain_text("Called off")
