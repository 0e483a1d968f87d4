"""Contexts: the features that fire where a text stands in the sequences of a bundle.

The text is looked for in the sequences themselves, each stored once, and each place found is looked up among the
contexts of its sequence. A feature whose strongest token is part of the match counts more than one that merely has it
in its window.

Places where a word begins are kept in the order of their first eight bytes, as numbers:

    key(p) = sum_i text[p + i] 256^(7 - i),  i = 0..7

so that all words that begin with a text lie between two keys; a text of more bytes is compared at those places only.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
from jaxtyping import Int64, UInt8, UInt32, UInt64

from monoscope.features.search.derived import Arrays, spans
from monoscope.features.search.records import Match
from monoscope.features.search.tokens import strongest

MOST_PLACES, MOST_LOOKED, MOST_CONTEXTS = 4000, 20_000, 200_000
KEY = 8  # bytes
IN_WORD = np.isin(np.arange(256), [*b"abcdefghijklmnopqrstuvwxyz0123456789_", *range(128, 256)])
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
        token, peak = self.arrays["token"], self.arrays["context.peak"]
        first = np.searchsorted(token, places, side="right") - 1
        last = np.searchsorted(token, places + len(wanted), side="left")
        low, high = _before(peak, first), _before(peak, last)
        at, which = spans(low, high)
        peaks = self._counts(at)
        if np.count_nonzero(peaks) >= limit:
            windows = peaks
        else:
            near, of = self._around(first, last)
            windows = peaks + self._counts(near)
            at, which = np.concatenate([at, near]), np.concatenate([which, of])
        score = np.where(windows > 0, 0.9 * peaks / (peaks + 2) + 0.1 * windows / (windows + 5), 0.0)
        return self._matches(score, at, which, places, len(wanted), limit), len(places) == MOST_PLACES

    def warm(self) -> None:
        """Make ready what the first query would wait for."""
        _ = self._words, self._reach

    def _around(self, first: np.ndarray, last: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Contexts that hold a match away from their strongest token, of as many matches as can be looked at."""
        peak = self.arrays["context.peak"]
        low, high = _before(peak, first - self._reach), _before(peak, last + self._reach)
        some = np.cumsum(high - low) <= MOST_CONTEXTS
        some[:1] = True
        at, which = spans(low[some], high[some])
        inside = (self.arrays["context.start"][at] <= first[which]) & (last[which] <= self.arrays["context.stop"][at])
        inside &= (peak[at] < first[which]) | (peak[at] >= last[which])
        return at[inside], which[inside]

    def _counts(self, at: np.ndarray) -> np.ndarray:
        return np.bincount(self.arrays["context.feature"][at], minlength=self.n_features)

    def _matches(
        self, score: np.ndarray, at: np.ndarray, which: np.ndarray, places: np.ndarray, length: int, limit: int
    ) -> list[Match]:
        features = self.arrays["context.feature"][at]
        best = strongest(score, limit)
        order = np.argsort(features, kind="stable")  # of a feature's contexts the first: one with the match at its peak
        example = order[np.searchsorted(features, best, sorter=order)]
        return [
            Match(
                feature,
                "context",
                float(score[feature]),
                *self._snippet(int(at[row]), int(places[which[row]]), length),
            )
            for feature, row in zip(best.tolist(), example.tolist(), strict=True)
        ]

    def _snippet(self, context: int, place: int, length: int) -> tuple[str, tuple[tuple[int, int], ...]]:
        token = self.arrays["token"]
        start, stop = (int(token[self.arrays[f"context.{end}"][context]]) for end in ("start", "stop"))
        before = self._text[start:place].decode("utf-8", "replace")[-AROUND:]
        matched = self._text[place : place + length].decode("utf-8", "replace")
        after = self._text[place + length : stop].rstrip(b"\0").decode("utf-8", "replace")[:AROUND]
        return before + matched + after, ((len(before), len(before) + len(matched)),)

    def _places(self, wanted: bytes, whole: bool) -> Int64[np.ndarray, " n"]:
        """Where a text stands, in order; of too many places the first."""
        found = self._begun(wanted) if wanted[:1].isalnum() else self._anywhere(wanted)
        if whole and wanted[-1:].isalnum():
            found = found[~IN_WORD[self._bytes[found + len(wanted)]]]  # a NUL at least follows
        if len(found) > MOST_PLACES:
            found = np.partition(found, MOST_PLACES)[:MOST_PLACES]
        return np.sort(found).astype(np.int64)

    def _begun(self, wanted: bytes) -> UInt32[np.ndarray, " n"]:
        """Where words begin with a text."""
        keys, places = self._words
        low, high = (int.from_bytes(wanted[:KEY].ljust(KEY, fill)) for fill in (b"\0", b"\xff"))
        first, last = np.searchsorted(keys, np.uint64(low)), np.searchsorted(keys, np.uint64(high), side="right")
        found, text = places[first:last], self._lowered
        if len(wanted) > KEY:
            found = found[[text.startswith(wanted, at) for at in found.tolist()]]
        return found

    def _anywhere(self, wanted: bytes) -> UInt32[np.ndarray, " n"]:
        text, found, at = self._lowered, [], -1
        while len(found) < MOST_LOOKED and (at := text.find(wanted, at + 1)) >= 0:
            found.append(at)
        return np.array(found, np.uint32)

    @cached_property
    def _reach(self) -> int:
        """Tokens between a context's strongest one and its farthest, at most."""
        peak, start, stop = (self.arrays[f"context.{name}"].astype(np.int64) for name in ("peak", "start", "stop"))
        return int(np.maximum(peak - start, stop - peak).max(initial=0))

    @cached_property
    def _words(self) -> tuple[UInt64[np.ndarray, " w"], UInt32[np.ndarray, " w"]]:
        """Keys of all words, and where they begin. See the module."""
        text = self._bytes
        begins = IN_WORD[text]
        begins[1:] &= ~IN_WORD[text[:-1]]
        places = np.flatnonzero(begins)
        keys = np.zeros(len(places), np.uint64)
        for i in range(KEY):
            at = places + i
            byte = text[np.minimum(at, len(text) - 1)].astype(np.uint64)
            byte[at >= len(text)] = 0
            keys = keys << np.uint64(8) | byte
        order = np.argsort(keys, kind="stable")
        return keys[order], places[order].astype(np.uint32)

    @cached_property
    def _bytes(self) -> UInt8[np.ndarray, " t"]:
        return np.frombuffer(self._lowered, np.uint8)

    @cached_property
    def _text(self) -> bytes:
        return (self.arrays.path / "text.bin").read_bytes()

    @cached_property
    def _lowered(self) -> bytes:
        return self._text.lower()


def _before(peak: UInt32[np.ndarray, " c"], token: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
    """How many contexts have their strongest token before these. The type is the array's, or all of it is converted."""
    return np.searchsorted(peak, np.maximum(token, 0).astype(np.uint32))
