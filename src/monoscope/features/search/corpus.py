"""Contexts: the features that fire where a text stands in the sequences of a bundle.

The text is looked for in the sequences themselves, each stored once, and each place found is looked up among the
contexts of its sequence. A feature whose strongest token is part of the match counts more than one that merely has it
in its window.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
from jaxtyping import Int64

from monoscope.features.search.derived import Arrays, slices
from monoscope.features.search.records import Match
from monoscope.features.search.tokens import strongest

MOST_PLACES, MOST_LOOKED = 4000, 40_000
WORD = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789_") | frozenset(range(128, 256))
AROUND = 70  # characters of a snippet on each side of the match


class Corpus:
    """The sequences that a bundle's contexts come from."""

    def __init__(self, arrays: Arrays, n_features: int) -> None:
        self.arrays, self.n_features = arrays, n_features

    def find(self, query: str, limit: int, *, whole: bool = False) -> tuple[list[Match], bool]:
        """Features with contexts that hold a text, ASCII case aside; and whether it stands in more places than read.

        It is looked for where a word begins, if it begins with a letter; ``whole``: where one ends, too.
        """
        wanted = query.strip().encode("utf-8", "replace").lower()
        if not wanted.strip(b" \t"):
            return [], False
        places = self._places(wanted, whole)
        if len(places) == 0:
            return [], False
        token, sequence = self.arrays["token"], self.arrays["sequence"]
        first = np.searchsorted(token, places, side="right") - 1
        last = np.searchsorted(token, places + len(wanted), side="left")
        at, which = slices(self.arrays["context.offset"], np.searchsorted(sequence, first, side="right") - 1)
        start, stop = self.arrays["context.start"][at], self.arrays["context.stop"][at]
        inside = (start <= first[which]) & (last[which] <= stop)
        at, which = at[inside], which[inside]
        peak = self.arrays["context.peak"][at]
        is_peak = (first[which] <= peak) & (peak < last[which])
        return self._matches(at, which, is_peak, places, len(wanted), limit), len(places) == MOST_PLACES

    def _matches(
        self, at: np.ndarray, which: np.ndarray, is_peak: np.ndarray, places: np.ndarray, length: int, limit: int
    ) -> list[Match]:
        feature = self.arrays["context.feature"][at].astype(np.int64)
        peaks = np.bincount(feature, weights=is_peak, minlength=self.n_features)
        windows = np.bincount(feature, minlength=self.n_features)
        score = np.where(windows > 0, 0.9 * peaks / (peaks + 2) + 0.1 * windows / (windows + 5), 0.0)
        example = np.full(self.n_features, -1)
        order = np.lexsort((-np.arange(len(at)), is_peak))  # the first at a peak is written last, and stays
        example[feature[order]] = order
        found = []
        for number in strongest(score, limit).tolist():
            row = example[number]
            snippet, ranges = self._snippet(int(at[row]), int(places[which[row]]), length)
            found.append(Match(number, "context", float(score[number]), snippet, ranges))
        return found

    def _snippet(self, context: int, place: int, length: int) -> tuple[str, tuple[tuple[int, int], ...]]:
        token = self.arrays["token"]
        start, stop = (int(token[self.arrays[f"context.{end}"][context]]) for end in ("start", "stop"))
        before = self._text[start:place].decode("utf-8", "replace")[-AROUND:]
        matched = self._text[place : place + length].decode("utf-8", "replace")
        after = self._text[place + length : stop].rstrip(b"\0").decode("utf-8", "replace")[:AROUND]
        return before + matched + after, ((len(before), len(before) + len(matched)),)

    def _places(self, wanted: bytes, whole: bool) -> Int64[np.ndarray, " n"]:
        text, found, at = self._lowered, [], -1
        begins, ends = wanted[:1].isalnum(), whole and wanted[-1:].isalnum()
        for _ in range(MOST_LOOKED):
            if (at := text.find(wanted, at + 1)) < 0 or len(found) == MOST_PLACES:
                break
            if begins and at and text[at - 1] in WORD:
                continue
            if ends and text[at + len(wanted)] in WORD:  # a NUL at least follows
                continue
            found.append(at)
        return np.array(found, np.int64)

    @cached_property
    def _text(self) -> bytes:
        return (self.arrays.path / "text.bin").read_bytes()

    @cached_property
    def _lowered(self) -> bytes:
        return self._text.lower()
