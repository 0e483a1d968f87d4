"""What people added to a dictionary's features, as columns beside the bundle's: labels, scores, tags, bookmarks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import pyarrow as pa

_NONE: Mapping[Any, Any] = MappingProxyType({})


@dataclass(frozen=True)
class AddedRow:
    """What was added to one feature."""

    label: str | None = None
    label_source: str | None = None
    score: float | None = None
    tags: tuple[str, ...] = ()
    bookmarked: bool = False


EMPTY = AddedRow()


@dataclass(frozen=True)
class Added:
    """What was added to the features of one dictionary; ``version`` changes whenever any of it does."""

    version: str = ""
    rows: Mapping[int, AddedRow] = field(default_factory=lambda: _NONE)

    def over(self, shipped: Mapping[int, AddedRow]) -> Added:
        """Labels of people, and where there are none the shipped ones."""
        rows = dict(shipped)
        for feature, row in self.rows.items():
            below = shipped.get(feature)
            if row.label is None and below is not None:
                row = replace(row, label=below.label, label_source=below.label_source, score=below.score)
            rows[feature] = row
        return Added(f"{self.version}+", rows)

    def column(self, name: str, features: list[int]) -> list[Any]:
        """One column, for some features."""
        values = [getattr(self.rows.get(feature, EMPTY), name) for feature in features]
        return [list(value) for value in values] if name == "tags" else values

    def table(self) -> pa.Table:
        """All of it, as DuckDB joins it."""
        rows = list(self.rows.values())
        return pa.table(
            {
                "feature": pa.array(self.rows.keys(), pa.uint32()),
                "label": pa.array([row.label for row in rows], pa.string()),
                "label_source": pa.array([row.label_source for row in rows], pa.string()),
                "score": pa.array([row.score for row in rows], pa.float64()),
                "tags": pa.array([list(row.tags) for row in rows], pa.list_(pa.string())),
                "bookmarked": pa.array([row.bookmarked for row in rows], pa.bool_()),
            }
        )
