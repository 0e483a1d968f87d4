"""Descriptions that came with a bundle: shown beside those of the workspace, and as the label where that has none."""

from __future__ import annotations

from statistics import fmean

from monoscope.features.bundle import FeatureBundle
from monoscope.features.records import Explanation
from monoscope.server.table.added import AddedRow
from monoscope.server.wire.workspace import Shipped


def shipped_of(bundle: FeatureBundle, feature: int) -> list[Shipped]:
    """Those of one feature, the best first, those without a score last."""
    found = [
        Shipped(
            id=one.id,
            text=one.text,
            method=one.method or "",
            judge=one.judge or "",
            created=one.created or "",
            score=_score(one),
            scores=dict(one.scores),
        )
        for one in bundle.explanations(feature)
    ]
    return sorted(found, key=lambda one: (one.score is None, -(one.score or 0.0)))


def labels_of(bundle: FeatureBundle) -> dict[int, AddedRow]:
    """The best of each feature that has any."""
    rows = {}
    for feature in range(len(bundle)):
        if found := shipped_of(bundle, feature):
            rows[feature] = AddedRow(label=found[0].text, label_source="bundle", score=found[0].score)
    return rows


def _score(one: Explanation) -> float | None:
    values = [value for _, value in one.scores if value == value]
    return fmean(values) if values else None
