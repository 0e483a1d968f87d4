"""The frame: command bar, keys, themes, the tray, and who is let in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from playwright.sync_api import Browser, expect
from ui_pages import settle


def test_the_command_bar_jumps_by_number_and_by_name(visit: Callable[..., Any]) -> None:
    page = visit("/")
    page.keyboard.press("Control+k")
    box = page.get_by_role("dialog").get_by_role("combobox")
    expect(box).to_be_focused()
    page.keyboard.type("demo/17")
    expect(page.get_by_role("option").first).to_contain_text("Feature 17")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Feature 17", exact=True)).to_be_visible()
    page.keyboard.press("/")
    page.keyboard.type("resid_post")
    expect(page.get_by_role("listbox", name="Results").get_by_role("option", selected=True)).to_contain_text(
        "2.resid_post"
    )
    page.keyboard.press("Enter")
    expect(page.get_by_role("grid")).to_be_visible()
    page.keyboard.press("Control+k")
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog").get_by_role("combobox")).to_have_count(0)


def test_the_help_sheet_lists_the_keys_of_the_page(visit: Callable[..., Any]) -> None:
    page = visit("/d/demo/f/1")
    page.keyboard.press("?")
    sheet = page.get_by_role("dialog", name="Keys")
    for label in ("Next feature", "Edit label", "Bookmark", "Command bar"):
        expect(sheet.get_by_text(label, exact=True)).to_be_visible()
    page.keyboard.press("Escape")
    expect(sheet).to_have_count(0)


def test_single_letters_can_be_switched_off_and_rest_while_one_types(visit: Callable[..., Any]) -> None:
    page = visit("/d/demo/f/1")
    page.get_by_role("textbox", name="Test your own text").focus()
    page.keyboard.type("jj?")
    expect(page.get_by_role("heading", name="Feature 1", exact=True)).to_be_visible()
    page.get_by_role("heading", level=1).click()
    page.keyboard.press("?")
    page.get_by_role("checkbox", name="Single-letter keys").uncheck()
    page.keyboard.press("Escape")
    page.keyboard.press("j")
    expect(page.get_by_role("heading", name="Feature 1", exact=True)).to_be_visible()
    page.keyboard.press("Control+k")
    expect(page.get_by_role("dialog").get_by_role("combobox")).to_be_visible()


def test_the_theme_follows_the_system_until_it_is_chosen(visit: Callable[..., Any]) -> None:
    def background(page: Any) -> str:
        return page.evaluate("getComputedStyle(document.documentElement).backgroundColor")

    light, dark = background(visit("/")), background(visit("/", theme="dark"))
    assert light != dark
    page = visit("/")
    switch = page.get_by_role("button", name="Theme")
    switch.click()
    switch.click()
    assert background(page) == dark
    page.reload()
    settle(page)
    assert background(page) == dark


def test_pinned_features_wait_in_the_tray(visit: Callable[..., Any]) -> None:
    page = visit("/d/demo/f/2")
    page.keyboard.press("p")
    tray = page.get_by_role("complementary", name="Pinned features")
    expect(tray).to_contain_text("Feature 2")
    page.keyboard.press("j")
    page.get_by_role("button", name="Pin", exact=True).click()
    expect(tray.get_by_role("listitem")).to_have_count(2)
    page.reload()
    settle(page)
    tray.get_by_role("link").first.click()
    expect(page.get_by_role("heading", name="Feature 2", exact=True)).to_be_visible()
    tray.get_by_role("button", name="Unpin feature 2").click()
    expect(tray.get_by_role("listitem")).to_have_count(1)
    tray.get_by_role("button", name="Clear").click()
    expect(tray).to_have_count(0)


def test_an_address_that_is_none_says_so(visit: Callable[..., Any]) -> None:
    page = visit("/nowhere/at/all")
    expect(page.get_by_text("There is no such page")).to_be_visible()
    page.get_by_role("main").get_by_role("link", name="Home").click()
    expect(page.get_by_role("heading", name="Library")).to_be_visible()


def test_without_the_token_nothing_is_shown_and_with_it_all_is(browser: Browser, server: Any, watch: Any) -> None:
    context = browser.new_context()
    page = context.new_page()
    watch.page(page, server.address)
    watch.allow("status of 401")
    page.goto(f"{server.address}/d/demo/f/1")
    expect(page.get_by_role("heading", name="This server needs its token")).to_be_visible()
    page.get_by_label("Token").fill("not the token")
    page.get_by_role("button", name="Enter").click()
    expect(page.get_by_role("alert")).to_be_visible()
    page.get_by_label("Token").fill(server.token)
    page.get_by_role("button", name="Enter").click()
    expect(page.get_by_role("heading", name="Feature 1", exact=True)).to_be_visible()
    assert server.token not in page.url
    context.close()


def test_the_page_is_reached_by_keyboard(visit: Callable[..., Any]) -> None:
    page = visit("/d/demo")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the page")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("main")).to_be_focused()


def test_the_rail_is_a_drawer_on_narrow_screens(visit: Callable[..., Any]) -> None:
    page = visit("/d/demo", size=(420, 800))
    link = page.get_by_role("navigation", name="Pages").get_by_role("link", name="Home")
    expect(link).to_be_hidden()
    page.get_by_role("button", name="Menu").click()
    link.click()
    expect(page.get_by_role("heading", name="Library")).to_be_visible()
    expect(link).to_be_hidden()
