"""Many dictionaries on the same text, by the position of tokens in their window: the model is read once for all.

What was learned from short windows is compared with what longer ones ask for, and one model with another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from monoscope.core.errors import ConfigError, DataError, MismatchError
from monoscope.core.progress import progress
from monoscope.dictionaries import Dictionary
from monoscope.evals.metrics import Fidelity, Firing
from monoscope.harvest import SkipPolicy, TokenWindows, live
from monoscope.interventions import patch
from monoscope.models import LanguageModel


@dataclass(frozen=True, slots=True)
class Span:
    """A dictionary on the tokens at positions ``first`` to ``last`` of their windows.

    fvu: against the variance of these tokens; l0; ce_clean: mean next-token loss of the model, in nats; ce_added: what
    the reconstruction in the place of its site adds to it. Losses are None where no token has a next one.
    """

    first: int
    last: int
    n_tokens: int
    fvu: float
    l0: float
    ce_clean: float | None
    ce_added: float | None


@dataclass(frozen=True, slots=True)
class ByPosition:
    """A dictionary on each span of positions, and how often each of its features fired on all of them, ``[F]``."""

    spans: tuple[Span, ...]
    density: Float[Tensor, " F"]


def by_position(
    lm: LanguageModel,
    dictionaries: Mapping[str, Dictionary],
    windows: TokenWindows,
    edges: Sequence[int],
    *,
    batch: int,
    skip: SkipPolicy,
) -> dict[str, ByPosition]:
    """Fidelity, sparsity and loss of dictionaries with one site in and one out, between positions ``edges``.

    Raises ConfigError for edges that do not rise within the window, MismatchError for sites of other widths, and
    DataError where a span holds no two tokens that differ.
    """
    if list(edges) != sorted(set(edges)) or len(edges) < 2 or edges[0] < 0 or edges[-1] > windows.context:
        raise ConfigError(f"edges of positions rise within 0..{windows.context}, found {', '.join(map(str, edges))}")
    sums = {name: _Sums(name, dictionary, lm, edges) for name, dictionary in dictionaries.items()}
    sites = {site for dictionary in dictionaries.values() for site in (*dictionary.reads, *dictionary.writes)}
    source = live(lm, windows, sorted(sites), windows_per_batch=batch, skip=skip)
    first = 0
    with torch.no_grad(), progress("evaluate", source.n_tokens) as bar:
        for activations in source:
            tokens, counts, positions = activations.tokens, activations.mask, activations.positions
            assert tokens is not None, "a live source gives tokens"
            assert counts is not None, "a live source says which tokens count"
            assert positions is not None, "a live source gives positions"
            padding = windows.mask[first : first + batch, : tokens.shape[1]].to(tokens.device)
            text = _Text(lm, tokens, counts, positions.long(), padding)
            for one in sums.values():
                one.update(text, *one.dictionary.gather(activations))
            bar.advance(activations.n_tokens)
            first += batch
    return {name: one.result() for name, one in sums.items()}


class _Text:
    """A batch of windows, and the losses of the model as it reads them."""

    def __init__(
        self,
        lm: LanguageModel,
        tokens: Int[Tensor, "n pos"],
        counts: Bool[Tensor, "n pos"],
        positions: Int[Tensor, "n pos"],
        not_padding: Bool[Tensor, "n pos"],
    ) -> None:
        self.lm, self.tokens, self.counts, self.positions = lm, tokens.long(), counts, positions
        self.mask = None if bool(not_padding.all()) else not_padding
        self.predicts = counts[:, :-1] & not_padding[:, 1:]
        self.wanted = self.tokens[:, 1:][self.predicts]
        self.predicted_at = positions[:, :-1][self.predicts]
        self.clean = self.losses()

    def losses(self) -> Float[Tensor, " n"]:
        """Next-token losses where a token that counts has a next one."""
        logits = self.lm.logits(self.tokens, self.mask)[:, :-1][self.predicts]
        return torch.nn.functional.cross_entropy(logits.float(), self.wanted, reduction="none").double()


class _Sums:
    """Accumulators of one dictionary, a set of them for each span."""

    def __init__(self, name: str, dictionary: Dictionary, lm: LanguageModel, edges: Sequence[int]) -> None:
        if len(dictionary.reads) != 1 or len(dictionary.writes) != 1 or not dictionary.per_token:
            raise MismatchError(f"{name}: dictionaries are compared by position where one site is read and one written")
        for site, width in dictionary.widths.items():
            if lm.width(site) != width:
                raise MismatchError(f"{name} has {width} values at {site}, and {lm.name} has {lm.width(site)}")
        self.name, self.dictionary, self.spans = name, dictionary, list(pairwise(edges))
        self.fidelity = [Fidelity(dictionary.widths[dictionary.writes[0]]) for _ in self.spans]
        self.firing = [Firing(dictionary.decoder_norm()) for _ in self.spans]
        self.clean, self.added = torch.zeros(2, len(self.spans), dtype=torch.float64)
        self.n = torch.zeros(len(self.spans), dtype=torch.long)

    def update(self, text: _Text, x: Float[Tensor, "n pos d"], target: Float[Tensor, "n pos d_out"]) -> None:
        """Add a batch of windows."""
        donor = target.clone()
        for at, (first, last) in enumerate(self.spans):
            here = text.counts & (text.positions >= first) & (text.positions < last)
            step = self.dictionary(x[here], target[here])
            self.fidelity[at].update(step.target, step.recon)
            self.firing[at].update(step.acts)
            donor[here] = step.recon
        with text.lm.edit(patch(self.dictionary.writes[0], donor)):
            added = text.losses() - text.clean
        for at, (first, last) in enumerate(self.spans):
            here = (text.predicted_at >= first) & (text.predicted_at < last)
            self.n[at] += here.sum().cpu()
            self.clean[at] += text.clean[here].sum().cpu()
            self.added[at] += added[here].sum().cpu()

    def result(self) -> ByPosition:
        """The metrics of every span."""
        spans, total = [], Firing(self.dictionary.decoder_norm())
        for at, (first, last) in enumerate(self.spans):
            if self.fidelity[at].targets.spread <= 0:
                raise DataError(f"positions {first} to {last - 1} hold no two tokens that count and differ")
            total.merge(self.firing[at])
            n = int(self.n[at])
            spans.append(
                Span(
                    first=first,
                    last=last - 1,
                    n_tokens=self.fidelity[at].targets.n,
                    fvu=self.fidelity[at].result().fvu,
                    l0=self.firing[at].result().l0,
                    ce_clean=self.clean[at].item() / n if n else None,
                    ce_added=self.added[at].item() / n if n else None,
                )
            )
        return ByPosition(tuple(spans), total.density)
