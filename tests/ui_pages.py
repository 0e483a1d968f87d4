"""What tests of the interface read off its pages."""

from __future__ import annotations

from collections.abc import Callable

from playwright.sync_api import Locator, Page, expect

WAITING = "[aria-busy=true], .skeleton"


def settle(page: Page) -> None:
    """Wait until the page is there, and nothing on it says that it loads."""
    expect(page.locator("h1").first).to_be_attached(timeout=20_000)
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    expect(page.locator(WAITING)).to_have_count(0, timeout=20_000)


def wait_for(page: Page, true: Callable[[], object]) -> None:
    """Wait until something is true, while what happens on the page is heard of."""
    for _ in range(400):
        if true():
            return
        page.wait_for_timeout(50)
    raise AssertionError("it did not become true")


def read_ahead(page: Page, feature: int) -> None:
    """Wait until a feature that a page may lead to has been read, with its contexts."""
    read = (
        "ends => ends.every((end) => performance.getEntriesByType('resource').some(({ name }) => name.endsWith(end)))"
    )
    wait_for(page, lambda: page.evaluate(read, [f"/features/{feature}", f"/features/{feature}/contexts"]))


def rows(page: Page) -> list[Locator]:
    """Rows of the table of features that are drawn, without its head."""
    return page.locator("[role=grid] .window [role=row]").all()


def number_of(row: Locator) -> int:
    """The feature of a row."""
    return int(row.get_by_role("link").first.inner_text())


def copied(page: Page, item: str, menu: str | None = "Copy") -> str:
    """What an item of a menu, or a button alone, puts on the clipboard."""
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    if menu is not None:
        page.get_by_role("button", name=menu, exact=True).click()
    page.get_by_role("button", name=item, exact=True).click()
    expect(page.get_by_text("Copied")).to_be_visible()
    return page.evaluate("navigator.clipboard.readText()")
