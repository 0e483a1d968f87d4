"""All lines of one dictionary in memory: any substring, and regular expressions in linear time.

Substrings are looked for in one long text, the lines one behind the other, without case: a few milliseconds for 131k
labels, in any script, where FTS5's trigrams would take four times as long to build as its words and know nothing of
two letters or one emoji. Regular expressions run in DuckDB (RE2), which has none that explode.
"""

from __future__ import annotations

import bisect
import re
from collections.abc import Iterator
from functools import cached_property

import numpy as np
import pyarrow as pa

from monoscope.features.search.database import Database
from monoscope.features.search.records import Match, Why, cut

END = "\n"


class Sheet:
    """Lines ``(feature, kind, text)``, in the order in which equal matches are given; no text holds a line break."""

    def __init__(self, serial: int, lines: list[tuple[int, Why, str]]) -> None:
        self.serial, self.lines = serial, lines

    def warm(self) -> None:
        """Make ready what the first query would wait for."""
        _ = self._text, self._starts, self.table

    @cached_property
    def _text(self) -> str:
        return END.join(_lower(text) for _, _, text in self.lines)

    @cached_property
    def _starts(self) -> list[int]:
        lengths = np.fromiter((len(text) + 1 for _, _, text in self.lines), np.int64, len(self.lines))
        return [0, *np.cumsum(lengths).tolist()]

    @cached_property
    def table(self) -> pa.Table:
        """The lines as DuckDB reads them: number, text."""
        numbers = np.arange(len(self.lines), dtype=np.int64)
        return pa.table({"line": numbers, "text": pa.array([text for _, _, text in self.lines], pa.string())})

    def find(self, query: str, limit: int) -> list[Match]:
        """Lines that hold a text, whatever its case; those that begin with it, or a word that does, count more."""
        wanted = _lower(query.replace(END, " "))
        found = []
        for number, places in self._places(wanted, limit):
            feature, why, text = self.lines[number]
            begins = places[0] == 0 or not text[places[0] - 1].isalnum()
            score = 0.6 + 0.4 * len(wanted) / len(text) - (0.0 if begins else 0.2)
            snippet, ranges = cut(text, tuple((place, place + len(wanted)) for place in places))
            found.append(Match(feature, why, score, snippet, ranges))
        return found

    def regex(self, pattern: str, database: Database, limit: int) -> list[Match]:
        """Lines in which a regular expression (RE2) matches. Raises ConfigError for what is none."""
        found = []
        for number, before, matched in database.matches(self.table, pattern, limit):
            feature, why, text = self.lines[number]
            snippet, ranges = cut(text, ((len(before), len(before) + len(matched)),))
            found.append(Match(feature, why, 1.0, snippet, ranges))
        return found

    def _places(self, wanted: str, limit: int) -> Iterator[tuple[int, list[int]]]:
        """Numbers of lines that hold a text, and where in each."""
        if not wanted:
            return
        text, starts, at = self._text, self._starts, 0
        for _ in range(limit):
            at = text.find(wanted, at)
            if at < 0:
                return
            number = bisect.bisect_right(starts, at) - 1
            start, stop = starts[number], starts[number + 1]
            yield number, [match.start() for match in re.finditer(re.escape(wanted), text[start : stop - 1])]
            at = stop


def smart_case(pattern: str) -> str:
    """A pattern without capital letters, escapes aside, matches whatever the case."""
    plain = re.sub(r"\\(?:[pP]\{[^}]*\}|.)", "", pattern)
    return pattern if plain != plain.lower() else f"(?i){pattern}"


def _lower(text: str) -> str:
    """Lower case, letter by letter, so that places stay what they are."""
    lowered = text.lower()
    if len(lowered) == len(text):
        return lowered
    return "".join(low if len(low := letter.lower()) == 1 else letter for letter in text)
