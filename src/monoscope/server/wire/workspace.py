"""What people add: labels, explanations, bookmarks, tags, lists, notes, filters, links, settings.

Every row has an ``etag``, also sent as the header ``ETag``; a change says in ``If-Match`` which state it is of, and is
refused with 412 and the current row when another came first.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from monoscope.server.wire.base import Dict, DictOrNone, FeatureIndex, FeatureRef, Id, Number, Wire

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


class Explanation(Row):
    """A text that describes a feature, who or what wrote it, its scores by scorer, and their mean."""

    dictionary: DictOrNone
    dictionary_fp: str
    feature: int
    text: str
    method: str
    judge: str | None
    score: Number
    scores: dict[str, Number]


class Shipped(Wire):
    """A description that came with the bundle, its scores by scorer, and their mean."""

    id: str
    text: str
    method: str
    judge: str
    created: str
    score: Number
    scores: dict[str, Number]


class Shown(Wire):
    """The one line shown for a feature: a person's choice, an imported label, or the best explanation.

    source: ``bundle`` where it is the best description that came with the bundle; the author is then its judge
    """

    text: str
    source: Literal["user", "explanation", "imported", "bundle"]
    author: str
    score: Number


class Labels(Wire):
    """A page of labels; the next is asked for after the last id."""

    items: list[Label]


class Explanations(Wire):
    """A page of explanations."""

    items: list[Explanation]


class Bookmark(Row):
    """A feature someone keeps at hand."""

    dictionary: DictOrNone
    dictionary_fp: str
    feature: int


class Bookmarks(Wire):
    """A page of bookmarks."""

    items: list[Bookmark]


class Tag(Row):
    """A name that features can carry."""

    name: str
    color: str | None
    n_features: int


class Tags(Wire):
    """All tags."""

    items: list[Tag]


class FeatureTag(Row):
    """A tag on a feature."""

    dictionary: DictOrNone
    dictionary_fp: str
    feature: int
    tag_id: str


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


class FeatureLists(Wire):
    """A page of lists."""

    items: list[FeatureList]


class ListItems(Wire):
    """The items of a list, in order."""

    items: list[ListItem]


class Note(Row):
    """Markdown about a feature, a dictionary, a list, a graph or a run."""

    target_kind: Target
    target_id: str
    markdown: str


class Notes(Wire):
    """A page of notes."""

    items: list[Note]


class Filter(Row):
    """A saved filter of a page."""

    name: str
    page: str
    state: State


class Filters(Wire):
    """A page of filters."""

    items: list[Filter]


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


class EditExplanation(Wire):
    """Another text."""

    text: Annotated[str, Field(min_length=1, max_length=10_000)]


class NewBookmark(FeatureRef):
    """A feature to bookmark."""


class NewFeatureTag(FeatureRef):
    """A feature, and the tag to put on it; the tag is made if there is none of the name."""

    tag: Name


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


class Move(Wire):
    """The item of the same list to stand in front of; none for the end."""

    before: Id | None


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

    value: dict[str, Any]


class Settings(Wire):
    """All settings of this author."""

    values: dict[str, dict[str, Any]]
