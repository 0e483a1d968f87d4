"""The library: what was found, what could not be read, and opening more."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect
from ui_pages import settle, wait_for

from monoscope.features import FeatureBundle


def test_cards_say_what_a_dictionary_is_and_lead_to_it(visit: Callable[..., Any], demo: Path) -> None:
    page = visit("/")
    bundle = FeatureBundle.open(demo / "features.mono")
    card = page.get_by_role("article")
    expect(card).to_contain_text(f"{len(bundle)} features")
    expect(card).to_contain_text("2.resid_post")
    expect(page.get_by_role("heading", name="Runs")).to_be_visible()
    card.get_by_role("link").click()
    expect(page.get_by_role("grid")).to_be_visible()
    assert "/d/" in page.url


def test_an_empty_library_says_how_to_fill_it(
    visit: Callable[..., Any], start: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "nothing").mkdir()
    page = visit("/", at=start(tmp_path / "nothing"))
    expect(page.get_by_text("Nothing to show yet")).to_be_visible()
    expect(page.get_by_text("monoscope demo")).to_be_visible()


def test_what_cannot_be_read_is_shown_with_its_reason(
    visit: Callable[..., Any], start: Callable[..., Any], tmp_path: Path, demo: Path
) -> None:
    shutil.copytree(demo, tmp_path / "copy")
    (tmp_path / "copy" / "features.mono" / "details.parquet").write_bytes(b"short")
    page = visit("/", at=start(tmp_path / "copy"))
    broken = page.get_by_role("region", name="Could not be read")
    expect(broken).to_contain_text("details.parquet")


def test_a_path_is_opened_inside_the_roots_and_refused_outside(
    visit: Callable[..., Any], start: Callable[..., Any], tmp_path: Path, demo: Path, watch: Any
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    served = start(root)
    page = visit("/", at=served)
    shutil.copytree(demo / "features.mono", root / "later.mono")

    watch.allow("status of 4")
    page.get_by_label("Open a path").fill("/etc")
    page.get_by_role("button", name="Open", exact=True).click()
    expect(page.get_by_role("alert")).to_be_visible()

    page.get_by_label("Open a path").fill(str(root / "later.mono"))
    page.get_by_role("button", name="Open", exact=True).click()
    expect(page.get_by_role("grid")).to_be_visible()


def test_a_server_that_stops_is_said_and_its_return_is_noticed(
    visit: Callable[..., Any], start: Callable[..., Any], demo: Path, watch: Any
) -> None:
    served = start(demo)
    page = visit("/", at=served)
    watch.allow("ERR_CONNECTION_REFUSED", "Failed to load")
    served.process.terminate()
    served.process.wait(20)
    page.get_by_role("article").get_by_role("link").click()
    expect(page.get_by_role("alert").first).to_contain_text("does not answer")
    expect(page.get_by_role("button", name="Try again").first).to_be_visible()


def test_what_was_looked_at_is_found_again_and_forgotten(visit: Callable[..., Any], server: Any) -> None:
    page = visit("/d/demo?sort=-density")

    def remembered(path: str) -> None:
        wait_for(page, lambda: path in (page.evaluate("localStorage.getItem('monoscope.recent')") or ""))

    remembered("/d/demo")
    page.goto(f"{server.address}/d/demo/f/5")
    remembered("/d/demo/f/5")
    page.evaluate(
        "localStorage['monoscope.recent'] = JSON.stringify(JSON.parse(localStorage['monoscope.recent']).concat("
        "{path: '/d/elsewhere', search: '', names: ['elsewhere']}))"
    )
    page.goto(f"{server.address}/")
    links = page.get_by_role("region", name="Recent").get_by_role("link")
    expect(links).to_have_text([re.compile("5.*demo"), "demo"])  # and nothing that is not here
    links.nth(1).click()
    page.wait_for_url("**/d/demo?sort=-density")
    page.go_back()
    page.get_by_role("button", name="Clear").click()
    expect(page.get_by_role("region", name="Recent")).to_have_count(0)


def test_the_sample_is_made_by_a_job_and_opened_by_the_next_server(
    visit: Callable[..., Any], start: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "nothing").mkdir()
    served = start(tmp_path / "nothing")
    page = visit("/", at=served)
    page.route("**/api/v1/jobs", lambda route: route.continue_(post_data='{"kind": "sample", "scale": 0.02}'))
    page.get_by_role("button", name="Make the sample").click()
    log = page.get_by_role("log")
    expect(log).to_contain_text("begins", timeout=120_000)
    page.unroute("**/api/v1/jobs")
    expect(log.get_by_role("listitem").last).to_have_text(re.compile("done$"), timeout=120_000)
    expect(log).to_contain_text("tokens in")
    page.get_by_role("link", name="Dictionary: Make the sample").click()
    expect(page.get_by_role("grid")).to_be_visible()
    page.goto(f"{served.address}/")
    settle(page)
    expect(page.get_by_role("article")).to_contain_text("live")
    expect(page.get_by_role("button", name="sample")).to_have_count(0)

    shutil.copytree(tmp_path / "workspace-0.sample", tmp_path / "workspace-1.sample")
    page = visit("/", at=start(tmp_path / "nothing"))
    page.get_by_role("button", name="Open the sample").click()
    expect(page.get_by_role("grid")).to_be_visible()


def test_a_dictionary_without_features_is_described(
    visit: Callable[..., Any], start: Callable[..., Any], tmp_path: Path, demo: Path
) -> None:
    (tmp_path / "runs").mkdir()
    page = visit("/", at=start(tmp_path / "runs"))
    shutil.copytree(demo / "dictionary", tmp_path / "runs" / "bare")
    page.get_by_label("Open a path").fill("bare")
    page.get_by_role("button", name="Open", exact=True).click()
    found = page.get_by_role("list", name="Dictionaries without features")
    page.route(
        "**/api/v1/jobs",
        lambda route: route.continue_(
            post_data=json.dumps({**json.loads(route.request.post_data or "{}"), "tokens": 2_000})
        ),
    )
    found.get_by_role("button", name="Describe the features of").click()
    expect(page.get_by_role("log").get_by_role("listitem").last).to_have_text(re.compile("done$"), timeout=120_000)
    page.unroute("**/api/v1/jobs")
    page.get_by_role("link", name="Dictionary: Analyze").click()
    expect(page.get_by_role("grid")).to_be_visible()


def test_a_reference_to_the_hub_says_how_it_comes_here(
    visit: Callable[..., Any], start: Callable[..., Any], tmp_path: Path, watch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    (tmp_path / "nothing").mkdir()
    page = visit("/", at=start(tmp_path / "nothing"))
    watch.allow("status of 4")
    page.get_by_label("Open a path").fill("hf://ada/dictionary/l2")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("hf download ada/dictionary --include 'l2/*'")


def test_the_library_is_saved_as_a_table_and_written_as_python(
    visit: Callable[..., Any], library: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = visit("/", at=library)
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    cards = page.get_by_role("article").count()
    page.get_by_role("button", name="Dictionaries: more").click()
    with page.expect_download() as download:
        page.get_by_role("button", name="Save as JSON").click()
    download.value.save_as(tmp_path / "dictionaries.json")
    rows = json.loads((tmp_path / "dictionaries.json").read_text())
    assert len(rows) == cards
    assert {row["name"]: row["n_features"] for row in rows}["early"] == 192
    page.get_by_role("button", name="Dictionaries: more").click()
    page.get_by_role("button", name="Copy as Python").click()
    expect(page.get_by_text("Copied Python")).to_be_visible()
    exec(page.evaluate("navigator.clipboard.readText()"), {})
    assert capsys.readouterr().out.count("'fvu'") == cards
    page.get_by_role("button", name="Runs: more").click()
    page.get_by_role("button", name="Maximize").click()
    assert "panel=runs" in page.url
