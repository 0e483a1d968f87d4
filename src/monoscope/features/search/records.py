"""What a search answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Mode = Literal["auto", "exact", "prefix", "regex", "token", "logit", "semantic", "like"]
MODES: tuple[Mode, ...] = get_args(Mode)
Why = Literal["index", "label", "explanation", "token", "logit", "context", "meaning", "direction"]


@dataclass(frozen=True, slots=True)
class Hit:
    """A feature that was found.

    dictionary: the name under which its bundle is searched; label: the line shown for it, if it has one
    why: what matched; snippet: the matched text, or a piece of it; ranges: the matches in it, [start, stop) characters
    score: from 0 to 1, comparable within one answer
    """

    dictionary: str
    feature: int
    label: str | None
    why: Why
    snippet: str
    ranges: tuple[tuple[int, int], ...]
    score: float


@dataclass(frozen=True, slots=True)
class Found:
    """The answer: hits, best first; whether there are more; what was not searched, in words; milliseconds."""

    hits: tuple[Hit, ...]
    more: bool
    mode: Mode
    modes: tuple[Mode, ...]
    notes: tuple[str, ...]
    ms: float


@dataclass(frozen=True, slots=True)
class Match:
    """A match in one dictionary, before it is merged with others. ``snippet`` may be cut out of the matched text."""

    feature: int
    why: Why
    score: float
    snippet: str
    ranges: tuple[tuple[int, int], ...] = ()


WIDTH = 160  # characters of a snippet


def cut(text: str, ranges: tuple[tuple[int, int], ...], width: int = WIDTH) -> tuple[str, tuple[tuple[int, int], ...]]:
    """A piece of a text around its first match, and the matches within the piece."""
    if len(text) <= width:
        return text, ranges
    first = ranges[0][0] if ranges else 0
    start = max(0, min(first - width // 3, len(text) - width))
    stop = start + width
    head, tail = "…" if start else "", "…" if stop < len(text) else ""
    shift = len(head) - start
    inside = tuple((max(a, start) + shift, min(b, stop) + shift) for a, b in ranges if max(a, start) < min(b, stop))
    return f"{head}{text[start:stop]}{tail}", inside
