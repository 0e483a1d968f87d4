"""Pages of the table of features: columns, filters, sorting."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StrictBool, StrictFloat, StrictInt, StrictStr

from monoscope.server.wire.base import Wire

Operator = Literal["=", "!=", "<", "<=", ">", ">=", "in", "contains", "prefix", "matches", "is_null", "not_null"]
Text = Annotated[StrictStr, Field(max_length=1024)]
Scalar = StrictBool | StrictInt | StrictFloat | Text


class Condition(Wire):
    """One condition on a column; conditions of a filter hold together.

    value: a scalar; a list of scalars for ``in``; nothing for ``is_null`` and ``not_null``. ``matches`` is a regular
    expression (RE2), searched anywhere; ``contains`` and ``prefix`` are plain text; of tags, ``=`` asks for one.
    """

    column: str = Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")
    op: Operator
    value: Scalar | Annotated[list[Scalar], Field(max_length=1000)] | None = None


class FeaturePage(Wire):
    """Rows from ``offset`` of the features that a filter leaves, sorted: one list per column, ``feature`` first."""

    total: int
    offset: int
    columns: dict[str, list[bool | int | float | str | list[str] | None]]
    ms: float


class Place(Wire):
    """Where a feature stands in a filtered and sorted table, null if it is filtered out, and what stands beside it."""

    index: int | None
    total: int
    before: list[int]
    after: list[int]
