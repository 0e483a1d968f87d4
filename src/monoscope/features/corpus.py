"""Corpus: the token windows an analysis has read, by their numbers, and at the end those that some context needs."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Int64, Integer, UInt32
from torch import Tensor


class Corpus:
    """Token windows as they pass by, numbered from ``first``; parts of a corpus leave gaps between their numbers."""

    def __init__(self, first: int = 0) -> None:
        self.next = first
        self._first: list[int] = []
        self._tokens: list[np.ndarray] = []
        self._lengths: list[np.ndarray] = []
        self._documents: list[np.ndarray] = []

    def add(
        self, tokens: UInt32[np.ndarray, "s pos"], lengths: Integer[np.ndarray, " s"], documents: Tensor | None
    ) -> None:
        """Keep a batch's sequences; without documents, each sequence is one."""
        numbers = np.arange(self.next, self.next + len(tokens))
        self._add(self.next, tokens, lengths, numbers if documents is None else documents.cpu().numpy())

    def absorb(self, other: Corpus) -> None:
        """Take in a later part."""
        assert not other._first or other._first[0] >= self.next, "parts are absorbed in their order"
        for block in zip(other._first, other._tokens, other._lengths, other._documents, strict=True):
            self._add(*block)

    def state(self) -> dict[str, np.ndarray]:
        """All that was kept, as arrays; of one part, which has no gaps."""
        whole = self.tensors(np.arange(self.next - self.n_sequences, self.next))
        return {"first": np.array([self.next - self.n_sequences])} | {name: x.numpy() for name, x in whole.items()}

    def load(self, state: Mapping[str, np.ndarray]) -> None:
        """Go on from a state."""
        if len(state["tokens"]):
            self._add(int(state["first"][0]), state["tokens"], state["length"].astype(np.int64), state["doc"])

    @property
    def n_sequences(self) -> int:
        """How many windows there are."""
        return sum(map(len, self._tokens))

    @property
    def lengths(self) -> Int64[np.ndarray, " s"]:
        """Tokens of each sequence by its number; 0 in a gap."""
        return self._by_number(self._lengths)

    @property
    def context_length(self) -> int:
        """Tokens of the longest window."""
        return max((tokens.shape[1] for tokens in self._tokens), default=0)

    @property
    def highest(self) -> int:
        """Largest token id."""
        return max((int(tokens.max()) for tokens in self._tokens if tokens.size), default=-1)

    def tensors(self, chosen: Integer[np.ndarray, " n"]) -> dict[str, Tensor]:
        """Chosen sequences: tokens, length, doc."""
        out = np.zeros((len(chosen), self.context_length), np.uint32)
        block = np.searchsorted(np.array(self._first, np.int64), chosen, side="right") - 1
        for i in np.unique(block):
            rows, tokens = block == i, self._tokens[i]
            out[rows, : tokens.shape[1]] = tokens[chosen[rows] - self._first[i]]
        return {
            "tokens": torch.from_numpy(out),
            "length": torch.from_numpy(self.lengths[chosen].astype(np.uint16)),
            "doc": torch.from_numpy(self._by_number(self._documents)[chosen].astype(np.uint32)),
        }

    def _add(self, first: int, tokens: np.ndarray, lengths: np.ndarray, documents: np.ndarray) -> None:
        self._first.append(first)
        self._tokens.append(tokens)
        self._lengths.append(lengths)
        self._documents.append(documents)
        self.next = first + len(tokens)

    def _by_number(self, blocks: list[np.ndarray]) -> Int64[np.ndarray, " s"]:
        out = np.zeros(self.next, np.int64)
        for first, block in zip(self._first, blocks, strict=True):
            out[first : first + len(block)] = block
        return out
