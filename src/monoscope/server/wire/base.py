"""Ground of all wire models: strict, frozen, and without a number that JSON cannot hold."""

from __future__ import annotations

import math
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

SLUG = r"^[a-z0-9][a-z0-9._-]{0,127}$"
ULID = r"^[0-9A-HJKMNP-TV-Z]{26}$"
MAX_FEATURE = 2**31 - 1


def _number(value: Any) -> Any:
    if isinstance(value, (bool, str)):
        raise ValueError("a number is expected")
    return value


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


Slug = Annotated[str, StringConstraints(pattern=SLUG)]
Id = Annotated[str, StringConstraints(pattern=ULID)]
Dict = Annotated[Slug, Field(alias="dict")]  # BaseModel has a method of that name
DictOrNone = Annotated[Slug | None, Field(alias="dict")]
FeatureIndex = Annotated[int, Field(ge=0, le=MAX_FEATURE), BeforeValidator(_number)]
Number = Annotated[float | None, BeforeValidator(_finite)]
"""A number that may be unknown: NaN and infinity cross the wire as null."""


class Wire(BaseModel):
    """A record as it crosses the wire; unknown keys are errors, and every key is present in what is sent."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        json_schema_serialization_defaults_required=True,
        serialize_by_alias=True,
        validate_by_name=True,
        validate_by_alias=True,
    )


class Problem(Wire):
    """What went wrong (RFC 9457): what was found, what would have been right, what to do.

    current: of a change that came too late, or of a row that exists already, the row as it stands
    """

    model_config = ConfigDict(extra="forbid", frozen=True, json_schema_serialization_defaults_required=False)

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    found: Any = None
    expected: Any = None
    hint: str | None = None
    current: Any = None


class Token(Wire):
    """A token, and the value it stands beside."""

    id: int
    text: str
    value: Number


class FeatureRef(Wire):
    """A feature of a dictionary of the library."""

    dictionary: Dict
    feature: FeatureIndex
