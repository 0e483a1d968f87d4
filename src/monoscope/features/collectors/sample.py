"""A sample of whole sequences with everything that fires in them: what co-activation and negatives are read from.

The sequences are those with the smallest of random numbers that depend on (seed, sequence) alone; they are bounded by
tokens and by entries, so that dense dictionaries cost no more memory than sparse ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int32, Int64, UInt32, UInt64

from monoscope.features.chance import draw
from monoscope.features.columns import offsets_of, order_of
from monoscope.features.firings import Firings

MAX_TOKENS, MAX_ENTRIES = 2**17, 2**22
FIELDS = ("key", "sequence", "tokens", "counts", "n_entries", "owner", "feature", "position")


@dataclass(frozen=True, slots=True)
class Sample:
    """Sampled sequences, and their entries sorted by (feature, token).

    sequence: ``[s]`` their numbers in the corpus; tokens, counts: ``[s, pos]``
    feature, token: ``[n]`` entries; ``token`` numbers the positions of the sample row by row
    """

    n_features: int
    sequence: Int64[np.ndarray, " s"]
    tokens: UInt32[np.ndarray, "s pos"]
    counts: Bool[np.ndarray, "s pos"]
    feature: Int32[np.ndarray, " n"]
    token: Int32[np.ndarray, " n"]

    @property
    def bounds(self) -> Int64[np.ndarray, " f1"]:
        """Where each feature's entries begin."""
        return offsets_of(np.bincount(self.feature, minlength=self.n_features))


@dataclass(slots=True)
class _Part:
    key: UInt64[np.ndarray, " s"]
    sequence: Int64[np.ndarray, " s"]
    tokens: UInt32[np.ndarray, "s pos"]
    counts: Bool[np.ndarray, "s pos"]
    n_entries: Int64[np.ndarray, " s"]
    owner: Int32[np.ndarray, " n"]  # entries: row of the part, feature, position
    feature: Int32[np.ndarray, " n"]
    position: Int32[np.ndarray, " n"]

    def take(self, keep: Bool[np.ndarray, " s"]) -> _Part:
        """The kept sequences, with their entries."""
        entries = keep[self.owner]
        owner = (np.cumsum(keep) - 1)[self.owner[entries]].astype(np.int32)
        rows = (self.key[keep], self.sequence[keep], self.tokens[keep], self.counts[keep], self.n_entries[keep])
        return _Part(*rows, owner, self.feature[entries], self.position[entries])


class SequenceSample:
    """Collects the sample while the corpus passes by."""

    def __init__(
        self, n_features: int, *, seed: int, max_tokens: int = MAX_TOKENS, max_entries: int = MAX_ENTRIES
    ) -> None:
        self.n_features, self.seed = n_features, seed
        self.max_tokens, self.max_entries = max_tokens, max_entries
        self.ceiling = np.uint64(2**64 - 1)
        self._parts: list[_Part] = []
        self._tokens = self._entries = 0

    def update(self, firings: Firings) -> None:
        """Let a batch's sequences in."""
        sequence = firings.first + np.arange(len(firings.tokens))
        key = draw(self.seed, sequence)
        keep = (key <= self.ceiling) & firings.counts.any(1)
        if not keep.any():
            return
        n_entries = np.bincount(firings.sequence, minlength=len(keep))
        part = _Part(
            key,
            sequence,
            firings.tokens,
            firings.counts,
            n_entries,
            firings.sequence,
            firings.feature,
            firings.position,
        ).take(keep)
        self._parts.append(part)
        self._tokens += int(part.counts.sum())
        self._entries += len(part.owner)
        if self._tokens > 1.5 * self.max_tokens or self._entries > 1.5 * self.max_entries:
            self._merge()

    def absorb(self, other: SequenceSample) -> None:
        """Take in what another collected on other sequences."""
        self._parts += other._parts
        self._merge()

    def state(self) -> dict[str, np.ndarray]:
        """All that was collected, as arrays."""
        part = self._merge()
        return {name: getattr(part, name) for name in FIELDS} | {"ceiling": np.array([self.ceiling])}

    def load(self, state: Mapping[str, np.ndarray]) -> None:
        """Go on from a state."""
        self._parts, self.ceiling = [_Part(*(state[name] for name in FIELDS))], state["ceiling"][0]
        self._merge()

    def finish(self) -> Sample:
        """The sample, in the order of the corpus."""
        part = self._merge()
        width = part.tokens.shape[1]
        order = order_of((part.feature.astype(np.int64) << 32) | (part.owner.astype(np.int64) * width + part.position))
        token = part.owner * np.int32(width) + part.position
        return Sample(
            self.n_features, part.sequence, part.tokens, part.counts, part.feature[order], token[order].astype(np.int32)
        )

    def _merge(self) -> _Part:
        part = _join(self._parts)
        order = np.argsort(part.key, kind="stable")
        tokens = np.cumsum(part.counts[order].sum(1))
        entries = np.cumsum(part.n_entries[order])
        n = max(int(np.sum((tokens <= self.max_tokens) & (entries <= self.max_entries))), min(1, len(order)))
        if n < len(order):
            self.ceiling = part.key[order[n - 1]]
            keep = np.zeros(len(order), bool)
            keep[order[:n]] = True
            part = part.take(keep)
        self._parts = [part]
        self._tokens, self._entries = int(part.counts.sum()), len(part.owner)
        return part


def _join(parts: list[_Part]) -> _Part:
    width = max((part.tokens.shape[1] for part in parts), default=1)
    first = offsets_of(np.array([len(part.key) for part in parts], np.int64)).astype(np.int32)

    def rows(name: str, empty: np.ndarray) -> np.ndarray:
        tables = [getattr(part, name) for part in parts]
        if empty.ndim == 2:
            tables = [np.pad(table, ((0, 0), (0, width - table.shape[1]))) for table in tables]
        return np.concatenate([empty, *tables])

    none = np.zeros(0, np.int32)
    owner = [part.owner + start for part, start in zip(parts, first[:-1], strict=True)]
    return _Part(
        rows("key", np.zeros(0, np.uint64)),
        rows("sequence", np.zeros(0, np.int64)),
        rows("tokens", np.zeros((0, width), np.uint32)),
        rows("counts", np.zeros((0, width), bool)),
        rows("n_entries", np.zeros(0, np.int64)),
        np.concatenate([none, *owner]),
        rows("feature", none),
        rows("position", none),
    )
