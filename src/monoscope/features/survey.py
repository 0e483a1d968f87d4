"""Survey: one pass over a corpus, or over a part of it, and what it leaves in the collectors.

Samples are drawn by numbers that depend on the seed, the feature and the sequence alone, so surveys of the parts of a
corpus unite to the survey of the whole, whoever read which part. A survey on disk goes on where it was interrupted.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from safetensors import safe_open

from monoscope.core.errors import DataError
from monoscope.core.interrupts import interruptible
from monoscope.core.progress import progress
from monoscope.core.stores.remote import Location, Remote
from monoscope.core.tensors import read_tensors, write_tensors
from monoscope.dictionaries import Dictionary
from monoscope.features.collectors.activity import Activity
from monoscope.features.collectors.contexts import ContextPool, lengths_of
from monoscope.features.collectors.sample import SequenceSample
from monoscope.features.collectors.tokens import TokenStatistics
from monoscope.features.corpus import Corpus
from monoscope.features.firings import Firings
from monoscope.features.settings import Analysis
from monoscope.harvest import ActivationSource
from monoscope.harvest.source import in_step, summed

SAVE_EVERY = 300.0
"""Seconds between two savings."""

LAYOUT = 2
"""Of what is saved: a survey in another one is another job's, and not gone on with."""


@runtime_checkable
class Collector(Protocol):
    """Something learned about every feature while the corpus passes by once."""

    def update(self, firings: Firings) -> None:
        """Take in a batch."""

    def state(self) -> dict[str, np.ndarray]:
        """All that was collected, as arrays."""
        ...

    def load(self, state: Mapping[str, np.ndarray]) -> None:
        """Go on from a state."""


class Survey:
    """The collectors, and what they saw of a corpus whose sequences are numbered from ``first``."""

    def __init__(self, dictionary: Dictionary, config: Analysis, first: int = 0) -> None:
        n = dictionary.n_features
        self.dictionary, self.config = dictionary, config
        self.activity = Activity(n, config.intervals)
        self.tokens = TokenStatistics(n)
        self.contexts = ContextPool(n, top=config.top, window=config.window, seed=config.seed)
        self.sample = SequenceSample(n, seed=config.seed)
        self.corpus = Corpus(first)
        self.skip_first: int | None = None
        self.excluded: dict[str, Any] | None = None
        self.is_complete = False

    @property
    def collectors(self) -> dict[str, Collector]:
        """What is collected, by name."""
        return {"activity": self.activity, "tokens": self.tokens, "contexts": self.contexts, "sample": self.sample}

    def read(
        self, source: ActivationSource, *, tokens: int | None, title: str, path: Path, save_every: float = SAVE_EVERY
    ) -> None:
        """Read the source, or ``tokens`` tokens of it, from where the survey at ``path`` stopped if there is one.

        The survey is saved there from time to time, and when the process is asked to stop, which raises
        KeyboardInterrupt.
        """
        if path.is_file():
            self._restore(path, source)
        total = source.n_tokens if tokens is None else min(tokens, source.n_tokens or tokens)
        clock = time.monotonic()
        with interruptible() as interrupted, progress(title, total) as bar, in_step(source):
            bar.advance(self.activity.n_tokens)
            for batch in () if self.is_complete else source:
                firings = Firings.of(batch, self.dictionary, self.corpus.next)
                for collector in self.collectors.values():
                    collector.update(firings)
                self.corpus.add(firings.tokens, lengths_of(firings.counts), batch.documents)
                first = int(firings.counts.any(0).argmax())
                self.skip_first = first if self.skip_first is None else min(first, self.skip_first)
                bar.advance(firings.n_tokens)
                if tokens is not None and self.activity.n_tokens >= tokens:
                    break
                if interrupted or time.monotonic() - clock > save_every:
                    self.save(path, source.state_dict())
                    clock = time.monotonic()
                if interrupted:
                    raise KeyboardInterrupt(f"stopped after {self.activity.n_tokens:,} tokens")
        if not self.is_complete:
            self.excluded, self.is_complete = source.info.get("excluded"), True

    def absorb(self, other: Survey) -> None:
        """Take in the survey of a later part."""
        self.activity.absorb(other.activity)
        self.tokens.absorb(other.tokens)
        self.contexts.absorb(other.contexts)
        self.sample.absorb(other.sample)
        self.corpus.absorb(other.corpus)
        known = [first for first in (self.skip_first, other.skip_first) if first is not None]
        self.skip_first = min(known, default=None)
        self.excluded = summed(self.excluded, other.excluded)

    def save(self, path: Path, position: Mapping[str, Any] | None = None) -> None:
        """Write the survey as one file: whole, or as far as a source's ``position``."""
        parts: dict[str, Collector | Corpus] = {**self.collectors, "corpus": self.corpus}
        arrays = {f"{part}.{name}": x for part, own in parts.items() for name, x in own.state().items()}
        about = {"skip_first": self.skip_first, "excluded": self.excluded, "position": position}
        tensors = {name: torch.from_numpy(np.ascontiguousarray(x)) for name, x in arrays.items()}
        write_tensors(path, tensors, {"survey": json.dumps(about)})

    def load(self, path: Path) -> dict[str, Any] | None:
        """Take over what was saved; the position to go on from, None where nothing is left to read."""
        with safe_open(path, framework="pt") as file:
            about = json.loads(file.metadata()["survey"])
        tensors = {name: tensor.numpy() for name, tensor in read_tensors(path).items()}
        for part, own in {**self.collectors, "corpus": self.corpus}.items():
            own.load({k.removeprefix(f"{part}."): x for k, x in tensors.items() if k.startswith(f"{part}.")})
        self.skip_first, self.excluded = about["skip_first"], about["excluded"]
        self.is_complete = about["position"] is None
        return about["position"]

    def _restore(self, path: Path, source: ActivationSource) -> None:
        if (position := self.load(path)) is not None:
            source.load_state_dict(position)


def is_complete(path: Location) -> bool:
    """Whether a survey has read all of its part."""
    if not path.is_file():
        return False
    if isinstance(path, Remote):
        return _is_complete_there(path)
    with safe_open(path, framework="pt") as file:
        return json.loads(file.metadata()["survey"])["position"] is None


def _is_complete_there(path: Remote) -> bool:
    """The same, of a survey in a store, of which only the beginning is read."""
    (size,) = path.ranges([(0, 8)])
    (header,) = path.ranges([(8, 8 + int.from_bytes(size, "little"))])
    try:
        return json.loads(json.loads(header)["__metadata__"]["survey"])["position"] is None
    except ValueError:  # another took its place in between
        return False


def check_read(survey: Survey) -> None:
    """Raises DataError for a survey that saw nothing."""
    if not survey.activity.n_tokens:
        raise DataError("there is nothing to analyze: the source has no tokens that count")
