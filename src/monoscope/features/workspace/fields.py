"""What the workspace's records are made of: bounded text and JSON, drafts (what goes in) and rows (what comes out).

Text is free of what a database cannot hold: NUL characters, and halves of surrogate pairs.
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, computed_field

MOST_JSON = 1_000_000  # characters of one JSON column


def _storable(text: str) -> str:
    if "\0" in text:
        raise ValueError("text cannot hold a NUL character")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError("text holds half of a surrogate pair, which is no character")
    return text


def _bounded(value: dict[str, Any]) -> dict[str, Any]:
    try:
        size = len(json.dumps(value, allow_nan=False))
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"this is not JSON: {error}") from None
    if size > MOST_JSON:
        raise ValueError(f"this is {size:,} characters of JSON; at most {MOST_JSON:,} are kept")
    return value


Name = Annotated[str, StringConstraints(min_length=1, max_length=200), AfterValidator(_storable)]
Line = Annotated[str, StringConstraints(min_length=1, max_length=2000), AfterValidator(_storable)]
Long = Annotated[str, StringConstraints(min_length=1, max_length=20_000), AfterValidator(_storable)]
Text = Annotated[str, StringConstraints(max_length=200_000), AfterValidator(_storable)]
Place = Annotated[str, StringConstraints(min_length=1, max_length=1024), AfterValidator(_storable)]
Fingerprint = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,127}$")]
FeatureNumber = Annotated[int, Field(ge=0, lt=2**31)]
Ulid = Annotated[str, StringConstraints(pattern=r"^[0-9A-HJKMNP-TV-Z]{26}$")]
Json = Annotated[dict[str, Any], AfterValidator(_bounded)]
Score = Annotated[float, Field(allow_inf_nan=False)]


class Draft(BaseModel):
    """What a row says; unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Row(BaseModel):
    """What every row carries beside what it says. ``deleted``: when it was; it can be restored for 30 days."""

    model_config = ConfigDict(frozen=True, extra="ignore", from_attributes=True)

    id: str
    version: int
    created: datetime
    updated: datetime
    deleted: datetime | None = None
    author: str

    @computed_field
    @property
    def etag(self) -> str:
        """Names this state of the row."""
        return f"{self.id}.{self.version}"
