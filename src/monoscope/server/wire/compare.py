"""What the comparison of dictionaries takes and gives.

Partners are assigned one to one so that similarities add up to the most; a pair is matched if it is at least as similar
as ``threshold``. A feature of a splits where it is the nearest, within the threshold, of two or more features of b; a
feature of b merges two or more of a that have it as their nearest.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from monoscope.server.wire.base import FeatureIndex, Id, Number, Slug, Wire

CompareBy = Literal["decoder", "activations"]
RowKind = Literal["matched", "splits", "merges", "only_a", "only_b"]


class CompareRequest(Wire):
    """Dictionaries to compare: by the cosine of what features write, or by the correlation of when they fire.

    tokens: of text on which activations are correlated
    """

    dicts: list[Slug] = Field(min_length=2, max_length=6)
    by: CompareBy = "decoder"
    threshold: float = Field(default=0.7, gt=0, le=1)
    tokens: int = Field(default=16_384, ge=256, le=1_000_000)


class CompareMetrics(Wire):
    """One dictionary beside the others.

    nearest: median cosine of a feature to the nearest other one of the same dictionary
    """

    id: Slug
    n_features: int
    d_model: int | None
    reads: list[str]
    writes: list[str]
    function: str
    k: int | None
    l0: Number
    fvu: Number
    ce_recovered: Number
    dead_share: Number
    nearest: Number


class ComparePair(Wire):
    """Two dictionaries beside each other.

    number: by which rows of the pair are asked for
    nearest_a, nearest_b: mean over features of one of the largest similarity to the other; chance: the first between
    random directions; matched_mean: similarity of partners, near or not
    histogram: features of a by their largest similarity, in 20 bins of [0, 1]
    note: why something was not measured
    """

    number: int
    a: Slug
    b: Slug
    n_matched: int
    n_only_a: int
    n_only_b: int
    n_splits: int
    n_merges: int
    nearest_a: Number
    nearest_b: Number
    chance: Number
    matched_mean: Number
    histogram: list[int]
    note: str | None


class Comparison(Wire):
    """The result of a comparison; features are asked for one pair at a time.

    n_tokens: on which activations were correlated, 0 where they were not
    """

    job: Id
    by: CompareBy
    threshold: float
    n_tokens: int
    metrics: list[CompareMetrics]
    pairs: list[ComparePair]


class CompareRow(Wire):
    """Features of two dictionaries that belong together, or one without the other.

    a, b: one of each for a match; one of a and several of b for a split, the other way round for a merge; of a feature
    without a partner, its nearest of the other dictionary
    cosine: of what they write, correlation: of when they fire; one for each of the several, null where not measured
    """

    a: list[FeatureIndex]
    b: list[FeatureIndex]
    cosine: list[Number]
    correlation: list[Number]
    labels_a: list[str | None]
    labels_b: list[str | None]


class CompareRows(Wire):
    """A page of rows, the most similar first; of features without a partner, the loneliest first."""

    total: int
    offset: int
    rows: list[CompareRow]
