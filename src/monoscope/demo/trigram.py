"""A trigram model with interpolated, modified Kneser-Ney smoothing: what a language model has to beat.

    p3(w | u v) = max(c(u v w) - D(c), 0) / c(u v .) + g(u v) p2(w | v)        g: the mass that discounting frees
    p2 and p1 alike, from the number of different tokens that precede; p0 is uniform

Counts of one, two, and three or more have discounts of their own, estimated from the counts of counts, so there is
nothing to tune. Source: Chen and Goodman 1999, An empirical study of smoothing techniques for language modeling.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

Counts = tuple[Int[np.ndarray, " gram"], Int[np.ndarray, " gram"]]  # distinct grams as sorted numbers, and how many


class Trigram:
    """Trigram model of a stream of token ids below ``vocab_size``."""

    def __init__(self, stream: Int[np.ndarray, " n"], vocab_size: int) -> None:
        ids = stream.astype(np.int64)
        self.vocab_size = vocab_size
        trigrams = np.unique((ids[:-2] * vocab_size + ids[1:-1]) * vocab_size + ids[2:], return_counts=True)
        bigrams = np.unique(trigrams[0] % vocab_size**2, return_counts=True)
        unigrams = np.unique(bigrams[0] % vocab_size, return_counts=True)
        self.levels = [_Level.of(counts, vocab_size) for counts in (unigrams, bigrams, trigrams)]

    def log_prob(self, stream: Int[np.ndarray, " n"]) -> Float[np.ndarray, " rest"]:
        """Natural logarithm of the probability of each token of a stream but the first two, given the two before it."""
        ids = stream.astype(np.int64)
        gram, p = np.zeros(len(ids) - 2, np.int64), np.full(len(ids) - 2, 1 / self.vocab_size)
        for order, level in enumerate(self.levels):
            # The gram of this order that ends in each token; its context is all but the last token.
            gram = gram + ids[2 - order : len(ids) - order] * self.vocab_size**order
            p = level.interpolated(gram, gram // self.vocab_size, p)
        return np.log(p)


@dataclass(frozen=True)
class _Level:
    """Discounted counts of grams of one length, and for every context the freed mass and the total."""

    grams: Int[np.ndarray, " gram"]
    discounted: Float[np.ndarray, " gram"]
    contexts: Int[np.ndarray, " context"]
    totals: Float[np.ndarray, " context"]
    freed: Float[np.ndarray, " context"]

    @classmethod
    def of(cls, counts: Counts, vocab_size: int) -> _Level:
        grams, n = counts
        discount = _discounts(n)[np.minimum(n, 3)]
        contexts, starts = np.unique(grams // vocab_size, return_index=True)
        totals, freed = (np.add.reduceat(values, starts) for values in (n.astype(float), discount))
        return cls(grams, n - discount, contexts, totals, freed)

    def interpolated(
        self, gram: Int[np.ndarray, " n"], context: Int[np.ndarray, " n"], shorter: Float[np.ndarray, " n"]
    ) -> Float[np.ndarray, " n"]:
        """Probability of each gram's last token in its context, given that under the context one token shorter."""
        at, seen = _find(self.grams, gram)
        count = np.where(seen, self.discounted[at], 0.0)
        at, known = _find(self.contexts, context)
        return np.where(known, (count + self.freed[at] * shorter) / self.totals[at], shorter)


def _discounts(counts: Int[np.ndarray, " gram"]) -> Float[np.ndarray, " 4"]:
    """What is taken from counts of 0, 1, 2, and 3 or more."""
    n = np.bincount(np.minimum(counts, 5), minlength=6)[1:5]
    if (n == 0).any():  # too little text to estimate from
        return np.array([0.0, 0.5, 0.5, 0.5])
    y = n[0] / (n[0] + 2 * n[1])
    return np.array([0.0, *(np.clip(i - (i + 1) * y * n[i] / n[i - 1], 0.0, i) for i in (1, 2, 3))])


def _find(known: Int[np.ndarray, " known"], wanted: Int[np.ndarray, " n"]) -> tuple[Int[np.ndarray, " n"], np.ndarray]:
    """Where each wanted number stands among the known ones, which are sorted, and whether it does."""
    at = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
    return at, known[at] == wanted
