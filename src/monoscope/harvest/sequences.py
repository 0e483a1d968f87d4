"""Whole sequences in batches of one size, for dictionaries that need positions: attention, and losses of the model.

Batches of a source are cut and joined by rows. Sequences of different lengths are padded to the longest of their batch,
where ``mask`` is False.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from monoscope.core.batch import ActivationBatch
from monoscope.core.errors import ConfigError, MismatchError
from monoscope.harvest.source import ActivationSource


class Sequences(ActivationSource):
    """A source's sequences, as many at once as fit a number of tokens. See ``sequences``."""

    def __init__(self, source: ActivationSource, batch_tokens: int) -> None:
        assert batch_tokens >= 1, f"a batch holds at least one token, found {batch_tokens}"
        if "shuffle" in source.info:
            raise _no_sequences("this source is shuffled, token by token")
        self.source, self.batch_tokens = source, batch_tokens
        self.sites, self.widths, self.n_tokens = source.sites, source.widths, source.n_tokens
        self.models = source.models
        self._forget()

    @property
    def info(self) -> dict[str, Any]:
        """Provenance of the source."""
        return self.source.info

    def __iter__(self) -> Iterator[ActivationBatch]:
        """Batches of as many rows as fit; the last of a pass may be smaller."""
        stream = iter(self.source)
        self._restore(stream)
        while pieces := self._take(stream):
            yield pieces[0] if len(pieces) == 1 else _joined(pieces)
        self._forget()

    def state_dict(self) -> dict[str, Any]:
        """The source's position before the batch in hand, and how many of its rows have left."""
        position = self.source.state_dict() if self._position is None else self._position
        return {"used": self._used, "source": position}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Move to a position; the batch in hand is read again when the next one is asked for."""
        self.source.load_state_dict(state["source"])
        self._forget()
        self._used = state["used"]

    def _forget(self) -> None:
        """Stand before the first batch of a pass."""
        self._position: dict[str, Any] | None = None
        self._batch: ActivationBatch | None = None
        self._used, self._ended = 0, False

    def _restore(self, stream: Iterator[ActivationBatch]) -> None:
        """Read again the batch in hand, after a position inside it was loaded."""
        if self._batch is None and self._used:
            used = self._used
            self._read(stream)
            self._used = used

    def _read(self, stream: Iterator[ActivationBatch]) -> None:
        """Take the source's next batch in hand; at its end, keep the last, so that the position stays in this pass."""
        position = self.source.state_dict()
        batch = next(stream, None)
        if batch is None:
            self._ended = True
            return
        if next(iter(batch.activations.values())).ndim == 2:
            raise _no_sequences("the batches of this source are single tokens")
        self._position, self._batch, self._used = position, batch, 0

    def _take(self, stream: Iterator[ActivationBatch]) -> list[ActivationBatch]:
        """Rows of the next batch, in pieces of one length each; none at the end."""
        pieces: list[ActivationBatch] = []
        n = longest = 0
        while not self._ended:
            if self._batch is None or self._used == _shape(self._batch)[0]:
                self._read(stream)
                continue
            rows, context = _shape(self._batch)
            if context > self.batch_tokens:
                raise ConfigError(
                    f"a batch of {self.batch_tokens} tokens holds no sequence of {context}; set batch_tokens to "
                    f"{context} or more, or read shorter windows"
                )
            fits = self.batch_tokens // max(longest, context) - n
            if fits <= 0:
                break
            end = min(rows, self._used + fits)
            pieces.append(_rows(self._batch, self._used, end))
            n, longest = n + end - self._used, max(longest, context)
            self._used = end
        return pieces


def _shape(batch: ActivationBatch) -> tuple[int, int]:
    """Sequences of a batch, and their length."""
    rows, context = next(iter(batch.activations.values())).shape[:2]
    return rows, context


def _no_sequences(found: str) -> MismatchError:
    return MismatchError(
        f"whole sequences are needed, and {found}: which tokens stood together is lost; give the live source, or a "
        "store harvested from it"
    )


def _rows(batch: ActivationBatch, first: int, end: int) -> ActivationBatch:
    def cut(x: Tensor | None) -> Tensor | None:
        return None if x is None else x[first:end]

    return ActivationBatch(
        {site: x[first:end] for site, x in batch.activations.items()},
        tokens=cut(batch.tokens),
        mask=cut(batch.mask),
        positions=cut(batch.positions),
        documents=cut(batch.documents),
    )


def _joined(pieces: Sequence[ActivationBatch]) -> ActivationBatch:
    """Pieces under each other, padded to the longest."""
    longest = max(_shape(piece)[1] for piece in pieces)
    if any(piece.mask is not None or _shape(piece)[1] < longest for piece in pieces):
        pieces = [replace(piece, mask=_mask(piece)) for piece in pieces]

    def join(parts: list[Tensor | None]) -> Tensor | None:
        present = [part for part in parts if part is not None]
        if not present:
            return None
        return torch.cat([part if part.ndim == 1 else _padded(part, longest) for part in present])

    return ActivationBatch(
        {
            site: torch.cat([_padded(piece.activations[site], longest) for piece in pieces])
            for site in pieces[0].activations
        },
        tokens=join([piece.tokens for piece in pieces]),
        mask=join([piece.mask for piece in pieces]),
        positions=join([piece.positions for piece in pieces]),
        documents=join([piece.documents for piece in pieces]),
    )


def _mask(batch: ActivationBatch) -> Tensor:
    x = next(iter(batch.activations.values()))
    return torch.ones(x.shape[:2], dtype=torch.bool, device=x.device) if batch.mask is None else batch.mask


def _padded(x: Tensor, length: int) -> Tensor:
    """``[row, pos, ...]`` with zeros up to ``length`` positions."""
    if x.shape[1] == length:
        return x
    return torch.cat([x, x.new_zeros(len(x), length - x.shape[1], *x.shape[2:])], dim=1)


def sequences(source: ActivationSource, batch_tokens: int) -> ActivationSource:
    """The source's sequences, whole and in order, ``batch_tokens // context`` at once: ``[sequence, pos, d]``.

    Tokens, mask, positions and documents stay with them. Where lengths differ, a batch holds as many as fit with their
    padding. Raises MismatchError for a source of single tokens, ConfigError where not one sequence fits.
    """
    return Sequences(source, batch_tokens)
