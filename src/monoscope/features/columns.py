"""Lists of varying length, one per feature or per context, as flat arrays; and operations on runs of equal values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Int64, Integer, Shaped


@dataclass(frozen=True, slots=True)
class Ragged:
    """Lists end to end: list ``i`` is ``values[offsets[i]:offsets[i + 1]]``."""

    values: Shaped[np.ndarray, " n"]
    offsets: Int64[np.ndarray, " rows1"]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> np.ndarray:
        return self.values[self.offsets[row] : self.offsets[row + 1]]

    @property
    def lengths(self) -> Int64[np.ndarray, " rows"]:
        """Length of each list."""
        return np.diff(self.offsets)

    def take(self, rows: Int64[np.ndarray, " m"]) -> Ragged:
        """The lists of chosen rows, in that order."""
        lengths = self.lengths[rows]
        return Ragged(self.values[spans(self.offsets[rows], lengths)], offsets_of(lengths))

    @staticmethod
    def join(parts: Sequence[Ragged]) -> Ragged:
        """The lists of several lots, one lot after the other."""
        offsets = offsets_of(np.concatenate([part.lengths for part in parts]))
        return Ragged(np.concatenate([part.values for part in parts]), offsets)

    @staticmethod
    def from_table(table: Shaped[np.ndarray, "rows k"], keep: Bool[np.ndarray, "rows k"] | None = None) -> Ragged:
        """Lists of the rows of a table: all entries, or those to keep."""
        if keep is None:
            keep = np.ones(table.shape, bool)
        return Ragged(table[keep], offsets_of(keep.sum(1)))

    @staticmethod
    def from_groups(values: Shaped[np.ndarray, " n"], group: Shaped[np.ndarray, " n"], rows: int) -> Ragged:
        """Lists of values whose sorted ``group`` says which row they belong to."""
        return Ragged(values, offsets_of(np.bincount(group, minlength=rows)))


@dataclass(frozen=True, slots=True)
class Columns:
    """What is known of each feature, by name: one value (``scalars``, arrays ``[F]``), or a list of them."""

    scalars: Mapping[str, np.ndarray] = field(default_factory=dict)
    lists: Mapping[str, Ragged] = field(default_factory=dict)

    def __or__(self, other: Columns) -> Columns:
        return Columns({**self.scalars, **other.scalars}, {**self.lists, **other.lists})


def offsets_of(lengths: Shaped[np.ndarray, " rows"]) -> Int64[np.ndarray, " rows1"]:
    """Bounds of lists of given lengths: ``[0, l0, l0 + l1, ...]``."""
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def spans(starts: Shaped[np.ndarray, " rows"], lengths: Shaped[np.ndarray, " rows"]) -> Int64[np.ndarray, " n"]:
    """Indices ``starts[i], starts[i] + 1, ...``, ``lengths[i]`` of them, for each i in turn."""
    bounds = offsets_of(lengths)
    return np.arange(bounds[-1]) + np.repeat(starts - bounds[:-1], lengths)


def order_of(key: Integer[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
    """Stable order that sorts integer keys that are not negative.

    A radix sort by 16-bit digits, of which NumPy has the fast kernel: several times the pace of its own argsort.
    """
    order = np.arange(len(key))
    highest = int(key.max(initial=0))
    for shift in range(0, max(highest.bit_length(), 1), 16):
        digit = (key >> shift).astype(np.uint16)
        order = order[np.argsort(digit[order], kind="stable")]
    return order


def rank_in_runs(sorted_key: Shaped[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
    """Place of each entry in its run of equal keys, from 0."""
    n = len(sorted_key)
    starts = np.flatnonzero(np.append(True, sorted_key[1:] != sorted_key[:-1])) if n else np.zeros(0, np.int64)
    return np.arange(n) - np.repeat(starts, np.diff(np.append(starts, n)))
