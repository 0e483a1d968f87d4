"""The workspace's records: what goes in (a draft) and what comes out (the same, as a row with id, version and author).

A row's ``etag`` names its state: a change that carries the etag of an older state is refused. Features are referenced
by the fingerprint of their dictionary and their number, so that a second analysis of the same dictionary keeps them.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from monoscope.features.workspace.fields import (
    Draft,
    FeatureNumber,
    Fingerprint,
    Json,
    Line,
    Long,
    Name,
    Place,
    Row,
    Score,
    Text,
    Ulid,
)


class FeatureRef(Draft):
    """A feature, whichever bundle shows it."""

    dictionary_fp: Fingerprint
    feature: FeatureNumber


class BundleDraft(Draft):
    """A bundle somebody opened; ``missing`` when its directory was last looked for."""

    path: Place
    fingerprint: Fingerprint
    dictionary_fp: Fingerprint
    model_id: Name | None = None
    alias: Name | None = None
    last_opened: datetime | None = None
    missing: bool = False


class LabelDraft(FeatureRef):
    """The line an author gives a feature: written, taken from one of its explanations, or imported."""

    text: Line
    source: Literal["user", "explanation", "imported"] = "user"
    explanation_id: Ulid | None = None

    @model_validator(mode="after")
    def _of_an_explanation(self) -> LabelDraft:
        if self.explanation_id is not None and self.source != "explanation":
            raise ValueError(f"a label with an explanation_id has source 'explanation', not {self.source!r}")
        return self


class ExplanationDraft(FeatureRef):
    """A text that describes a feature: how it was made, by which judge, in which run."""

    text: Long
    method: Name
    judge: Name | None = None
    run_id: Name | None = None


class ScoreDraft(Draft):
    """What a scorer says of an explanation, from 0 to 1 where it is a share."""

    explanation_id: Ulid
    scorer: Name
    value: Score
    details: Json = Field(default_factory=dict)


class BookmarkDraft(FeatureRef):
    """A feature to come back to."""


class TagDraft(Draft):
    """A word to mark features with."""

    name: Name
    color: Annotated[str, StringConstraints(pattern=r"^#[0-9a-f]{6}$")] | None = None


class FeatureTagDraft(FeatureRef):
    """A feature that carries a tag."""

    tag_id: Ulid


class ListDraft(Draft):
    """A named list of features."""

    name: Name
    description: Text = ""


class ListItemDraft(FeatureRef):
    """A feature in a list; lower positions come first."""

    list_id: Ulid
    position: Score
    note: Text = ""


class NoteDraft(Draft):
    """Markdown about something. A feature's ``target_id`` is ``FINGERPRINT/NUMBER``; see ``feature_target``."""

    target_kind: Literal["feature", "dictionary", "list", "graph", "run", "page"]
    target_id: Place
    markdown: Text


class FilterDraft(Draft):
    """A saved filter of a page."""

    name: Name
    page: Name
    state: Json


class LinkDraft(Draft):
    """The state of a page behind a short id."""

    state: Json
    expires: datetime | None = None


class GraphDraft(Draft):
    """A saved attribution graph: where its file is, and what it is of."""

    slug: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{1,200}$")]
    model_id: Name
    prompt: Text
    path: Place
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    n_nodes: Annotated[int, Field(ge=0)]
    n_links: Annotated[int, Field(ge=0)]
    dictionary_fps: tuple[Fingerprint, ...] = ()


class SubgraphDraft(Draft):
    """What somebody pinned, grouped and named in a graph."""

    graph_id: Ulid
    name: Name
    pinned: tuple[Place, ...] = ()
    supernodes: tuple[tuple[Place, ...], ...] = ()
    labels: dict[str, str] = Field(default_factory=dict)
    thresholds: dict[str, float] = Field(default_factory=dict)


class RunDraft(Draft):
    """A training run's directory."""

    path: Place
    recipe: Json = Field(default_factory=dict)
    state: Literal["running", "interrupted", "done", "failed"] = "running"
    last_step: Annotated[int, Field(ge=0, lt=2**63)] = 0


class SettingDraft(Draft):
    """One setting of one author."""

    key: Name
    value: Json


class Bundle(BundleDraft, Row):
    """A bundle's row."""


class Label(LabelDraft, Row):
    """A label's row."""


class Explanation(ExplanationDraft, Row):
    """An explanation's row; ``score`` is the mean of its scorers' latest values."""

    score: float | None = None


class ExplanationScore(ScoreDraft, Row):
    """A score's row."""


class Bookmark(BookmarkDraft, Row):
    """A bookmark's row."""


class Tag(TagDraft, Row):
    """A tag's row."""


class FeatureTag(FeatureTagDraft, Row):
    """The row of a tag on a feature."""


class FeatureList(ListDraft, Row):
    """A list's row."""


class ListItem(ListItemDraft, Row):
    """The row of a feature in a list."""


class Note(NoteDraft, Row):
    """A note's row."""


class Filter(FilterDraft, Row):
    """A filter's row."""


class Link(LinkDraft, Row):
    """A link's row; ``short`` is what its address carries."""

    short: str


class SavedGraph(GraphDraft, Row):
    """A graph's row."""


class Subgraph(SubgraphDraft, Row):
    """A subgraph's row."""


class Run(RunDraft, Row):
    """A run's row."""


class Setting(SettingDraft, Row):
    """A setting's row."""


@dataclass(frozen=True, slots=True)
class BestLabel:
    """The one line shown for a feature, where it is from, and how well it scored if it is an explanation's."""

    feature: int
    text: str
    source: Literal["user", "explanation", "imported"]
    author: str
    score: float | None = None


class Uses(BaseModel):
    """Where a feature is used."""

    model_config = ConfigDict(frozen=True)

    lists: tuple[FeatureList, ...]
    notes: tuple[Note, ...]
    tags: tuple[Tag, ...]
    bookmarked: bool


class Audit(BaseModel):
    """Who changed what, and how it was before."""

    model_config = ConfigDict(frozen=True, from_attributes=True)

    id: str
    created: datetime
    actor: str
    action: Literal["update", "delete", "restore"]
    target: str
    before: dict[str, Any]


def feature_target(dictionary_fp: str, feature: int) -> str:
    """``target_id`` of a note about a feature."""
    return f"{dictionary_fp}/{feature}"
