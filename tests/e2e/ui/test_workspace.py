"""What people add: every change is kept, shown where it belongs, and lost to nobody."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import APIResponse, Page, Route, expect
from ui_pages import settle, wait_for

HOSTILE = '<img src=x onerror="document.title=1"><script>document.title=2</script> \u202e {{7*7}}'


@pytest.fixture
def server(start: Callable[..., Any], demo: Path) -> Iterator[Any]:
    """A server of its own, so that what tests write stays apart."""
    return start(demo)


def label(page: Page, text: str) -> None:
    page.keyboard.press("e")
    page.get_by_role("textbox", name="Label").fill(text)
    page.keyboard.press("Enter")


def test_a_label_is_written_changed_and_removed(visit: Callable[..., Any]) -> None:
    page = visit("/d/demo/f/5")
    label(page, "opening of a call")
    shown = page.get_by_role("region", name="Label and explanations")
    expect(shown).to_contain_text("opening of a call")
    expect(shown).to_contain_text("by tester")
    page.reload()
    settle(page)
    expect(shown).to_contain_text("opening of a call")
    page.get_by_role("button", name="Edit label").click()
    page.get_by_role("textbox", name="Label").fill("a call opens")
    page.get_by_role("button", name="Save").click()
    expect(shown).to_contain_text("a call opens")
    page.get_by_role("navigation", name="Breadcrumb").get_by_role("link").last.click()
    settle(page)
    expect(page.get_by_role("grid")).to_contain_text("a call opens")
    page.go_back()
    page.get_by_role("button", name="Edit label").click()
    page.get_by_role("button", name="Remove").click()
    expect(shown).to_contain_text("Not labeled")


def test_z_takes_back_one_change_after_another_and_shift_z_makes_them_again(visit: Callable[..., Any]) -> None:
    page = visit("/d/demo/f/9")
    shown = page.get_by_role("region", name="Label and explanations")
    label(page, "first words")
    expect(shown.locator(".label .text")).to_have_text("first words")
    label(page, "other words")
    expect(shown.locator(".label .text")).to_have_text("other words")
    page.keyboard.press("b")
    expect(page.get_by_role("button", name="Bookmarked")).to_be_visible()
    page.get_by_role("button", name="Write a note").click()
    page.get_by_role("textbox", name="Note").fill("something to keep")
    page.get_by_role("button", name="Save note").click()
    expect(page.get_by_text("something to keep")).to_be_visible()
    page.locator("h1").click()

    page.keyboard.press("z")
    expect(page.get_by_text("something to keep")).to_have_count(0)
    page.keyboard.press("z")
    expect(page.get_by_role("button", name="Bookmark", exact=True)).to_be_visible()
    page.keyboard.press("z")
    expect(shown.locator(".label .text")).to_have_text("first words")
    page.keyboard.press("z")
    expect(shown).to_contain_text("Not labeled")
    page.keyboard.press("z")
    expect(page.get_by_text("Nothing was changed yet")).to_be_visible()

    for _ in range(4):
        page.keyboard.press("Shift+Z")
    expect(page.get_by_text("something to keep")).to_be_visible()
    expect(page.get_by_role("button", name="Bookmarked")).to_be_visible()
    expect(shown.locator(".label .text")).to_have_text("other words")
    page.keyboard.press("Shift+Z")
    expect(page.get_by_text("Nothing was taken back")).to_be_visible()
    page.keyboard.press("z")
    expect(page.get_by_text("something to keep")).to_have_count(0)
    label(page, "third words")
    expect(shown.locator(".label .text")).to_have_text("third words")
    page.keyboard.press("Shift+Z")
    expect(page.get_by_text("Nothing was taken back").last).to_be_visible()
    expect(page.get_by_text("something to keep")).to_have_count(0)


def test_an_answer_from_before_a_change_is_not_shown_after_it(visit: Callable[..., Any]) -> None:
    page = visit("/d/demo/f/12")
    held: list[tuple[Route, APIResponse]] = []

    def hold(route: Route) -> None:
        held.append((route, route.fetch()))

    address = "**/dictionaries/demo/features/12"
    page.route(address, hold, times=1)
    label(page, "read before the bookmark")
    wait_for(page, lambda: held)
    page.keyboard.press("b")
    expect(page.get_by_role("button", name="Bookmarked")).to_be_visible()
    (route, response) = held[0]
    route.fulfill(response=response)
    page.keyboard.press("j")
    expect(page.get_by_role("heading", level=1)).to_have_text("Feature 13")
    page.keyboard.press("k")
    expect(page.get_by_role("heading", level=1)).to_have_text("Feature 12")
    expect(page.get_by_role("button", name="Bookmarked")).to_be_visible()


def test_what_another_changed_since_is_not_made_again_over_it(visit: Callable[..., Any], watch: Any) -> None:
    watch.allow("status of 412")
    page = visit("/d/demo/f/10")
    shown = page.get_by_role("region", name="Label and explanations").locator(".label .text")
    for words in ("first words", "other words"):
        label(page, words)
        expect(shown).to_have_text(words)
    page.keyboard.press("z")
    expect(shown).to_have_text("first words")
    another = visit("/d/demo/f/10")
    label(another, "what another says")
    expect(another.locator(".label .text")).to_have_text("what another says")
    page.keyboard.press("Shift+Z")
    expect(page.get_by_text("was changed by tester")).to_be_visible()
    expect(shown).to_have_text("what another says")


def test_of_two_who_edit_an_explanation_neither_is_overwritten_unseen(visit: Callable[..., Any], watch: Any) -> None:
    watch.allow("status of 412")

    def write(page: Page, words: str) -> None:
        page.get_by_role("textbox", name="Explanation").fill(words)
        page.get_by_role("button", name="Save", exact=True).click()

    one = visit("/d/demo/f/11")
    one.get_by_role("button", name="Add an explanation").click()
    one.get_by_role("textbox", name="Explanation").fill("as it was")
    one.get_by_role("button", name="Add explanation").click()
    expect(one.locator(".explanations")).to_contain_text("as it was")
    two = visit("/d/demo/f/11")
    for page in (one, two):
        page.get_by_role("button", name="edit", exact=True).click()
    write(one, "what one says")
    expect(one.locator(".explanations")).to_contain_text("what one says")
    write(two, "what two says")
    conflict = two.get_by_role("alert")
    expect(conflict).to_contain_text("what one says")
    conflict.get_by_role("button", name="Save mine over it").click()
    expect(two.locator(".explanations")).to_contain_text("what two says")
    two.keyboard.press("z")
    expect(two.locator(".explanations")).to_contain_text("what one says")


def test_a_filter_that_another_saved_over_is_shown_and_lost_to_nobody(visit: Callable[..., Any], watch: Any) -> None:
    watch.allow("status of 412")

    def save(page: Page, button: str) -> None:
        page.get_by_role("button", name="Saved filters").click()
        page.get_by_label("Name of the filter").fill("mine")
        page.get_by_role("button", name=button, exact=True).click()

    one = visit("/d/demo?f=density%3C0.01")
    save(one, "Save")
    expect(one.get_by_text("Saved “mine”")).to_be_visible()
    two = visit("/d/demo?f=density%3C0.02&sort=-max_act")
    three = visit("/d/demo")
    one.goto(one.url.split("?")[0] + "?f=density%3C0.03")
    settle(one)
    save(one, "Replace")
    expect(one.get_by_text("Replaced “mine”")).to_be_visible()

    save(two, "Replace")
    conflict = two.get_by_role("alert")
    expect(conflict).to_contain_text("Firing rate < 3%")
    conflict.get_by_role("button", name="Save mine over it").click()
    expect(two.get_by_text("Replaced “mine”")).to_be_visible()
    expect(conflict).to_have_count(0)

    three.get_by_role("button", name="Saved filters").click()
    three.get_by_role("button", name="Delete filter mine").click()
    conflict = three.get_by_role("alert")
    expect(conflict).to_contain_text("Firing rate < 2%, by Max")
    conflict.get_by_role("button", name="Take that").click()
    settle(three)
    assert "density%3C0.02" in three.url
    assert "sort=-max_act" in three.url

    two.keyboard.press("Escape")
    two.keyboard.press("z")
    expect(two.get_by_text("Took back replacing the filter “mine”")).to_be_visible()
    three.reload()
    settle(three)
    three.get_by_role("button", name="Saved filters").click()
    three.get_by_role("button", name="mine", exact=True).click()
    settle(three)
    assert "density%3C0.03" in three.url


def test_of_two_who_label_at_once_neither_is_overwritten_unseen(visit: Callable[..., Any], watch: Any) -> None:
    watch.allow("status of 4")
    one = visit("/d/demo/f/6")
    label(one, "as it was")
    expect(one.get_by_text("by tester")).to_be_visible()
    two = visit("/d/demo/f/6")
    two.keyboard.press("e")
    label(one, "what one says")
    expect(one.locator(".label .text")).to_have_text("what one says")

    two.get_by_role("textbox", name="Label").fill("what two says")
    two.keyboard.press("Enter")
    conflict = two.get_by_role("alert")
    expect(conflict).to_contain_text("what one says")
    expect(two.get_by_role("textbox", name="Label")).to_have_value("what two says")
    conflict.get_by_role("button", name="Save mine over it").click()
    expect(two.get_by_role("region", name="Label and explanations")).to_contain_text("what two says")


def test_a_label_is_found_by_its_words(visit: Callable[..., Any]) -> None:
    page = visit("/d/demo/f/4")
    label(page, "keyword of a loop")
    expect(page.locator(".label .text")).to_have_text("keyword of a loop")
    page.goto(page.url.split("/d/")[0])
    settle(page)
    page.keyboard.press("Control+k")
    page.keyboard.type("loop keyword")
    found = page.get_by_role("option").filter(has_text="keyword of a loop")
    expect(found).to_contain_text("label", timeout=60_000)
    found.click()
    expect(page.get_by_role("heading", name="Feature 4", exact=True)).to_be_visible()


def test_escape_leaves_a_label_as_it_was(visit: Callable[..., Any]) -> None:
    page = visit("/d/demo/f/7")
    page.keyboard.press("e")
    page.keyboard.type("not meant")
    page.keyboard.press("Escape")
    expect(page.get_by_role("region", name="Label and explanations")).to_contain_text("Not labeled")
    page.keyboard.press("j")
    expect(page.get_by_role("heading", name="Feature 8", exact=True)).to_be_visible()


def test_an_explanation_is_added_becomes_the_label_and_goes(visit: Callable[..., Any]) -> None:
    page = visit("/d/demo/f/9")
    page.get_by_role("button", name="Add an explanation").click()
    page.get_by_role("textbox", name="Explanation").fill("fires inside long names")
    page.get_by_role("dialog").get_by_role("button", name="Add explanation").click()
    said = page.get_by_role("region", name="Label and explanations").get_by_role("listitem")
    expect(said).to_contain_text("fires inside long names")
    said.get_by_role("button", name="use as label").click()
    expect(said.get_by_role("button", name="is the label")).to_be_disabled()
    expect(page.locator(".label .text")).to_have_text("fires inside long names")
    said.get_by_role("button", name="remove").click()
    expect(said).to_have_count(0)


def test_tags_are_put_on_and_taken_off(visit: Callable[..., Any]) -> None:
    page = visit("/d/demo/f/11")
    for name in ("syntax", "to check"):
        page.get_by_role("button", name="Add a tag").click()
        page.get_by_role("textbox", name="Name of the tag").fill(name)
        page.keyboard.press("Enter")
        expect(page.get_by_role("button", name=f"Remove tag {name}")).to_be_visible()
    page.get_by_role("button", name="Remove tag syntax").click()
    expect(page.get_by_role("button", name="Remove tag syntax")).to_have_count(0)
    page.get_by_role("button", name="Undo").click()
    expect(page.get_by_role("button", name="Remove tag syntax")).to_be_visible()
    page.goto(page.url.split("/f/")[0] + "?f=tags%3Dsyntax")
    settle(page)
    assert page.get_by_role("grid").get_attribute("aria-rowcount") == "2"


def test_a_bookmark_is_kept(visit: Callable[..., Any]) -> None:
    page = visit("/d/demo/f/12")
    page.keyboard.press("b")
    expect(page.get_by_role("button", name="Bookmarked")).to_have_attribute("aria-pressed", "true")
    page.reload()
    settle(page)
    page.get_by_role("button", name="Bookmarked").click()
    expect(page.get_by_role("button", name="Bookmark", exact=True)).to_have_attribute("aria-pressed", "false")


def test_a_feature_is_put_on_a_new_list_and_gets_a_note(visit: Callable[..., Any]) -> None:
    page = visit("/d/demo/f/13")
    used = page.get_by_role("region", name="Lists and notes")
    used.get_by_role("button", name="Add to a list").click()
    page.get_by_role("textbox", name="Name of a new list").fill("Brackets")
    page.get_by_role("button", name="Create").click()
    expect(used).to_contain_text("Brackets")
    page.keyboard.press("j")
    settle(page)
    used.get_by_role("button", name="Add to a list").click()
    page.get_by_role("dialog").get_by_role("button", name="Brackets").click()
    expect(used.locator(".chip")).to_have_text("Brackets")
    used.get_by_role("button", name="Write a note").click()
    page.get_by_role("textbox", name="Note").fill("compare with 13")
    page.get_by_role("button", name="Save note").click()
    expect(used.get_by_role("article")).to_contain_text("compare with 13")


def test_a_filter_is_saved_picked_and_deleted(visit: Callable[..., Any]) -> None:
    page = visit("/d/demo?f=density%3C0.01&sort=-max_act")
    saved = page.get_by_role("button", name="Saved filters")
    saved.click()
    page.get_by_role("textbox", name="Name of the filter").fill("rare and strong")
    page.get_by_role("dialog").get_by_role("button", name="Save").click()
    expect(page.get_by_role("dialog").get_by_role("button", name="rare and strong", exact=True)).to_be_visible()
    page.goto(page.url.split("?")[0])
    settle(page)
    saved.click()
    page.get_by_role("dialog").get_by_role("button", name="rare and strong", exact=True).click()
    settle(page)
    assert "density%3C0.01" in page.url
    assert "sort=-max_act" in page.url
    saved.click()
    page.get_by_role("button", name="Delete filter rare and strong").click()
    expect(page.get_by_text("No filter is saved yet")).to_be_visible()


def test_markup_in_labels_notes_and_names_stays_text(visit: Callable[..., Any]) -> None:
    page = visit("/d/demo/f/15")
    label(page, HOSTILE)
    expect(page.locator(".label .text")).to_have_text(HOSTILE)
    used = page.get_by_role("region", name="Lists and notes")
    used.get_by_role("button", name="Write a note").click()
    page.get_by_role("textbox", name="Note").fill(HOSTILE)
    page.get_by_role("button", name="Save note").click()
    expect(used.get_by_role("article")).to_contain_text("<script>")
    page.goto(page.url.split("/f/")[0])
    settle(page)
    expect(page.get_by_role("grid")).to_contain_text("<img src=x")
    assert page.locator("main img, main script").count() == 0
    assert "monoscope" in page.title()


def test_where_nothing_may_be_changed_nothing_offers_to(
    visit: Callable[..., Any], start: Callable[..., Any], demo: Path
) -> None:
    served = start(demo, settings=("server.read_only=true",))
    page = visit("/d/demo/f/3", at=served)
    for name in ("Write a label", "Add a tag", "Add an explanation", "Add to a list", "Write a note"):
        expect(page.get_by_role("button", name=name)).to_have_count(0)
    expect(page.get_by_role("button", name="Bookmark")).to_be_disabled()
    page.keyboard.press("e")
    expect(page.get_by_role("textbox", name="Label")).to_have_count(0)
