"""The library: what was found, what could not be read, and opening more."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from playwright.sync_api import expect

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
        while path not in (page.evaluate("localStorage.getItem('monoscope.recent')") or ""):
            page.wait_for_timeout(100)

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
