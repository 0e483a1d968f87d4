"""What people add: labels, explanations, bookmarks, tags, lists, notes, filters, links, settings.

Every row has an ``etag``, also sent as the header ``ETag``; a change says in ``If-Match`` which state it is of, and is
refused with 412 and the current row when another came first.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from monoscope.server.wire.base import Dict, DictOrNone, FeatureIndex, Id, Number, Wire

Line = Annotated[str, Field(min_length=1, max_length=2_000)]
Name = Annotated[str, Field(min_length=1, max_length=200)]
Prose = Annotated[str, Field(max_length=100_000)]
State = dict[str, Any]
Target = Literal["feature", "dictionary", "list", "graph", "run", "page"]


class Row(Wire):
    """What every row has."""

    id: str
    etag: str
    author: str
    created: str
    updated: str


class Label(Row):
    """The line shown for a feature, by a person or from an explanation. ``dict`` is null if the bundle is not here."""

    dictionary: DictOrNone
    dictionary_fp: str
    feature: int
    text: str
    source: Literal["user", "explanation", "imported"]
    explanation_id: str | None


class Explanation(Wire):
    """A text that describes a feature, who or what wrote it, and its scores. Those shipped in a bundle have no etag."""

    id: str
    etag: str | None
    author: str | None
    created: str | None
    dictionary_fp: str
    feature: int
    text: str
    method: str | None
    judge: str | None
    shipped: bool
    scores: dict[str, Number]


class Bookmark(Row):
    """A feature someone keeps at hand."""

    dictionary: DictOrNone
    dictionary_fp: str
    feature: int


class Tag(Row):
    """A name that features can carry."""

    name: str
    color: str | None
    n_features: int


class FeatureList(Row):
    """A named list of features, in an order of its own."""

    name: str
    description: str
    n_items: int


class ListItem(Row):
    """A feature in a list."""

    list_id: str
    dictionary: DictOrNone
    dictionary_fp: str
    feature: int
    position: float
    note: str


class Note(Row):
    """Markdown about a feature, a dictionary, a list, a graph or a run."""

    target_kind: Target
    target_id: str
    markdown: str


class Filter(Row):
    """A saved filter of a page."""

    name: str
    page: str
    state: State


class Link(Wire):
    """A short id for the state of a page."""

    id: str
    state: State
    created: str


class NewLabel(Wire):
    """The line to show for a feature; of an explanation, if one is named."""

    dictionary: Dict
    feature: FeatureIndex
    text: Line
    explanation_id: str | None = None


class EditLabel(Wire):
    """Another text."""

    text: Line


class NewExplanation(Wire):
    """A description of a feature."""

    dictionary: Dict
    feature: FeatureIndex
    text: Annotated[str, Field(min_length=1, max_length=10_000)]
    method: Name = "user"
    judge: Name | None = None


class NewTag(Wire):
    """A tag; its color as in ``#34d399``."""

    name: Name
    color: Annotated[str, Field(pattern=r"^#[0-9a-f]{6}$")] | None = None


class NewList(Wire):
    """A list."""

    name: Name
    description: Prose = ""


class NewItem(Wire):
    """A feature to put into a list."""

    dictionary: Dict
    feature: FeatureIndex
    note: Prose = ""


class NewItems(Wire):
    """Features to put at the end of a list, in this order."""

    items: Annotated[list[NewItem], Field(min_length=1, max_length=1000)]


class EditItem(Wire):
    """Another note."""

    note: Prose


class Order(Wire):
    """All items of a list, in the order they shall stand in."""

    items: Annotated[list[Id], Field(max_length=10_000)]


class NewNote(Wire):
    """A note. A feature is named ``dict/feature``, other things by their id."""

    target_kind: Target
    target_id: Annotated[str, Field(min_length=1, max_length=300)]
    markdown: Prose


class EditNote(Wire):
    """Another text."""

    markdown: Prose


class NewFilter(Wire):
    """A filter to save."""

    name: Name
    page: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_/-]{0,63}$")]
    state: State


class NewLink(Wire):
    """The state of a page."""

    state: State


class Setting(Wire):
    """A value under a key."""

    value: Any


class Settings(Wire):
    """All settings."""

    values: dict[str, Any]
