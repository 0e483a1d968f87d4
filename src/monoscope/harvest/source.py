"""ActivationSource: activations as a stream that can stop and go on, and the combinator that repeats one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from monoscope.core.batch import ActivationBatch
from monoscope.core.errors import DataError, MismatchError, NotFinite
from monoscope.core.site import Site

FEW = 100  # tokens; of more than ten thousand, a hundredth


class ActivationSource(ABC):
    """A resumable stream of activations. Like an open file it has one position, which every iteration shares.

    ``for batch in source`` continues from the position and stops at the end of the data; the position is then the
    beginning of the next pass, so iterating again reads the data again. A position taken between two batches and
    loaded into another source of the same making gives the same next batch, bit for bit.

    sites, widths: where the activations come from, and d at each site
    n_tokens: tokens of one pass that count, None where that is not known before reading
    models: the language models that read as it is iterated
    first_row: number of its first row (window, or token) in the source that this one is a part of
    """

    sites: tuple[Site, ...]
    widths: Mapping[Site, int]
    n_tokens: int | None
    first_row: int = 0
    models: tuple[Any, ...] = ()

    @property
    @abstractmethod
    def info(self) -> dict[str, Any]:
        """Provenance, as JSON: ``kind``, and where they apply ``model``, ``text``, ``dtype``, ``excluded``.

        ``excluded`` counts the tokens left out so far in this pass, by reason; everything else is fixed.
        """

    @abstractmethod
    def __iter__(self) -> Iterator[ActivationBatch]:
        """The batches from the current position to the end of the data."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """The position, as JSON values: small, whatever the size of the activations."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Move to a position. Raises MismatchError if it was taken in a source of other data."""

    def part(self, number: int, of: int) -> ActivationSource:
        """One of several consecutive parts, for one of several processes: the parts hold the same batches as the whole.

        Of a shuffled source they hold the same tokens, each part shuffled by itself.

        Raises MismatchError for a source that cannot be cut, or has fewer batches than there are parts.
        """
        raise MismatchError(f"activations of kind {self.info.get('kind')!r} are read by one process, not by {of}")


def part_rows(rows: int, per_batch: int, number: int, of: int) -> slice:
    """Rows of the ``number``-th of ``of`` consecutive parts, cut between batches."""
    assert 0 <= number < of, f"parts are numbered from 0 to {of - 1}, found {number}"
    batches = -(-rows // per_batch)
    if batches < of:
        raise MismatchError(f"{of} processes cannot share {batches} batches of {per_batch}; start {batches} at most")
    first, end = number * batches // of, (number + 1) * batches // of
    return slice(first * per_batch, min(end * per_batch, rows))


def check_same(state: Mapping[str, Any], **here: Any) -> None:
    """Raises MismatchError, naming the first difference, unless a saved position was taken in the source described."""
    for key, value in here.items():
        if state.get(key) != value:
            raise MismatchError(
                f"the saved position was taken in another source: its {key} is {state.get(key)!r}, here it is {value!r}"
            )


def first_not_finite(x: Float[Tensor, "*batch d"], counts: Bool[Tensor, "*batch"] | None = None) -> list[int] | None:
    """Place in the batch of the first token that counts and holds NaN or infinity; None if there is none."""
    # A sum is finite unless a summand is not or it overflows: one pass, and the exact answer only where it matters.
    if torch.isfinite(x.sum(dtype=torch.float32)):
        return None
    bad = ~torch.isfinite(x).all(-1)
    places = (bad if counts is None else bad & counts).nonzero()
    return places[0].tolist() if len(places) else None


def check_few_not_finite(n_left_out: int, n_read: int) -> None:
    """Raises NotFinite where more than a hundredth of the tokens read were left out for NaN or infinity."""
    if n_left_out > max(FEW, n_read // 100):
        raise NotFinite(
            f"{n_left_out:,} of {n_read:,} tokens were NaN or infinite and left out, which are too many; load the "
            "model in float32 or bfloat16, or find where they come from"
        )


def summed(a: Any, b: Any) -> Any:
    """Counts by reason, also by source and reason, of two parts together."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return {key: summed(a.get(key, 0), b.get(key, 0)) for key in sorted({**a, **b})}
    return a + b if isinstance(a, int) and isinstance(b, int) else a or b


def dtype_name(dtype: torch.dtype) -> str:
    """Name of a dtype as ``info`` writes it, such as ``float32``."""
    return str(dtype).removeprefix("torch.")


class Repeated(ActivationSource):
    """A source read several times over, or without end. See ``repeat``."""

    def __init__(self, source: ActivationSource, epochs: int | None) -> None:
        assert epochs is None or epochs >= 1, f"epochs counts passes from 1, found {epochs}"
        self.source, self.epochs, self.models = source, epochs, source.models
        self.sites, self.widths = source.sites, source.widths
        self.n_tokens = None if source.n_tokens is None or epochs is None else source.n_tokens * epochs
        self._epoch = 0

    @property
    def info(self) -> dict[str, Any]:
        """Provenance of the source, and how often it is read."""
        return self.source.info | {"epochs": self.epochs}

    def __iter__(self) -> Iterator[ActivationBatch]:
        """The remaining passes, without a seam."""
        empty_passes = 0
        while self.epochs is None or self._epoch < self.epochs:
            empty_passes += 1
            for batch in self.source:
                empty_passes = 0
                yield batch
            # A position taken after the last batch of a pass makes one pass look empty; two in a row are.
            if empty_passes == 2:
                raise DataError("there is nothing to repeat: the source has no tokens that count")
            self._epoch += 1
        self._epoch = 0

    def state_dict(self) -> dict[str, Any]:
        """The pass, and the position in it."""
        return {"epoch": self._epoch, "source": self.source.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Move to a position."""
        self.source.load_state_dict(state["source"])
        self._epoch = state["epoch"]


def repeat(source: ActivationSource, epochs: int | None = None) -> Repeated:
    """The source, read ``epochs`` times; without end by default. What is shuffled inside is shuffled anew each time."""
    return Repeated(source, epochs)


class Taken(ActivationSource):
    """The beginning of a source. See ``take``."""

    def __init__(self, source: ActivationSource, tokens: int) -> None:
        assert tokens >= 1, f"take at least one token, found {tokens}"
        self.source, self.tokens, self.models = source, tokens, source.models
        self.sites, self.widths = source.sites, source.widths
        self.n_tokens = None
        self._taken = 0
        self._start = source.state_dict()

    @property
    def info(self) -> dict[str, Any]:
        """Provenance of the source, and how much of it is read."""
        return self.source.info | {"take": self.tokens}

    def __iter__(self) -> Iterator[ActivationBatch]:
        """Batches of the source, the last of them the one that reaches ``tokens``."""
        if self._taken < self.tokens:
            for batch in self.source:
                self._taken += batch.n_tokens
                yield batch
                if self._taken >= self.tokens:
                    break
        self.source.load_state_dict(self._start)
        self._taken = 0

    def state_dict(self) -> dict[str, Any]:
        """The tokens taken so far, and the source's position now and at the start."""
        return {"taken": self._taken, "start": self._start, "source": self.source.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Move to a position."""
        self.source.load_state_dict(state["source"])
        self._taken, self._start = state["taken"], state["start"]


def take(source: ActivationSource, tokens: int) -> Taken:
    """The source up to the batch that reaches ``tokens`` tokens that count, and no further.

    A shuffle inside a training run reads ahead; around ``take`` it does not read what the run will never use.
    """
    return Taken(source, tokens)


@contextmanager
def in_step(source: ActivationSource) -> Iterator[None]:
    """Within the block, processes that share a model's weights read at their own pace; it ends once all have read."""
    yield
    for model in source.models:
        model.catch_up()
