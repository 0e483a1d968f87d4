"""Several models, or training snapshots of one, read side by side on the same tokens: what crosscoders compare.

    together({"base": live(base, windows, sites), "tuned": live(tuned, windows, sites)})

Batches are those of the sources laid on top of each other, without copying: site S of source "tuned" becomes
``S@tuned``. That the tokens are the same is checked in every batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from monoscope.core.batch import ActivationBatch
from monoscope.core.errors import ConfigError, MismatchError
from monoscope.core.site import Site
from monoscope.harvest.source import ActivationSource

SAME = {  # what sources must share as far as they say it, and what to do where they do not
    "tokenizer": "their vocabularies differ, so their tokens do not stand for the same text",
    "windows": "they read other windows; give both the same TokenWindows",
}
TEXT = ("tokens", "positions", "documents")


class Together(ActivationSource):
    """Sources of the same tokens as one. See ``together``."""

    def __init__(self, sources: Mapping[str, ActivationSource]) -> None:
        if not sources:
            raise ConfigError("there are no sources to read together; give one for each label")
        self.sources = dict(sources)
        self.models = tuple(model for source in sources.values() for model in source.models)
        self._names = {label: _labeled(label, source) for label, source in self.sources.items()}
        labeled = [
            (site, source.widths[before])
            for label, source in self.sources.items()
            for before, site in self._names[label].items()
        ]
        self.sites = tuple(site for site, _ in labeled)
        self.widths = dict(labeled)
        if len(self.widths) < len(labeled):
            twice = next(site for site in self.sites if self.sites.count(site) > 1)
            raise MismatchError(f"two of the sources give {twice}; give each a label of its own")
        _check_same_text(self.sources)
        self.n_tokens = _n_tokens(list(self.sources.values()))

    @property
    def info(self) -> dict[str, Any]:
        """Provenance: what the sources share, and under ``sources`` what is particular to each label."""
        infos = {label: source.info for label, source in self.sources.items()}
        shared = self._shared()
        excluded = {label: info.get("excluded", {}) for label, info in infos.items()}
        alike = len({str(counts) for counts in excluded.values()}) == 1
        own = {
            label: {key: value for key, value in info.items() if key not in shared and key != "excluded"}
            for label, info in infos.items()
        }
        return {
            **shared,
            "kind": "together",
            "sources": own,
            "excluded": next(iter(excluded.values())) if alike else excluded,
        }

    def __iter__(self) -> Iterator[ActivationBatch]:
        """Batches of the same tokens, from the current position to the end of all sources."""
        streams = {label: iter(source) for label, source in self.sources.items()}
        while True:
            batches = {label: next(stream, None) for label, stream in streams.items()}
            ended = [label for label, batch in batches.items() if batch is None]
            if len(ended) == len(batches):
                return
            if ended:
                raise MismatchError(f"the source {ended[0]!r} ended before the others: they hold other tokens")
            yield self._one({label: batch for label, batch in batches.items() if batch is not None})

    def state_dict(self) -> dict[str, Any]:
        """The position of each source."""
        return {"sources": {label: source.state_dict() for label, source in self.sources.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Move every source to its position."""
        if list(state.get("sources", {})) != list(self.sources):
            raise MismatchError(
                f"the saved position was taken in another source: it read {', '.join(state.get('sources', {}))} "
                f"together, here it is {', '.join(self.sources)}"
            )
        for label, source in self.sources.items():
            source.load_state_dict(state["sources"][label])

    def part(self, number: int, of: int) -> Together:
        """One of several consecutive parts."""
        own = Together({label: source.part(number, of) for label, source in self.sources.items()})
        own.first_row = next(iter(own.sources.values())).first_row
        return own

    def _shared(self) -> dict[str, Any]:
        """The facts that are the same for all sources."""
        first, *others = (source.info for source in self.sources.values())
        return {
            key: value
            for key, value in first.items()
            if key != "excluded" and all(key in other and other[key] == value for other in others)
        }

    def _one(self, batches: Mapping[str, ActivationBatch]) -> ActivationBatch:
        (first_label, first), *others = batches.items()
        for label, batch in others:
            _check_same_tokens(first_label, first, label, batch)
        return ActivationBatch(
            {self._names[label][site]: x for label, batch in batches.items() for site, x in batch.activations.items()},
            tokens=first.tokens,
            mask=_counts_in_all([batch.mask for batch in batches.values()]),
            positions=first.positions,
            documents=first.documents,
        )


def _labeled(label: str, source: ActivationSource) -> dict[Site, Site]:
    """The name each site of a source goes by among the others."""
    if not label:
        return {site: site for site in source.sites}
    for site in source.sites:
        if site.model:
            raise MismatchError(f"{site} has a label already, and would get {label!r}; give its source the label ''")
    return {site: site.of(label) for site in source.sites}


def _check_same_text(sources: Mapping[str, ActivationSource]) -> None:
    infos = [(label, source.info) for label, source in sources.items()]
    for key, why in SAME.items():
        said = [(label, info[key]) for label, info in infos if key in info]
        for label, value in said[1:]:
            if value != said[0][1]:
                raise MismatchError(f"{said[0][0]!r} and {label!r} cannot be read together: {why}")


def _n_tokens(sources: list[ActivationSource]) -> int | None:
    """Tokens that count in all sources, where the text decides it: by norm, one may skip what another keeps."""
    skips = [source.info.get("skip", {}) for source in sources]
    counts = {source.n_tokens for source in sources}
    by_text = all(skip == skips[0] and "norm" not in skip for skip in skips)
    return counts.pop() if by_text and len(counts) == 1 else None


def _check_same_tokens(first: str, a: ActivationBatch, second: str, b: ActivationBatch) -> None:
    shapes = [list(next(iter(batch.activations.values())).shape[:-1]) for batch in (a, b)]
    if shapes[0] != shapes[1]:
        raise MismatchError(
            f"a batch of {first!r} is {shapes[0]} and the same of {second!r} is {shapes[1]}; read them with batches "
            "of the same size"
        )
    for name in TEXT:
        x, y = getattr(a, name), getattr(b, name)
        if (x is None) != (y is None):
            raise MismatchError(f"{first if y is None else second!r} gives {name} and the other source does not")
        if x is not None and not torch.equal(x, y.to(x.device)):
            raise MismatchError(f"{first!r} and {second!r} gave other {name} in the same batch; read the same windows")


def _counts_in_all(masks: list[Tensor | None]) -> Tensor | None:
    present = [mask for mask in masks if mask is not None]
    if not present:
        return None
    counts = present[0]
    for mask in present[1:]:
        counts = counts & mask.to(counts.device)
    return counts


def together(sources: Mapping[str, ActivationSource]) -> ActivationSource:
    """Sources that read the same tokens, as one whose sites carry their labels: ``2.resid_post@base``.

    A token counts where it counts in all of them. Under the label "" sites keep their names. Raises MismatchError for
    sources that differ in vocabulary, windows, or any batch's tokens, positions or documents, and for a site that comes
    twice.
    """
    return Together(sources)
