"""ActivationBatch: activations read from a language model, with the tokens they belong to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from monoscope.core.site import Site


@dataclass(frozen=True, slots=True)
class ActivationBatch:
    """Activations at one or more sites for the same tokens.

    Shapes: ``*batch`` is ``[sequence, pos]`` as a model yields it, or ``[n]`` once tokens are shuffled.

    activations: per site, ``[*batch, d]``
    tokens: ``[*batch]`` token ids; None where there is no text (synthetic data, bare arrays)
    mask: ``[*batch]``, True where a token counts; None when every token does
    positions: ``[*batch]`` position of each token in its sequence; None where there are no sequences
    documents: ``[sequence]`` number of the document each sequence begins in; None after shuffling
    """

    activations: Mapping[Site, Tensor]
    tokens: Tensor | None = None
    mask: Tensor | None = None
    positions: Tensor | None = None
    documents: Tensor | None = None

    @property
    def n_tokens(self) -> int:
        """Tokens that count. Reads the mask, so it waits for the device."""
        if self.mask is not None:
            return int(self.mask.sum())
        return next(iter(self.activations.values()))[..., 0].numel()

    def flat(self) -> ActivationBatch:
        """The tokens that count, as one axis: every field becomes ``[n, ...]`` and the mask disappears."""
        first = next(iter(self.activations.values()))
        if self.mask is None and first.ndim == 2:
            return replace(self, documents=None)
        keep = torch.ones(first.shape[:-1], dtype=torch.bool) if self.mask is None else self.mask

        def pick(x: Tensor | None) -> Tensor | None:
            return None if x is None else x[keep.to(x.device)]

        activations = {site: x[keep.to(x.device)] for site, x in self.activations.items()}
        return ActivationBatch(activations, tokens=pick(self.tokens), positions=pick(self.positions))

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> ActivationBatch:
        """The batch on a device; ``dtype`` applies to the activations alone."""

        def move(x: Tensor | None) -> Tensor | None:
            return None if x is None else x.to(device)

        return ActivationBatch(
            {site: x.to(device, dtype) for site, x in self.activations.items()},
            tokens=move(self.tokens),
            mask=move(self.mask),
            positions=move(self.positions),
            documents=move(self.documents),
        )
