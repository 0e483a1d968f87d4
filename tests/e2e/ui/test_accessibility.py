"""axe on every page in both themes; no page scrolls sideways, narrow or at twice its size."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect
from ui_pages import settle

AXE = Path(__file__).parents[3] / "ui" / "node_modules" / "axe-core" / "axe.min.js"
PAGES = (
    "/", "/d/demo", "/d/demo?f=density%3E0.999", "/d/demo/f/3", "/nowhere", "/search", "/search?q=self",
    "/runs", "/runs/demo", "/lists", "/jobs", "/settings", "/activate", "/steer", "/compare",
)  # fmt: skip
TEXT = "text=def+f(x)%3A%0A++++return+x"
MODEL_PAGES = (
    f"/activate?{TEXT}&dicts=demo,early,small&pos=2",
    f"/activate?{TEXT}&diff=1&b=class+F(x)%3A&dicts=demo&pos=1",
    f"/steer?{TEXT}&e=demo/3,add,0.5,norm&e=demo/4,ablate,0,,off&n=6&auto=1",
    "/compare?dicts=demo,small&t=0.3&row=0",
)
LONG = 120_000  # milliseconds, on a busy machine
SIZES = ((360, 740), (680, 430), (1360, 860))
RULES = """async () => {
    const tags = ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice'];
    const {violations} = await axe.run({runOnly: tags, rules: {'label-content-name-mismatch': {enabled: true}}});
    return violations.map(({id, nodes}) => `${id}: ${nodes.slice(0, 3).map((n) => n.html.slice(0, 160))}`);
}"""


@pytest.fixture(scope="module")
def axe() -> str:
    if not AXE.is_file():
        pytest.skip("needs axe-core: python ui/build.py npm ci")
    return AXE.read_text(encoding="utf-8")


@pytest.mark.parametrize("path", PAGES)
def test_axe_finds_nothing(visit: Callable[..., Any], axe: str, path: str) -> None:
    page = visit(path)
    page.evaluate(axe)
    for theme in ("light", "dark"):
        page.emulate_media(color_scheme=theme)
        assert page.evaluate(RULES) == [], theme


@pytest.mark.parametrize("path", PAGES)
def test_no_page_scrolls_sideways(visit: Callable[..., Any], path: str) -> None:
    page = visit(path)
    for width, height in SIZES:
        page.set_viewport_size({"width": width, "height": height})
        settle(page)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), (width, height)


def model_page(visit: Callable[..., Any], library: Any, path: str) -> Page:
    """A page with results on it: what it runs is awaited."""
    page = visit(path.split("?", maxsplit=1)[0], at=library)
    page.goto(library.address + path)
    if path.startswith("/activate"):
        expect(page.get_by_role("list", name="Features, strongest first")).to_be_visible(timeout=LONG)
    elif path.startswith("/steer"):
        expect(page.get_by_text("Done in")).to_be_visible(timeout=LONG)
        page.keyboard.press("]")
    else:
        page.get_by_role("button", name="Compare", exact=True).click()
        page.get_by_role("grid").get_by_role("gridcell").nth(2).click(timeout=LONG)
        expect(page.get_by_role("region", name="Side by side").get_by_role("article")).to_have_count(2)
    settle(page)
    return page


@pytest.mark.parametrize("path", MODEL_PAGES)
def test_pages_that_run_models_with_results(visit: Callable[..., Any], library: Any, axe: str, path: str) -> None:
    page = model_page(visit, library, path)
    page.evaluate(axe)
    for theme in ("light", "dark"):
        page.emulate_media(color_scheme=theme)  # type: ignore[arg-type]
        assert page.evaluate(RULES) == [], theme
    for width, height in SIZES:
        page.set_viewport_size({"width": width, "height": height})
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), (width, height)
