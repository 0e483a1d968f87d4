"""axe on every page in both themes; no page scrolls sideways, narrow or at twice its size."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ui_pages import settle

AXE = Path(__file__).parents[3] / "ui" / "node_modules" / "axe-core" / "axe.min.js"
PAGES = (
    "/", "/d/demo", "/d/demo?f=density%3E0.999", "/d/demo/f/3", "/nowhere", "/search", "/search?q=self",
    "/runs", "/runs/demo", "/lists", "/settings",
)  # fmt: skip
SIZES = ((360, 740), (680, 430), (1360, 860))
RULES = """async () => {
    const rules = ['wcag2a', 'wcag2aa', 'wcag21aa', 'wcag22aa', 'best-practice'];
    const {violations} = await axe.run({runOnly: rules});
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
