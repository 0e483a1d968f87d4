"""Settings: what a browser keeps, what the server says of itself, and what can be tidied up."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect
from ui_pages import settle


@pytest.fixture
def server(start: Callable[..., Any], demo: Path) -> Iterator[Any]:
    """A server of its own, so that what tests write stays apart."""
    return start(demo)


def test_a_theme_and_a_ramp_are_kept(visit: Callable[..., Any]) -> None:
    page = visit("/settings")
    page.get_by_role("group", name="Theme").get_by_role("button", name="Dark").click()
    page.get_by_role("group", name="Colors").get_by_role("button", name="Viridis").click()
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    page.reload()
    settle(page)
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    assert page.evaluate("document.documentElement.dataset.ramp") == "viridis"


def test_single_letters_can_be_switched_off(visit: Callable[..., Any]) -> None:
    page = visit("/settings")
    page.get_by_label("Single-letter keys").uncheck()
    page.get_by_role("link", name="Home").click()
    settle(page)
    page.get_by_role("heading", name="Library").click()
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_have_count(0)


def test_the_server_says_what_it_is(visit: Callable[..., Any], demo: Path) -> None:
    page = visit("/settings")
    server = page.get_by_role("region", name="Server")
    expect(server).to_contain_text(str(demo))
    expect(server).to_contain_text("tester")
    expect(server).to_contain_text("workspace-0.db")
    expect(page.get_by_role("region", name="About")).to_contain_text("@software{monoscope")


def test_bookmarks_and_filters_are_removed(visit: Callable[..., Any]) -> None:
    page = visit("/d/demo/f/7")
    page.keyboard.press("b")
    page.wait_for_load_state("networkidle")
    page.get_by_role("link", name="Settings").click()
    settle(page)
    marks = page.get_by_role("region", name="Bookmarks")
    expect(marks.get_by_role("link", name="Feature 7")).to_be_visible()
    marks.get_by_role("button", name="Remove").click()
    expect(marks).to_contain_text("None.")
