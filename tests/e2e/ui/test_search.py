"""One box over all features: found while typing, by several ways, each hit with its reason."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect
from ui_pages import copied, settle

INDEXED = 60_000  # ms until a new library is indexed, on a busy machine
HOSTILE = '<img src=x onerror="document.title=1"> 🦊 café'


@pytest.fixture
def server(start: Callable[..., Any], demo: Any) -> Iterator[Any]:
    """A server of its own, so that what tests write stays apart."""
    return start(demo)


def label(page: Page, feature: int, text: str) -> None:
    page.goto(page.url.split("/d/")[0].rstrip("/") + f"/d/demo/f/{feature}")
    settle(page)
    page.keyboard.press("e")
    page.get_by_role("textbox", name="Label").fill(text)
    page.keyboard.press("Enter")
    expect(page.get_by_text("by tester")).to_be_visible()


def test_labels_are_found_while_typing_marked_and_opened(visit: Callable[..., Any]) -> None:
    page = visit("/d/demo/f/5")
    label(page, 5, "closing brackets of a call")
    label(page, 9, HOSTILE)
    page.get_by_role("link", name="Search").click()
    settle(page)
    box = page.get_by_role("combobox", name="Search features")
    box.press_sequentially("clos")
    hit = page.locator("#hits > li").first
    expect(hit).to_contain_text("closing brackets of a call", timeout=INDEXED)
    expect(hit.locator("mark")).to_have_text("closing")
    expect(page.locator(".preview article")).to_contain_text("5")
    assert "q=clos" in page.url
    box.fill("🦊")
    expect(hit.locator("a")).to_contain_text(HOSTILE)
    expect(hit.locator("mark")).to_have_text("🦊")
    box.press("Enter")
    expect(page.get_by_role("heading", name="Feature 9", exact=True)).to_be_visible()
    page.go_back()
    settle(page)
    expect(box).to_have_value("🦊")


def test_tokens_patterns_and_numbers_are_ways_to_search(visit: Callable[..., Any], watch: Any) -> None:
    watch.allow("status of 422")  # "self" is no feature to be like
    page = visit("/search?q=self&mode=token")
    hits = page.locator("#hits > li")
    expect(hits.first).to_contain_text("fires on", timeout=INDEXED)
    page.get_by_role("button", name="Promotes").click()
    expect(hits.first).to_contain_text("promotes")
    box = page.get_by_role("combobox", name="Search features")
    page.get_by_role("button", name="Like", exact=True).click()
    box.fill("17")
    expect(hits.first).to_be_visible()
    expect(hits.first.locator(".chip")).to_have_text("direction")
    page.get_by_role("button", name="Auto", exact=True).click()
    expect(hits.first).to_contain_text("17")
    expect(hits.first.locator(".chip")).to_have_text("number")


def test_keys_lead_through_hits_and_pin_them(visit: Callable[..., Any]) -> None:
    page = visit("/search?q=self&mode=token")
    hits = page.locator("#hits > li")
    expect(hits.nth(1)).to_be_visible(timeout=INDEXED)
    page.get_by_role("heading", name="Search").evaluate("node => node.blur()")
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("j")
    expect(hits.nth(1)).to_have_attribute("aria-selected", "true")
    page.keyboard.press("p")
    expect(page.get_by_role("complementary", name="Pinned features").get_by_role("listitem")).to_have_count(1)
    page.keyboard.press("/")
    expect(page.get_by_role("combobox", name="Search features")).to_be_focused()


def test_a_layer_is_searched_alone(visit: Callable[..., Any], library: Any) -> None:
    page = visit("/search?q=self&mode=token", at=library)
    where = page.locator("#hits .where")
    for name in ("demo", "early"):
        expect(where.get_by_text(name, exact=True).first).to_be_visible(timeout=INDEXED)
    page.get_by_role("combobox", name="Dictionary", exact=True).select_option("layer:1")
    expect(where.get_by_text("demo", exact=True)).to_have_count(0)
    expect(where.get_by_text("early", exact=True).first).to_be_visible()
    assert "dict=layer%3A1" in page.url


def test_what_is_not_there_is_said(visit: Callable[..., Any], watch: Any) -> None:
    page = visit("/search?q=qwertzuiopasdf&mode=exact")
    expect(page.get_by_text("Nothing is found")).to_be_visible()
    watch.allow("status of 4")
    page.get_by_role("button", name="Pattern").click()
    page.get_by_role("combobox", name="Search features").fill("(unclosed")
    expect(page.get_by_role("alert")).to_be_visible()
    page.get_by_role("button", name="Meaning").click()
    page.get_by_role("combobox", name="Search features").fill("brackets")
    expect(page.get_by_text("embedding", exact=False).first).to_be_visible()


def test_hits_are_saved_as_a_table(visit: Callable[..., Any], tmp_path: Path) -> None:
    page = visit("/search?q=self&mode=token")
    options = page.get_by_role("listbox", name="Features").get_by_role("option")
    expect(options.first).to_be_visible(timeout=INDEXED)
    settle(page)
    shown = options.locator(".index").all_text_contents()
    page.get_by_role("button", name="Found: more").click()
    with page.expect_download() as download:
        page.get_by_role("button", name="Save as CSV").click()
    download.value.save_as(tmp_path / "found.csv")
    rows = list(csv.DictReader((tmp_path / "found.csv").read_text().splitlines()))
    assert [row["feature"] for row in rows] == shown
    assert {row["dict"] for row in rows} == {"demo"}


def test_python_finds_the_same_over_the_same_labels(visit: Callable[..., Any]) -> None:
    page = visit("/d/demo/f/5")
    label(page, 5, "closing brackets")
    label(page, 9, "closing quotes")
    page.goto(page.url.split("/d/")[0] + "/search?q=closing&labeled=true")
    hits = page.get_by_role("listbox", name="Features").get_by_role("option")
    expect(hits).to_have_count(2, timeout=INDEXED)
    made: dict[str, Any] = {}
    exec(copied(page, "Copy as Python", "Found: more"), made)
    found = [(str(hit.feature), hit.label) for hit in made["found"].hits]
    assert [feature for feature, _ in found] == hits.locator(".index").all_text_contents()
    assert dict(found) == {"5": "closing brackets", "9": "closing quotes"}
    made["search"].close()
    made["workspace"].close()
