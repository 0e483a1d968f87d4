"""What tests of the interface read off its pages."""

from __future__ import annotations

from playwright.sync_api import Locator, Page


def settle(page: Page) -> None:
    """Wait until nothing is asked for and nothing says that it loads."""
    page.wait_for_load_state("networkidle")
    page.wait_for_function("!document.querySelector('[aria-busy=true]')")


def rows(page: Page) -> list[Locator]:
    """Rows of the table of features that are drawn, without its head."""
    return page.locator("[role=grid] .window [role=row]").all()


def number_of(row: Locator) -> int:
    """The feature of a row."""
    return int(row.get_by_role("link").first.inner_text())
