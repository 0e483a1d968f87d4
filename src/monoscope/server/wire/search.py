"""What a search answers."""

from __future__ import annotations

from typing import Literal

from monoscope.server.wire.base import Dict, Wire

Mode = Literal["auto", "exact", "prefix", "regex", "token", "logit", "semantic", "like"]
Why = Literal["index", "label", "explanation", "token", "logit", "context", "meaning", "direction"]


class SearchHit(Wire):
    """A feature that was found: why, where in the snippet the matches are, and how well, from 0 to 1."""

    dictionary: Dict
    feature: int
    label: str | None
    why: Why
    snippet: str
    ranges: list[tuple[int, int]]
    score: float


class SearchResult(Wire):
    """Hits, the best first.

    more: there are others; mode: what the query was taken for; notes: what was not searched, and why
    """

    hits: list[SearchHit]
    more: bool
    mode: Mode
    modes_available: list[Mode]
    notes: list[str]
    ms: float
