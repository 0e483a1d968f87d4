"""Compare: numbers and pairs of features are those the server found, as a job that can be followed and called off."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from playwright.sync_api import Page, expect
from ui_pages import settle

from monoscope.features import FeatureBundle

LONG = 120_000  # milliseconds, on a busy machine


def state(page: Page) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlsplit(page.url).query).items()}


def compare(page: Page) -> None:
    page.get_by_role("button", name="Compare", exact=True).click()
    expect(page.get_by_role("region", name="Pairs")).to_be_visible(timeout=LONG)
    settle(page)


def ask(served: Any, path: str) -> Any:
    answer = httpx.get(f"{served.address}/api/v1/{path}", headers={"Authorization": f"Bearer {served.token}"})
    return answer.raise_for_status().json()


@pytest.fixture
def page(visit: Callable[..., Any], library: Any) -> Page:
    """Two dictionaries of one layer, compared by direction."""
    page = visit("/compare?dicts=demo,small&t=0.3", at=library)
    compare(page)
    return page


def test_dictionaries_are_chosen_and_their_numbers_show_at_once(visit: Callable[..., Any], library: Any) -> None:
    page = visit("/compare", at=library)
    expect(page.get_by_role("button", name="Compare", exact=True)).to_be_disabled()
    page.get_by_role("button", name="Dictionaries").click()
    for name in ("demo", "small", "early"):
        page.get_by_role("checkbox", name=name).check()
    page.keyboard.press("Escape")
    assert state(page)["dicts"] == "demo,small,early"
    table = page.get_by_role("table", name="Numbers of the dictionaries")
    expect(table.get_by_role("row")).to_have_count(4)
    expect(table.get_by_role("row", name="demo")).to_contain_text("384")
    assert page.locator("figure .line").count() == 3
    expect(page.get_by_role("button", name="Compare", exact=True)).to_be_enabled()


def test_pairs_are_those_the_server_found(page: Page, library: Any) -> None:
    found = ask(library, f"compare/{state(page)['job']}")["pairs"][0]
    row = page.get_by_role("table", name="Pairs of dictionaries").get_by_role("row").nth(1)
    expect(row.get_by_role("cell").first).to_have_text(f"{found['n_matched']:,}")
    kinds = page.get_by_role("group", name="Which features")
    grid = page.get_by_role("grid")
    for title, kind in (("Only demo", "only_a"), ("Only small", "only_b"), ("Splits", "splits"), ("Merges", "merges")):
        kinds.get_by_role("button", name=title).click()
        settle(page)
        assert state(page)["kind"] == kind
        total = ask(library, f"compare/{state(page)['job']}/rows?kind={kind}&limit=1")["total"]
        expect(grid).to_have_attribute("aria-rowcount", str(total + 1))
    page.reload()
    settle(page)
    expect(kinds.get_by_role("button", name="Merges")).to_have_attribute("aria-pressed", "true")


def test_a_row_shows_its_features_side_by_side(page: Page, library: Any) -> None:
    rows = ask(library, f"compare/{state(page)['job']}/rows?limit=3")["rows"]
    assert len(rows) == 3, "two dictionaries of one layer share features"
    page.get_by_role("grid").get_by_role("row").nth(2).get_by_role("gridcell").nth(2).click()
    beside = page.get_by_role("region", name="Side by side")
    expect(beside.get_by_role("article")).to_have_count(2)
    expect(beside.get_by_role("article").first.locator(".index")).to_have_text(str(rows[1]["a"][0]))
    expect(beside.get_by_role("article").last.locator(".index")).to_have_text(str(rows[1]["b"][0]))
    assert state(page)["row"] == "1"
    page.keyboard.press("Escape")
    expect(beside).to_have_count(0)
    page.get_by_role("grid").focus()
    page.keyboard.press("ArrowDown")
    expect(beside).to_be_visible()
    page.get_by_role("grid").get_by_role("link").first.click()
    expect(page.get_by_role("heading", name=f"Feature {rows[0]['a'][0]}", exact=True)).to_be_visible()


def test_by_firing_and_of_three(visit: Callable[..., Any], library: Any) -> None:
    page = visit("/compare?dicts=demo,small,early", at=library)
    page.get_by_role("group", name="Compared by").get_by_role("button", name="Firing").click()
    page.get_by_role("spinbutton", name="At least").fill("0.2")
    page.get_by_role("spinbutton", name="Tokens").fill("1024")
    page.keyboard.press("Tab")
    assert (state(page)["by"], state(page)["t"], state(page)["n"]) == ("activations", "0.2", "1024")
    compare(page)
    pairs = page.get_by_role("table", name="Pairs of dictionaries").get_by_role("row")
    expect(pairs).to_have_count(4)
    pairs.nth(3).get_by_role("button").click()
    assert state(page)["pair"] == "2"
    expect(page.get_by_role("group", name="Which features")).to_contain_text("Only early")


def test_earlier_comparisons_are_found_again(page: Page) -> None:
    job = state(page)["job"]
    page.get_by_role("navigation", name="Pages").get_by_role("link", name="Compare").click()
    settle(page)
    page.get_by_role("region", name="Earlier comparisons").get_by_role("link").first.click()
    settle(page)
    assert state(page)["job"] == job
    expect(page.get_by_role("region", name="Pairs")).to_be_visible()
    expect(page.get_by_role("button", name="Compare again")).to_be_visible()


def test_a_comparison_is_called_off(visit: Callable[..., Any], library: Any) -> None:
    page = visit("/compare?dicts=demo,small&by=activations&n=1000000", at=library)
    page.get_by_role("button", name="Compare", exact=True).click()
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_text("The comparison was called off")).to_be_visible(timeout=LONG)
    settle(page)
    expect(page.get_by_role("button", name="Start it again")).to_be_visible()


def test_one_dictionary_has_nothing_to_be_compared_with(visit: Callable[..., Any]) -> None:
    page = visit("/compare")
    expect(page.get_by_text("There is nothing to compare with")).to_be_visible()


def test_without_a_model_directions_are_compared_and_firing_is_not(
    visit: Callable[..., Any], start: Callable[..., Any], family: list[Path], watch: Any
) -> None:
    watch.allow("status of 4")
    page = visit("/compare", at=start(*[run / "features.mono" for run in (family[0], family[2])]))
    page.get_by_role("button", name="Dictionaries").click()
    for box in page.get_by_role("checkbox").all():
        box.check()
    page.keyboard.press("Escape")
    page.get_by_role("group", name="Compared by").get_by_role("button", name="Firing").click()
    expect(page.get_by_text("cannot be run here")).to_be_visible()
    page.get_by_role("button", name="Compare", exact=True).click()
    expect(page.get_by_role("alert")).to_be_visible(timeout=LONG)
    page.get_by_role("group", name="Compared by").get_by_role("button", name="Directions").click()
    compare(page)


@pytest.mark.parametrize("job", ["01ARZ3NDEKTSV4RRFFQ69G5FAV", "nonsense"])
def test_a_job_that_is_not_there(visit: Callable[..., Any], library: Any, watch: Any, job: str) -> None:
    watch.allow("status of 4")
    page = visit(f"/compare?dicts=demo,small&job={job}", at=library)
    expect(page.get_by_role("table", name="Numbers of the dictionaries")).to_be_visible()
    if job != "nonsense":
        expect(page.get_by_role("alert")).to_be_visible()


def test_python_of_a_pair_finds_the_same_partners(page: Page) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.get_by_role("button", name="Pairs: more").click()
    page.get_by_role("button", name="Copy as Python").click()
    expect(page.get_by_text("Copied")).to_be_visible()
    made: dict[str, Any] = {}
    exec(page.evaluate("navigator.clipboard.readText()"), made)
    row = page.get_by_role("table", name="Pairs of dictionaries").get_by_role("row").nth(1)
    expect(row.get_by_role("cell").first).to_have_text(f"{made['pairs'].pairs.shape[1]:,}")


def test_what_features_of_a_crosscoder_write_at_each_site_stands_under_them(
    visit: Callable[..., Any], start: Callable[..., Any], crosscoders: list[Path]
) -> None:
    page = visit("/compare?dicts=cross,twin", at=start(*crosscoders))
    compare(page)
    page.get_by_role("grid").get_by_role("row").nth(1).get_by_role("gridcell").nth(2).click()
    beside = page.get_by_role("region", name="Side by side")
    expect(beside.get_by_role("article")).to_have_count(2)
    tables = beside.get_by_role("table")
    expect(tables).to_have_count(2)
    feature = int(beside.locator(".index").first.inner_text())
    norms = FeatureBundle.open(crosscoders[0] / "features.mono").feature(feature).write_norms
    assert len(norms) == 2
    for row, site, norm in zip(tables.first.get_by_role("row").all()[1:], ("1", "2"), norms, strict=True):
        expect(row.get_by_role("rowheader")).to_have_text(f"{site}.resid_post")
        assert float(row.get_by_role("cell").first.inner_text()) == pytest.approx(norm, rel=0.01)
