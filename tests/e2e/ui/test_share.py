"""What leaves a page: short addresses, pictures, Python; and panels as large as the window."""

from __future__ import annotations

import csv
import json
import struct
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect
from ui_pages import copied, settle

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def feature(visit: Callable[..., Any]) -> Page:
    page = visit("/d/demo/f/3?act=0.1:100")
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    return page


def test_a_short_address_leads_to_the_same_page(feature: Page) -> None:
    before = feature.url
    link = copied(feature, "Link")
    assert "/l/" in link
    assert len(link.split("/l/")[1].split("#")[0]) <= 12
    feature.goto("about:blank")
    feature.goto(link)
    expect(feature.get_by_role("heading", name="Feature 3", exact=True)).to_be_visible()
    assert feature.url == before


def test_an_address_opens_where_its_workspace_is_not_and_leads_nowhere_else(feature: Page, watch: Any) -> None:
    watch.allow("status of 404")
    origin = feature.url.split("/d/")[0]
    feature.goto("about:blank")
    feature.goto(f"{origin}/l/0000000000#%2Fd%2Fdemo%2Ff%2F5")
    expect(feature.get_by_role("heading", name="Feature 5", exact=True)).to_be_visible()
    for elsewhere in ("%2F%2Fexample.org%2Fx", "https%3A%2F%2Fexample.org"):
        feature.goto("about:blank")
        feature.goto(f"{origin}/l/0000000000#{elsewhere}")
        settle(feature)
        assert feature.url.startswith(origin)


def test_panels_are_saved_as_pictures_of_what_they_show(feature: Page, tmp_path: Path) -> None:
    name = "Logits and activations"
    feature.get_by_role("button", name=f"{name}: more").click()
    with feature.expect_download() as download:
        feature.get_by_role("button", name="Save as SVG").click()
    drawn = ElementTree.parse(download.value.path()).getroot()
    texts = [text.text for text in drawn.iter(f"{SVG}text")]
    wanted = feature.locator(".stats .token").all_inner_texts()
    assert [text for text in texts if text in wanted][: len(wanted)]
    assert "Suppresses" in texts
    assert len(list(drawn.iter(f"{SVG}path"))) >= 2
    assert not list(drawn.iter(f"{SVG}foreignObject"))

    feature.get_by_role("button", name="Contexts: more").click()
    with feature.expect_download() as download:
        feature.get_by_role("button", name="Save as PNG").click()
    data = Path(download.value.path()).read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", data[16:24])
    box = feature.get_by_role("region", name="Contexts").bounding_box()
    assert box is not None
    assert width >= 2 * box["width"]
    assert height >= 2 * box["height"]


def test_panels_are_saved_as_their_numbers(feature: Page) -> None:
    feature.get_by_role("button", name="Contexts: more").click()
    with feature.expect_download() as download:
        feature.get_by_role("button", name="Save as JSON").click()
    rows = json.loads(Path(download.value.path()).read_text())
    first = feature.get_by_role("region", name="Strongest").locator("li").first
    assert f"{rows[0]['max_act']:.2f}"[:3] == first.locator(".value").inner_text()[:3]
    feature.get_by_role("button", name="Logits and activations: more").click()
    with feature.expect_download() as download:
        feature.get_by_role("button", name="Save as CSV").click()
    with Path(download.value.path()).open(newline="") as file:
        ends = list(csv.DictReader(file))
    assert {row["end"] for row in ends} == {"suppresses", "promotes", "fires on"}


def test_python_of_a_panel_shows_the_same(feature: Page) -> None:
    code = copied(feature, "Copy as Python", "Contexts: more")
    out: list[Any] = []
    exec(code, {"print": lambda *words: out.append(words)})
    first = feature.get_by_role("region", name="Strongest").locator("li").first
    assert f"{out[0][0]:.2f}"[:3] == first.locator(".value").inner_text()[:3]


def test_python_of_a_table_has_its_rows_in_its_order(visit: Callable[..., Any]) -> None:
    page = visit("/d/demo?f=density%3C0.02&f=is_dead%3Dfalse&sort=-max_act")
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    made: dict[str, Any] = {}
    exec(copied(page, "Copy as Python", "Features: more"), made)
    shown = [row.get_by_role("link").inner_text() for row in page.get_by_role("row").all()[1:6]]
    assert [str(feature) for feature in made["table"].column("feature").to_pylist()[:5]] == shown


def test_the_table_is_made_as_large_as_the_window_and_drawn(visit: Callable[..., Any]) -> None:
    page = visit("/d/demo?panel=features")
    panel = page.get_by_role("region", name="Table of features")
    expect(panel).to_have_attribute("data-maximized", "")
    box = page.get_by_role("grid").bounding_box()
    size = page.viewport_size
    assert box is not None
    assert size is not None
    assert box["height"] > 0.85 * size["height"]
    page.get_by_role("button", name="Features: more").click()
    with page.expect_download() as download:
        page.get_by_role("button", name="Save as SVG").click()
    drawn = ElementTree.parse(download.value.path()).getroot()
    texts = [text.text for text in drawn.iter(f"{SVG}text")]
    assert "Firing rate" in texts
    assert page.get_by_role("row").nth(3).get_by_role("gridcell").nth(2).inner_text() in texts


def test_m_makes_a_panel_as_large_as_the_window(feature: Page) -> None:
    panel = feature.get_by_role("region", name="Contexts")
    before = panel.bounding_box()
    panel.hover(position={"x": 300, "y": 80})
    feature.keyboard.press("m")
    expect(panel).to_have_attribute("data-maximized", "")
    assert "panel=contexts" in feature.url
    box = panel.bounding_box()
    size = feature.viewport_size
    assert box is not None
    assert before is not None
    assert size is not None
    assert box["width"] > before["width"]
    assert box["height"] > 0.95 * size["height"]
    feature.reload()
    settle(feature)
    expect(panel).to_have_attribute("data-maximized", "")
    feature.keyboard.press("Escape")
    expect(panel).not_to_have_attribute("data-maximized", "")
    assert "act=" in feature.url


def test_s_steers_by_the_feature_and_c_compares_its_dictionary(visit: Callable[..., Any], library: Any) -> None:
    page = visit("/d/demo/f/3", at=library)
    page.keyboard.press("s")
    expect(page.get_by_role("heading", name="Steer", exact=True)).to_be_visible()
    assert "e=demo%2F3%2Cadd" in page.url
    page.go_back()
    expect(page.get_by_role("heading", name="Feature 3", exact=True)).to_be_visible()
    page.keyboard.press("c")
    expect(page.get_by_role("heading", name="Compare", exact=True)).to_be_visible()
    assert page.url.split("dicts=")[1].startswith("demo%2C")
