"""One dictionary: its aggregates, and the columns of its table of features."""

from __future__ import annotations

from typing import Literal

from monoscope.server.wire.base import Number, Wire
from monoscope.server.wire.library import Card, Manifest


class Column(Wire):
    """A column that tables can show, sort and filter: what it means, and between which values it lies."""

    name: str
    type: Literal["number", "integer", "boolean", "text", "texts"]
    min: Number
    max: Number
    n_null: int
    operators: list[str]
    help: str


class Bins(Wire):
    """Counts between consecutive edges. ``scale`` says how the edges are spaced."""

    edges: list[float]
    counts: list[int]
    scale: Literal["linear", "log"]


class Curves(Wire):
    """How training went: one list per quantity, over ``tokens``."""

    tokens: list[int]
    series: dict[str, list[Number]]


class Dictionary(Card):
    """A card, and all that its page shows beside the table.

    interesting: features best worth a look, in the order to look at them
    n_dead: features that never fired; density_histogram counts the others
    """

    manifest: Manifest
    columns: list[Column]
    n_dead: int
    density_histogram: Bins
    norm_histogram: Bins | None
    interesting: list[int]
    curves: Curves | None
