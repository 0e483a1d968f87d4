"""The page of formats says what layouts do, since it asks them."""

from __future__ import annotations

from pathlib import Path

from monoscope.formats.layouts import LAYOUTS
from monoscope.formats.reference import PAGE, WHAT, rendered

ROOT = Path(__file__).parents[3]


def test_the_page_of_formats_is_what_layouts_do() -> None:
    page = (ROOT / PAGE).read_text(encoding="utf-8")
    assert page == rendered(), "run: python -m monoscope.formats.reference"


def test_every_layout_has_a_row_and_no_row_is_left_over() -> None:
    assert set(WHAT) == {layout.name for layout in LAYOUTS}
