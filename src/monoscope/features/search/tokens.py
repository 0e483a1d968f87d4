"""Tokens: the features that fire on them, or whose direction raises or lowers their logits."""

from __future__ import annotations

from collections import defaultdict
from functools import cached_property

import numpy as np
import pyarrow as pa
from jaxtyping import Int64

from monoscope.features.bundle import FeatureBundle
from monoscope.features.search.database import Database
from monoscope.features.search.derived import Arrays, spans
from monoscope.features.search.records import Match

MOST_TOKENS = 2000  # of the vocabulary, that one query names
STRENGTH = {"same": 1.0, "alike": 0.9, "begins": 0.6}


class TokenIndex:
    """Which tokens a query means, and the features each of them leads to."""

    def __init__(self, bundle: FeatureBundle, arrays: Arrays) -> None:
        self.bundle, self.arrays = bundle, arrays

    def named(self, query: str, *, exact: bool = False, prefix: bool = False) -> dict[int, float]:
        """Tokens that a text names, and how well: the same text; the same without space and case; beginning with it.

        ``exact`` stops at the first; ``prefix`` goes on to the last even where there are better ones.
        """
        same = dict.fromkeys(self._same.get(query, ()), STRENGTH["same"])
        if exact:
            return same
        plain = _plain(query)
        alike = dict.fromkeys(self._alike.get(plain, ()), STRENGTH["alike"]) if plain else {}
        begins: dict[int, float] = {}
        if plain and (prefix or not (same or alike)):
            start = int(np.searchsorted(self._sorted[0], plain))
            for text, token in zip(self._sorted[0][start : start + MOST_TOKENS], self._sorted[1][start:], strict=False):
                if not text.startswith(plain):
                    break
                begins[int(token)] = STRENGTH["begins"]
        return begins | alike | same

    def matching(self, pattern: str, database: Database) -> dict[int, float]:
        """Tokens in which a regular expression matches."""
        return {token: 1.0 for token, _, _ in database.matches(self._table, pattern, MOST_TOKENS)}

    def fires(self, tokens: dict[int, float], limit: int) -> list[Match]:
        """Features that fire on these tokens, by the share of their firings."""
        return self._features(tokens, ("fires",), limit, 1.0)

    def logits(self, tokens: dict[int, float], limit: int) -> list[Match]:
        """Features whose direction raises or lowers the logits of these tokens, by how much."""
        return self._features(tokens, ("raises", "lowers"), limit, self._strongest_logit)

    def _features(self, tokens: dict[int, float], kinds: tuple[str, ...], limit: int, unit: float) -> list[Match]:
        if not tokens:
            return []
        named = np.array(sorted(tokens), np.int64)
        strength = np.array([tokens[token] for token in named.tolist()], np.float32)
        score = np.zeros(len(self.bundle), np.float32)
        best = np.zeros(len(self.bundle), np.float32)
        token_of = np.zeros(len(self.bundle), np.int64)
        for kind in kinds:
            offset = self.arrays[f"{kind}.offset"]
            places, which = spans(offset[named], offset[named + 1])
            features = self.arrays[f"{kind}.feature"][places].astype(np.int64)
            value = self.arrays[f"{kind}.value"][places] / unit * strength[which]
            np.add.at(score, features, value)
            order = np.argsort(value, kind="stable")  # of a feature's tokens the strongest is written last
            better = order[value[order] > best[features[order]]]
            best[features[better]], token_of[features[better]] = value[better], named[which[better]]
        why = "token" if kinds == ("fires",) else "logit"
        return [
            Match(feature, why, min(float(score[feature]), 1.0), *self._shown(int(token_of[feature])))
            for feature in strongest(score, limit).tolist()
        ]

    def _shown(self, token: int) -> tuple[str, tuple[tuple[int, int], ...]]:
        text = self.bundle.vocabulary[token]
        return text, ((0, len(text)),)

    def warm(self) -> None:
        """Make ready what the first query would wait for."""
        _ = self._same, self._alike, self._sorted, self._strongest_logit

    @cached_property
    def _strongest_logit(self) -> float:
        return max(float(self.arrays[f"{kind}.value"].max(initial=0)) for kind in ("raises", "lowers")) or 1.0

    @cached_property
    def _same(self) -> dict[str, list[int]]:
        found: dict[str, list[int]] = defaultdict(list)
        for token, text in enumerate(self.bundle.vocabulary):
            found[text].append(token)
        return dict(found)

    @cached_property
    def _alike(self) -> dict[str, list[int]]:
        found: dict[str, list[int]] = defaultdict(list)
        for token, text in enumerate(self.bundle.vocabulary):
            found[_plain(text)].append(token)
        return dict(found)

    @cached_property
    def _sorted(self) -> tuple[np.ndarray, Int64[np.ndarray, " V"]]:
        plain = np.array([_plain(text) for text in self.bundle.vocabulary], object)
        order = np.argsort(plain, kind="stable")
        return plain[order], order

    @cached_property
    def _table(self) -> pa.Table:
        numbers = np.arange(len(self.bundle.vocabulary), dtype=np.int64)
        return pa.table({"line": numbers, "text": pa.array(self.bundle.vocabulary, pa.string())})


def strongest(score: np.ndarray, limit: int) -> Int64[np.ndarray, " n"]:
    """Features with the highest scores above zero, best first; of equal ones the lower number."""
    found = np.flatnonzero(score > 0)
    if len(found) > limit:
        edge = np.partition(score[found], len(found) - limit)[len(found) - limit]
        found = found[score[found] >= edge]
    return found[np.argsort(-score[found], kind="stable")][:limit]


def _plain(text: str) -> str:
    return text.strip().casefold()
