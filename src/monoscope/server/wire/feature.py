"""One feature: its numbers, contexts, neighbors, and where it is used."""

from __future__ import annotations

from typing import Literal

from monoscope.server.wire.base import Dict, Number, Token, Wire
from monoscope.server.wire.dictionary import Bins
from monoscope.server.wire.workspace import Explanation, Label, Note, Shipped, Shown


class FiredOn(Wire):
    """A token a feature fires on: share of its firings, mean activation there."""

    id: int
    text: str
    share: Number
    mean: Number


class Band(Wire):
    """A band of activations: (low, high] holds ``share`` of the firings. Interval 0 is all of them."""

    interval: int
    low: float
    high: float
    share: Number


class SiteNorm(Wire):
    """One of several write sites: norm of the feature's direction there, and its cosine with the longest of them."""

    site: str
    norm: Number
    cosine: Number


class Feature(Wire):
    """Everything about a feature but its contexts.

    label: the one line to show; my_label: the row of this author, if there is one; labels: everybody's
    explanations: of the workspace; shipped: those that came with the bundle, the best first
    sites: of dictionaries that write to several; signed: it fires in both directions, and ``min_act`` is the other end
    """

    dictionary: Dict
    index: int
    reference: str
    n_features: int
    n_fired: int
    density: float
    n_sequences: int
    max_act: Number
    min_act: Number
    signed: bool
    p999_act: Number
    mean_act: Number
    std_act: Number
    is_dead: bool
    dec_norm: Number
    enc_norm: Number
    enc_dec_cos: Number
    first_pos_share: Number
    logit_kurtosis: Number
    best_score: Number
    cluster: int | None
    act_histogram: Bins
    logit_histogram: Bins
    quantiles: list[float]
    bands: list[Band]
    tokens: list[FiredOn]
    promoted: list[Token]
    suppressed: list[Token]
    sites: list[SiteNorm] | None
    label: Shown | None
    my_label: Label | None
    labels: list[Label]
    explanations: list[Explanation]
    shipped: list[Shipped]
    tags: list[str]
    bookmarked: bool


class Context(Wire):
    """A token window; ``tokens`` point into ``strings``, ``pos`` and ``val`` are places in it and activations there.

    peak: place of the strongest token in the window; max_act: its activation, of the whole sequence
    dup_of: rank of the context of the same interval that this one repeats
    src_pos, src_val: of features that read sequences, the places that contribute most at the peak, and how much; places
        before the window are negative
    """

    rank: int
    seq: int
    doc: int
    start: int
    stop: int
    peak: int
    max_act: Number
    dup_of: int | None
    tokens: list[int]
    pos: list[int]
    val: list[float]
    src_pos: list[int]
    src_val: list[float]


class ContextGroup(Wire):
    """Contexts of an interval: 0 strongest, 1 .. n bands from the strongest, -1 random, -2 look-alikes, not firing."""

    interval: int
    low: Number
    high: Number
    share: Number
    contexts: list[Context]


class Contexts(Wire):
    """Contexts of a feature; every text is sent once."""

    strings: list[str]
    special: list[int]
    max_act: Number
    groups: list[ContextGroup]


class Neighbor(Wire):
    """Another feature: cosine of directions, or pointwise mutual information of firing together."""

    dictionary: Dict
    feature: int
    value: Number
    label: str | None
    top_token: str | None
    density: Number


class Neighbors(Wire):
    """Features nearest to one, the nearest first."""

    by: str
    measure: Literal["cosine", "pmi"]
    features: list[Neighbor]


class ListUse(Wire):
    """A list that holds the feature."""

    id: str
    name: str


class Uses(Wire):
    """Where a feature is used."""

    lists: list[ListUse]
    notes: list[Note]
    bookmarked: bool
    tags: list[str]
