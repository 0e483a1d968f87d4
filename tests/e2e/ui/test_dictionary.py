"""The table of all features: order, filters, columns, export; all of it in the address."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from playwright.sync_api import Page, expect
from ui_pages import number_of, rows, settle

from monoscope.features import FeatureBundle


@pytest.fixture
def bundle(demo: Path) -> FeatureBundle:
    return FeatureBundle.open(demo / "features.mono")


@pytest.fixture
def table(visit: Callable[..., Any]) -> Page:
    return visit("/d/demo")


def test_the_table_is_sorted_by_a_click_and_keeps_it_in_the_address(table: Page, bundle: FeatureBundle) -> None:
    table.get_by_role("columnheader", name="Max", exact=True).get_by_role("button").click()
    settle(table)
    order = np.argsort(-bundle.column("max_act"), kind="stable")
    assert [number_of(row) for row in rows(table)[:10]] == order[:10].tolist()
    assert table.get_by_role("columnheader", name="Max", exact=True).get_attribute("aria-sort") == "descending"
    table.reload()
    settle(table)
    assert number_of(rows(table)[0]) == order[0]
    table.get_by_role("columnheader", name="Max", exact=True).get_by_role("button").click()
    settle(table)
    assert number_of(rows(table)[0]) == np.argsort(bundle.column("max_act"), kind="stable")[0]
    table.go_back()
    settle(table)
    assert number_of(rows(table)[0]) == order[0]


def test_a_filter_is_a_chip_and_counts_what_it_leaves(table: Page, bundle: FeatureBundle) -> None:
    table.get_by_role("button", name="Add a filter").click()
    form = table.get_by_role("dialog", name="Add a filter")
    form.get_by_label("Column").select_option(label="Firing rate")
    form.get_by_label("Condition").select_option(label="<")
    form.get_by_label("Value").fill("1%")
    form.get_by_role("button", name="Add filter").click()
    settle(table)
    expected = int((bundle.column("density") < 0.01).sum())
    expect(table.get_by_role("status").filter(has_text="of")).to_contain_text(f"{expected:,} of {len(bundle):,}")
    assert parse_qs(urlsplit(table.url).query)["f"] == ["density<0.01"]
    table.get_by_role("button", name="Remove filter: Firing rate < 1%").click()
    settle(table)
    assert table.get_by_role("grid").get_attribute("aria-rowcount") == str(len(bundle) + 1)


def test_a_value_that_is_none_is_asked_for_again(table: Page) -> None:
    table.get_by_role("button", name="Add a filter").click()
    form = table.get_by_role("dialog", name="Add a filter")
    form.get_by_label("Value").fill("many")
    form.get_by_role("button", name="Add filter").click()
    expect(form.get_by_role("alert")).to_contain_text("number")


def test_a_filter_by_token_asks_for_the_token_itself(visit: Callable[..., Any], bundle: FeatureBundle) -> None:
    token = bundle.feature(3).promoted[0].text
    page = visit("/d/demo")
    page.get_by_role("button", name="Add a filter").click()
    form = page.get_by_role("dialog", name="Add a filter")
    form.get_by_label("Column").select_option(label="Promotes token")
    form.get_by_label("Value").fill(token)
    form.get_by_role("button", name="Add filter").click()
    settle(page)
    wanted = [f for f in range(len(bundle)) if token in [t.text for t in bundle.feature(f).promoted]]
    assert page.get_by_role("grid").get_attribute("aria-rowcount") == str(len(wanted) + 1)
    assert {number_of(row) for row in rows(page)} <= set(wanted)


def test_brushing_the_firing_rates_filters_by_them(table: Page) -> None:
    box = table.locator(".plot").first.bounding_box()
    assert box is not None
    table.mouse.move(box["x"] + 0.3 * box["width"], box["y"] + 20)
    table.mouse.down()
    table.mouse.move(box["x"] + 0.6 * box["width"], box["y"] + 20, steps=4)
    table.mouse.up()
    settle(table)
    conditions = parse_qs(urlsplit(table.url).query)["f"]
    assert [line[:9] for line in conditions] == ["density>=", "density<="]
    table.get_by_role("slider", name="Smallest value of Firing rate").press("ArrowRight")
    settle(table)
    assert parse_qs(urlsplit(table.url).query)["f"][1] == conditions[1]
    assert parse_qs(urlsplit(table.url).query)["f"][0] != conditions[0]


def test_nothing_that_fits_is_said_and_undone(visit: Callable[..., Any], bundle: FeatureBundle) -> None:
    page = visit("/d/demo?f=density%3E0.999")
    expect(page.get_by_text("No feature fits these filters")).to_be_visible()
    page.get_by_role("button", name="Clear the filters").click()
    settle(page)
    assert page.get_by_role("grid").get_attribute("aria-rowcount") == str(len(bundle) + 1)


def test_columns_are_chosen(table: Page) -> None:
    table.get_by_role("button", name="Columns").click()
    table.get_by_role("checkbox", name="Spread").check()
    table.get_by_role("checkbox", name="Max", exact=True).uncheck()
    table.keyboard.press("Escape")
    settle(table)
    expect(table.get_by_role("columnheader", name="Spread")).to_be_visible()
    expect(table.get_by_role("columnheader", name="Max", exact=True)).to_have_count(0)
    assert "std_act" in table.url


def test_the_rows_shown_are_downloaded(visit: Callable[..., Any], bundle: FeatureBundle, tmp_path: Path) -> None:
    page = visit("/d/demo?sort=-density&f=density%3C0.01")
    page.get_by_role("button", name="Export").click()
    with page.expect_download() as download:
        page.get_by_role("button", name="CSV").click()
    download.value.save_as(tmp_path / "features.csv")
    with (tmp_path / "features.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    density = bundle.column("density")
    assert len(table) == (density < 0.01).sum()
    values = [float(row["density"]) for row in table]
    assert values == sorted(values, reverse=True)


def test_the_table_is_walked_by_keyboard(table: Page) -> None:
    grid = table.get_by_role("grid")
    grid.focus()
    for _ in range(40):
        table.keyboard.press("ArrowDown")
    assert grid.get_attribute("aria-activedescendant") == "row-40"
    expect(table.locator("#row-40")).to_be_in_viewport()
    table.keyboard.press("End")
    settle(table)
    expect(table.locator(f"#row-{int(grid.get_attribute('aria-rowcount') or 0) - 2}")).to_be_in_viewport()
    table.keyboard.press("Home")
    table.keyboard.press("j")
    table.keyboard.press("Enter")
    expect(table.get_by_role("heading", name="Feature 1", exact=True)).to_be_visible()


def test_a_random_feature_is_one_of_those_shown(visit: Callable[..., Any], bundle: FeatureBundle) -> None:
    most = float(np.quantile(bundle.column("density"), 0.2))
    page = visit(f"/d/demo?f=density%3C{most:.6f}")
    page.get_by_role("button", name="Random feature").click()
    page.wait_for_url("**/f/*")
    shown = int(urlsplit(page.url).path.rsplit("/", 1)[1])
    assert bundle.column("density")[shown] < most
    assert "density" in page.url


def test_a_dictionary_that_is_not_there_is_a_clear_error(visit: Callable[..., Any], watch: Any) -> None:
    watch.allow("status of 404")
    page = visit("/d/nothing-like-this")
    expect(page.get_by_role("alert")).to_contain_text("nothing-like-this")


def test_python_of_the_overview_reads_the_bundle(visit: Callable[..., Any], demo: Path) -> None:
    page = visit("/d/demo")
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.get_by_role("button", name="Overview: more").click()
    page.get_by_role("button", name="Copy as Python").click()
    expect(page.get_by_text("Copied Python")).to_be_visible()
    made: dict[str, Any] = {}
    exec(page.evaluate("navigator.clipboard.readText()"), made)
    assert made["bundle"].path == demo / "features.mono"


def test_on_a_narrow_screen_columns_are_scrolled_to_under_their_heads(visit: Callable[..., Any]) -> None:
    page = visit("/d/demo", size=(420, 860))
    grid = page.get_by_role("grid")
    heads, cells = grid.get_by_role("columnheader"), rows(page)[0].get_by_role("gridcell")

    def places(found: Any) -> list[tuple[float, float]]:
        return [(box["x"], box["width"]) for one in found.all() if (box := one.bounding_box())]

    assert len(places(heads)) > 4
    assert np.allclose(places(cells), places(heads), atol=0.5)
    cells.last.scroll_into_view_if_needed()
    assert np.allclose(places(cells), places(heads), atol=0.5)
    inside = grid.bounding_box()
    for last in (heads.last, cells.last):
        box = last.bounding_box()
        assert inside["x"] < box["x"] < box["x"] + box["width"] <= inside["x"] + inside["width"]
    is_seen = """node => {
        const { x, top, bottom } = node.getBoundingClientRect();
        return node.parentElement.contains(document.elementFromPoint(x + 4, (top + bottom) / 2));
    }"""
    assert cells.last.evaluate(is_seen), "rows are cut off where the first columns end"
