"""Lists and notes: made, ordered, written on, and kept from overwriting each other."""

from __future__ import annotations

import csv
import io
import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Page, Route, expect
from ui_pages import settle, wait_for

HOSTILE = "<script>document.title=2</script>"


@pytest.fixture
def server(start: Callable[..., Any], demo: Path) -> Iterator[Any]:
    """A server of its own, so that what tests write stays apart."""
    return start(demo)


def pin(page: Page, *features: int) -> None:
    for feature in features:
        page.goto(page.url.split("/d/")[0].rstrip("/") + f"/d/demo/f/{feature}")
        settle(page)
        page.keyboard.press("p")


def order(page: Page) -> list[str]:
    return [item.inner_text() for item in page.locator("ol.items > li h3 .index").all()]


@pytest.fixture
def listed(visit: Callable[..., Any]) -> Page:
    """A page of a list with features 3, 5 and 8."""
    page = visit("/d/demo/f/3")
    pin(page, 3, 5, 8)
    page.get_by_role("link", name="Make a list").click()
    settle(page)
    page.get_by_label("Name of a new list").fill("first ones")
    page.get_by_role("button", name="Create with 3 pinned features").click()
    expect(page.get_by_role("heading", name="first ones")).to_be_visible()
    settle(page)
    expect(page.locator("ol.items h3")).to_have_count(3)
    return page


def test_pinned_features_become_a_list_that_is_ordered_by_keys(listed: Page) -> None:
    assert order(listed) == ["3", "5", "8"]
    listed.get_by_role("button", name="Move feature 8").focus()
    listed.keyboard.press("ArrowUp")
    listed.keyboard.press("ArrowUp")
    expect(listed.locator("ol.items > li h3 .index").first).to_have_text("8")
    expect(listed.get_by_text("Feature 8 is now 1 of 3")).to_be_attached()
    settle(listed)
    listed.reload()
    settle(listed)
    expect(listed.locator("ol.items h3")).to_have_count(3)
    assert order(listed) == ["8", "3", "5"]


def kept(server: Any, page: Page) -> list[int]:
    """The features of the list that a page shows, as the server has them."""
    answer = httpx.get(
        f"{server.address}/api/v1{page.url.removeprefix(server.address)}/items",
        headers={"Authorization": f"Bearer {server.token}"},
    )
    return [item["feature"] for item in answer.json()["items"]]


def test_moves_are_sent_in_turn_and_when_the_page_goes_away(listed: Page, server: Any) -> None:
    moves: list[Route] = []
    listed.route("**/move", lambda route: moves.append(route))
    handle = listed.get_by_role("button", name="Move feature 8")
    handle.focus()
    for leaving, key, after in ((False, "ArrowUp", [8, 3, 5]), (True, "ArrowDown", [3, 5, 8])):
        moves.clear()
        for _ in range(2):
            listed.keyboard.press(key)
            expect(handle).to_be_focused()
        expect(listed.locator("ol.items[aria-busy=true]")).to_be_attached()
        wait_for(listed, lambda: moves)
        listed.wait_for_timeout(100)
        assert len(moves) == 1
        if leaving:
            listed.evaluate("dispatchEvent(new PageTransitionEvent('pagehide'))")
            wait_for(listed, lambda: len(moves) == 2)
        with listed.expect_response("**/move"):
            moves[0].continue_()
        wait_for(listed, lambda: len(moves) == 2)
        assert (moves[1].request.headers["if-match"] == '"*"') is leaving
        moves[1].continue_()
        settle(listed)
        assert kept(server, listed) == after

    listed.unroute("**/move")
    for _ in range(2):
        listed.keyboard.press("ArrowUp")
    listed.reload()
    wait_for(listed, lambda: kept(server, listed) == [8, 3, 5])


def test_of_two_moves_of_one_item_the_later_is_told(
    listed: Page, visit: Callable[..., Any], server: Any, watch: Any
) -> None:
    watch.allow("status of 412")
    other = visit(listed.url.removeprefix(server.address), at=server)
    expect(other.locator("ol.items h3")).to_have_count(3)
    for page, feature in ((listed, 8), (other, 8), (other, 3)):
        page.get_by_role("button", name=f"Move feature {feature}").focus()
        page.keyboard.press("ArrowUp" if feature == 8 else "ArrowDown")
        settle(page)
    expect(other.get_by_text("this list item was changed by tester")).to_be_visible()
    expect(other.locator("ol.items > li h3 .index").first).to_have_text("8")
    assert order(other) == ["8", "3", "5"] == [str(one) for one in kept(server, other)]


def test_a_feature_is_dragged_to_another_place(listed: Page) -> None:
    # Beside the card: what one jump of the pointer does to tokens under it would end the drag of a driven browser.
    third = listed.locator("ol.items > li").nth(2)
    listed.get_by_role("button", name="Move feature 3").drag_to(third, target_position={"x": 16, "y": 120})
    expect(listed.locator("ol.items > li h3 .index").nth(1)).to_have_text("3")
    settle(listed)
    listed.reload()
    settle(listed)
    expect(listed.locator("ol.items > li h3 .index").nth(1)).to_have_text("3")


def test_notes_on_items_removal_and_its_undoing(listed: Page) -> None:
    note = listed.get_by_label("Note on feature 5")
    note.fill("closing ones")
    note.press("Enter")
    note.blur()
    settle(listed)
    listed.reload()
    settle(listed)
    expect(listed.get_by_label("Note on feature 5")).to_have_value("closing ones")
    listed.get_by_role("button", name="Take feature 5 off the list").click()
    expect(listed.locator("ol.items > li")).to_have_count(2)
    listed.get_by_role("button", name="Undo").click()
    expect(listed.locator("ol.items h3")).to_have_count(3)
    assert order(listed) == ["3", "5", "8"]
    expect(listed.get_by_label("Note on feature 5")).to_have_value("closing ones")
    listed.get_by_role("button", name="Move feature 8").focus()
    listed.keyboard.press("ArrowUp")
    expect(listed.get_by_text("Feature 8 is now 2 of 3")).to_be_attached()
    settle(listed)
    listed.keyboard.press("z")
    expect(listed.get_by_text("Took back moving feature 8")).to_be_visible()
    expect(listed.locator("ol.items > li h3 .index").nth(2)).to_have_text("8")


def test_of_two_notes_on_one_item_neither_is_overwritten_unseen(
    listed: Page, visit: Callable[..., Any], server: Any, watch: Any
) -> None:
    watch.allow("status of 412")
    other = visit(listed.url.removeprefix(server.address), at=server)
    expect(other.locator("ol.items h3")).to_have_count(3)
    for page, words in ((listed, "what one says"), (other, "what two says")):
        note = page.get_by_label("Note on feature 5")
        note.fill(words)
        note.blur()
        settle(page)
    conflict = other.get_by_role("alert")
    expect(conflict).to_contain_text("what one says")
    expect(other.get_by_label("Note on feature 5")).to_have_value("what two says")
    conflict.get_by_role("button", name="Save mine over it").click()
    expect(conflict).to_have_count(0)
    listed.reload()
    settle(listed)
    expect(listed.get_by_label("Note on feature 5")).to_have_value("what two says")


def test_of_two_names_of_one_list_neither_is_overwritten_unseen(
    listed: Page, visit: Callable[..., Any], server: Any, watch: Any
) -> None:
    watch.allow("status of 412")
    other = visit(listed.url.removeprefix(server.address), at=server)
    for page, name in ((other, "by two"), (listed, "by one")):
        page.get_by_role("button", name="Rename").click()
        page.get_by_label("Name", exact=True).fill(name)
    for page in (listed, other):
        page.get_by_role("button", name="Save").click()
    expect(listed.get_by_role("heading", name="by one")).to_be_visible()
    conflict = other.get_by_role("alert")
    expect(conflict).to_contain_text("by one")
    conflict.get_by_role("button", name="Save mine over it").click()
    expect(other.get_by_role("heading", name="by two")).to_be_visible()
    other.keyboard.press("z")
    expect(other.get_by_role("heading", name="by one")).to_be_visible()
    other.keyboard.press("Shift+Z")
    expect(other.get_by_role("heading", name="by two")).to_be_visible()


def test_a_list_is_renamed_described_saved_and_deleted(listed: Page) -> None:
    listed.get_by_role("button", name="Rename").click()
    listed.get_by_label("Name", exact=True).fill("=HYPERLINK(1)")
    listed.get_by_label("Description").fill(HOSTILE)
    listed.get_by_role("button", name="Save").click()
    expect(listed.get_by_role("heading", name="=HYPERLINK(1)")).to_be_visible()
    expect(listed.get_by_text(HOSTILE)).to_be_visible()
    note = listed.get_by_label("Note on feature 3")
    note.fill("=1+1")
    note.blur()
    settle(listed)
    with listed.expect_download() as download:
        listed.get_by_role("button", name="JSON").click()
    kept = json.loads(Path(download.value.path()).read_text())
    assert [row["feature"] for row in kept["features"]] == [3, 5, 8]
    with listed.expect_download() as download:
        listed.get_by_role("button", name="CSV").click()
    rows = list(csv.reader(io.StringIO(Path(download.value.path()).read_text())))
    assert rows[1] == ["demo", "3", "'=1+1"]
    listed.get_by_role("button", name="Delete", exact=True).first.click()
    expect(listed.get_by_text("No lists yet")).to_be_visible()


def test_a_list_is_saved_as_a_picture_of_all_its_features(listed: Page, tmp_path: Path) -> None:
    listed.set_viewport_size({"width": 1100, "height": 300})
    listed.reload()
    settle(listed)
    menu = listed.get_by_role("button", name="List: more")
    menu.click()
    with listed.expect_download() as download:
        listed.get_by_role("button", name="Save as SVG").click()
    download.value.save_as(tmp_path / "list.svg")
    drawing = ElementTree.parse(tmp_path / "list.svg").getroot()
    texts = ["".join(one.itertext()) for one in drawing.iter("{http://www.w3.org/2000/svg}text")]
    assert {"3", "5", "8"} <= {text.strip() for text in texts}
    height = float(drawing.get("height", "0"))
    assert height > 300
    shown = listed.locator("ol.items .strip .peak").all_inner_texts()
    assert len(shown) >= 3
    assert all(peak.strip() in "".join(texts) for peak in shown)


def test_a_list_is_saved_as_a_page_that_stands_alone(listed: Page, browser: Browser, tmp_path: Path) -> None:
    note = listed.get_by_label("Note on feature 5")
    note.fill(HOSTILE)
    note.blur()
    settle(listed)
    with listed.expect_download() as download:
        listed.get_by_role("button", name="Page", exact=True).click()
    assert download.value.suggested_filename == "first-ones.html"
    download.value.save_as(tmp_path / "list.html")
    context = browser.new_context(offline=True)
    page, said = context.new_page(), []
    page.on("console", lambda message: said.append(message.text))
    page.goto((tmp_path / "list.html").as_uri())
    expect(page.get_by_role("heading", level=1)).to_have_text("first ones")
    assert [card.get_attribute("id") for card in page.locator("article.card").all()] == ["f3", "f5", "f8"]
    expect(page.locator("#f5 .note")).to_have_text(HOSTILE)
    assert page.locator("#f3 .note").count() == 0
    assert page.locator("#f3 .contexts li").count() > 3
    assert not said
    context.close()


def test_notes_are_drawn_as_text_edited_and_never_lost(listed: Page, visit: Callable[..., Any], watch: Any) -> None:
    watch.allow("status of 412")
    listed.get_by_label("New note").fill(
        f"# Why\n\n**bold** and `code` {HOSTILE}\n\n- [out](https://example.org)\n- [no](javascript:alert(1))"
    )
    listed.get_by_role("button", name="Add note").click()
    note = listed.locator("article").filter(has_text="Why")
    expect(note.get_by_role("heading", name="Why")).to_be_visible()
    expect(note.locator("strong")).to_have_text("bold")
    expect(note).to_contain_text(HOSTILE)
    expect(note.get_by_role("link")).to_have_count(1)
    assert note.get_by_role("link").get_attribute("rel") == "noopener noreferrer"

    other = visit("/lists")
    second = other.locator("article").first
    second.get_by_role("button", name="Edit").click()
    second.get_by_label("Note").fill("what the other says")
    note = listed.get_by_role("region", name="Notes").locator("article").first
    note.get_by_role("button", name="Edit").click()
    note.get_by_label("Note", exact=True).fill("what one says")
    note.get_by_role("button", name="Save").click()
    expect(listed.get_by_text("what one says")).to_be_visible()
    second.get_by_role("button", name="Save").click()
    expect(second.get_by_role("alert")).to_contain_text("what one says")
    expect(second.get_by_label("Note")).to_have_value("what the other says")
    second.get_by_role("button", name="Save mine over it").click()
    expect(other.get_by_text("what the other says")).to_be_visible()
    other.get_by_role("button", name="Delete").click()
    expect(other.get_by_text("No notes yet")).to_be_visible()


def test_a_list_that_is_not_there(visit: Callable[..., Any], watch: Any) -> None:
    watch.allow("status of 404")
    page = visit("/lists/01M8C92577R2GDV859VP3C7GR3")
    expect(page.get_by_role("alert").first).to_be_visible()
