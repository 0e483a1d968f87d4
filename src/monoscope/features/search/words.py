"""What FTS5 is asked, and how it marks what it found. Whatever it would take for syntax is quoted, or is no word."""

from __future__ import annotations

import re

MOST_WORDS = 32
OPEN, CLOSE = "\ue000", "\ue001"  # around a match, where FTS5 marks it


def words_query(text: str, *, prefix: bool) -> str | None:
    """FTS5 query for lines that hold all words of a text, the last one perhaps not finished; None without any words."""
    words = re.findall(r"\w+", text)[:MOST_WORDS]
    quoted = [f'"{word}"' for word in words]
    if prefix and quoted and not text[-1:].isspace():
        quoted[-1] += "*"
    return " ".join(quoted) or None


def phrase_query(text: str) -> str | None:
    """FTS5 query for lines that hold the words of a text one behind the other; None without any words."""
    words = re.findall(r"\w+", text)[:MOST_WORDS]
    return f'"{" ".join(words)}"' if words else None


def unmark(marked: str) -> tuple[str, tuple[tuple[int, int], ...]]:
    """A text without the signs around its matches, and where they were."""
    text, ranges, start = "", [], 0
    for piece in re.split(f"([{OPEN}{CLOSE}])", marked):
        if piece == OPEN:
            start = len(text)
        elif piece == CLOSE:
            ranges.append((start, len(text)))
        else:
            text += piece
    return text, tuple(ranges)
