"""Activations read from a language model as it runs, and the policy that says which tokens count."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor

from monoscope.core.batch import ActivationBatch
from monoscope.core.config import Config
from monoscope.core.errors import DataError, MismatchError, ModelError, NotFinite
from monoscope.core.site import Site
from monoscope.harvest.source import (
    ActivationSource,
    check_few_not_finite,
    check_same,
    dtype_name,
    first_not_finite,
    part_rows,
)
from monoscope.harvest.text.pack import TokenWindows
from monoscope.models.language_model import LanguageModel

_log = logging.getLogger("monoscope.harvest")

REASONS: tuple[str, ...] = ("padding", "special", "position", "norm")


class SkipPolicy(Config):
    """Which tokens do not count. Padding never does; a token is counted under the first reason that applies.

    Norms are compared with the median over the tokens of the same batch that are left by then, so that what is skipped
    does not depend on where reading began.
    """

    special: bool | None = Field(
        default=None, description="skip the tokenizer's special tokens; left out: but not a conversation's template"
    )
    first: int = Field(default=1, ge=0, description="skip the first positions of a window, where attention sinks sit")
    norm: float | None = Field(
        default=None, gt=1, description="skip tokens with a norm above this many medians, at any site"
    )
    not_finite: bool = Field(
        default=False,
        description="skip tokens that are NaN or infinite at any site, in place of stopping, while few are",
    )

    def on(self, windows: TokenWindows) -> SkipPolicy:
        """The policy as it applies to windows: the special tokens of a chat template are text, and count."""
        if self.special is not None:
            return self
        return self.model_copy(update={"special": not windows.by_sequence})


class LiveSource(ActivationSource):
    """A language model reading windows of text. See ``live``."""

    def __init__(
        self,
        lm: LanguageModel,
        windows: TokenWindows,
        sites: Sequence[Site | str],
        *,
        windows_per_batch: int,
        skip: SkipPolicy,
        dtype: torch.dtype,
    ) -> None:
        assert sites, "name at least one site to read"
        assert windows_per_batch >= 1, f"a batch holds at least one window, found {windows_per_batch}"
        self.models = (lm,)
        self.lm, self.windows, self.skip, self.dtype = lm, windows, skip.on(windows), dtype
        self.windows_per_batch = windows_per_batch
        self.sites = tuple(dict.fromkeys(lm.resolve(site) for site in sites))
        _check_fits(lm, windows)
        self.widths = {site: lm.width(site) for site in self.sites}
        self._special = special_tokens(lm)
        # Where skipping needs the activations, the count is not known beforehand.
        self.n_tokens = None if skip.norm is not None or skip.not_finite else self._count()
        self._window = 0
        self._reasons = (*REASONS, *(["not_finite"] if skip.not_finite else []))
        self._excluded: dict[str, int] = dict.fromkeys(self._reasons, 0)

    @property
    def info(self) -> dict[str, Any]:
        """Provenance: the model, the text, the policy, and the tokens skipped so far."""
        return self._fixed | {"excluded": dict(self._excluded)}

    @cached_property
    def _fixed(self) -> dict[str, Any]:
        return {
            "kind": "live",
            "model": {"name": self.lm.name, "fingerprint": self.lm.fingerprint()},
            **self.windows.info,
            "windows": {"n": len(self.windows), "fingerprint": self.windows.fingerprint},
            "skip": self.skip.to_dict(),
            "dtype": dtype_name(self.dtype),
        }

    def __iter__(self) -> Iterator[ActivationBatch]:
        """Batches of ``windows_per_batch`` windows; the last of a pass may be smaller."""
        while self._window < len(self.windows):
            if self._window == 0:
                self._excluded = dict.fromkeys(self._reasons, 0)
            batch = self._read(self._window, self.windows[self._window : self._window + self.windows_per_batch])
            self._window += self.windows_per_batch
            yield batch
        self._window = 0

    def state_dict(self) -> dict[str, Any]:
        """The number of the next window, and what was skipped before it."""
        return {"windows": self.windows.fingerprint, "window": self._window, "excluded": dict(self._excluded)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Move to a position."""
        check_same(state, windows=self.windows.fingerprint)
        self._window, self._excluded = state["window"], dict.fromkeys(self._reasons, 0) | dict(state["excluded"])

    def part(self, number: int, of: int) -> LiveSource:
        """One of several consecutive parts."""
        rows = part_rows(len(self.windows), self.windows_per_batch, number, of)
        own = LiveSource(
            self.lm,
            self.windows[rows],
            self.sites,
            windows_per_batch=self.windows_per_batch,
            skip=self.skip,
            dtype=self.dtype,
        )
        own.first_row = self.first_row + rows.start
        return own

    def _read(self, number: int, windows: TokenWindows) -> ActivationBatch:
        if windows.by_sequence:
            windows = windows.trimmed()
        device = self.lm.device
        tokens = windows.tokens.to(device)
        mask = None if bool(windows.mask.all()) else windows.mask.to(device)
        read = self.lm.read(tokens.long(), self.sites, mask)
        activations = {site: read[site].to(self.dtype) for site in self.sites}
        counts, excluded = self._by_text(windows)
        counts = counts.to(device)
        for site, x in activations.items():
            if (bad := first_not_finite(x, counts)) and not self.skip.not_finite:
                raise NotFinite(
                    f"activations at {site} are NaN or infinite in {dtype_name(self.dtype)}: window {number + bad[0]}, "
                    f"position {bad[1]}; load the model in float32 or bfloat16, or leave such tokens out with "
                    "skip.not_finite = true"
                )
            if bad:
                wrong = ~torch.isfinite(x).all(-1)
                x[wrong] = 0.0
                n = int((wrong & counts).sum())
                excluded["not_finite"] = excluded.get("not_finite", 0) + n
                _log.warning(
                    "activations at %s are NaN or infinite from window %d, position %d; %d tokens left out",
                    site, number + bad[0], bad[1], n,
                )  # fmt: skip
                counts &= ~wrong
        if self.skip.norm is not None:
            extreme = torch.stack([_extreme(x, counts, self.skip.norm) for x in activations.values()]).any(0)
            excluded["norm"] = int(extreme.sum())
            counts &= ~extreme
        for reason, n in excluded.items():
            self._excluded[reason] += n
        check_few_not_finite(self._excluded.get("not_finite", 0), (number + len(windows)) * windows.context)
        positions = torch.arange(windows.context, dtype=torch.int32, device=device).repeat(len(windows), 1)
        return ActivationBatch(activations, tokens, counts, positions, windows.documents.to(device))

    def _by_text(self, windows: TokenWindows) -> tuple[Bool[Tensor, "n context"], dict[str, int]]:
        """Which tokens count as far as the text decides it, and how many do not, by reason."""
        skipped = {"padding": ~windows.mask}
        if self.skip.special:
            skipped["special"] = torch.isin(windows.tokens, self._special)
        if self.skip.first:
            skipped["position"] = (torch.arange(windows.context) < self.skip.first).expand_as(windows.mask)
        counts, excluded = torch.ones_like(windows.mask), {}
        for reason, mask in skipped.items():
            excluded[reason] = int((mask & counts).sum())
            counts &= ~mask
        return counts, excluded

    def _count(self, at_once: int = 4096) -> int:
        parts = (self.windows[first : first + at_once] for first in range(0, len(self.windows), at_once))
        return sum(int(self._by_text(part)[0].sum()) for part in parts)


def special_tokens(lm: LanguageModel) -> Int[Tensor, " n"]:
    """Token ids that stand for no text: those the tokenizer names, and those it was given as special."""
    if lm.tokenizer is None:
        named = [lm.bos_token_id]
    else:
        added = getattr(lm.tokenizer, "added_tokens_decoder", {})
        named = [*lm.tokenizer.all_special_ids, *(token for token, form in added.items() if form.special)]
    return torch.tensor(sorted({token for token in named if token is not None}), dtype=torch.int32)


def _check_fits(lm: LanguageModel, windows: TokenWindows) -> None:
    if not len(windows):
        raise DataError("there are no token windows to read")
    try:
        longest = lm.context_length
    except ModelError:  # a model without a limit of its own, such as one with ALiBi
        longest = windows.context
    if windows.context > longest:
        raise MismatchError(f"windows of {windows.context} tokens do not fit {lm.name}, which reads {longest}")
    if (highest := int(windows.tokens.max())) >= lm.vocab_size:
        raise MismatchError(
            f"token {highest} is not in the vocabulary of {lm.name}, which has {lm.vocab_size}; tokenize the text with "
            "the model's own tokenizer"
        )
    if lm.tokenizer is not None:
        windows.check_tokenizer(lm.tokenizer)


def _extreme(
    x: Float[Tensor, "n context d"], counts: Bool[Tensor, "n context"], ratio: float
) -> Bool[Tensor, "n context"]:
    norms = x.float().norm(dim=-1)
    if not counts.any():
        return torch.zeros_like(counts)
    return (norms > ratio * norms[counts].median()) & counts


SKIP = SkipPolicy()


def live(
    lm: LanguageModel,
    windows: TokenWindows,
    sites: Sequence[Site | str],
    *,
    windows_per_batch: int = 16,
    skip: SkipPolicy = SKIP,
    dtype: torch.dtype = torch.float32,
) -> ActivationSource:
    """Activations of a model at ``sites`` while it reads token windows, ``[window, pos, d]`` in ``dtype``.

    One forward pass for all sites, stopped after the last of them. ``batch.mask`` is True for the tokens that count.
    Raises SiteError for a site the model lacks, MismatchError for windows that do not fit the model, and DataError for
    activations that are not finite.
    """
    return LiveSource(lm, windows, sites, windows_per_batch=windows_per_batch, skip=skip, dtype=dtype)
