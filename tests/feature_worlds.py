"""Tiny dictionaries and corpora whose statistics can be counted by hand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from monoscope.core.acts import Acts
from monoscope.core.batch import ActivationBatch
from monoscope.core.site import Site
from monoscope.dictionaries import Autoencoder
from monoscope.dictionaries.variants import TopK
from monoscope.harvest import ActivationSource
from monoscope.harvest.source import part_rows

SITE = Site(1, "resid_post")
D = 8


class Lookup(Autoencoder):
    """A dictionary that looks its activations up: ``x[0]`` is the row of ``table [n, F]``."""

    table: Tensor
    sparse: bool = False

    def encode(self, x: Tensor) -> Acts:
        values = self.table[x[:, 0].long()]
        if not self.sparse:
            return Acts(values, self.n_features)
        k = max(1, int((self.table != 0).sum(1).max()))
        best = values.abs().topk(k, dim=1).indices
        return Acts(values.gather(1, best), self.n_features, best)


class Text(ActivationSource):
    """Given sequences; the activations of a token are its number in the corpus."""

    def __init__(
        self,
        tokens: Tensor,
        mask: Tensor | None = None,
        documents: Tensor | None = None,
        at_once: int = 4,
    ) -> None:
        self.tokens, self.mask, self.documents, self.at_once = tokens, mask, documents, at_once
        self.sites, self.widths = (SITE,), {SITE: D}
        self.n_tokens = tokens.numel() if mask is None else int(mask.sum())
        self.row = 0

    @property
    def info(self) -> dict[str, Any]:
        return {"kind": "test", "text": {"kind": "made", "split": "train"}}

    def __iter__(self) -> Iterator[ActivationBatch]:
        n, length = self.tokens.shape
        number = torch.arange(n * length).view(n, length, 1).expand(n, length, D).float() + self.first_row * length
        while self.row < n:
            rows = slice(self.row, self.row + self.at_once)
            self.row += self.at_once
            pick = [None if x is None else x[rows] for x in (self.mask, self.documents)]
            yield ActivationBatch({SITE: number[rows]}, self.tokens[rows], pick[0], documents=pick[1])
        self.row = 0

    def state_dict(self) -> dict[str, Any]:
        return {"row": self.row}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.row = state["row"]

    def part(self, number: int, of: int) -> Text:
        rows = part_rows(len(self.tokens), self.at_once, number, of)
        pick = [None if x is None else x[rows] for x in (self.tokens, self.mask, self.documents)]
        assert pick[0] is not None
        own = Text(pick[0], pick[1], pick[2], self.at_once)
        own.first_row = self.first_row + rows.start
        return own


def lookup(table: np.ndarray | Tensor, *, sparse: bool = False, seed: int = 0) -> Lookup:
    """A dictionary with given activations ``[n, F]`` and random directions."""
    table = torch.as_tensor(table, dtype=torch.float32)
    n = table.shape[1]
    dictionary = Lookup(
        Autoencoder.Config(n_features=n, center=False), TopK.Config(k=1).build(n), (SITE,), (SITE,), {SITE: D}
    )
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        dictionary.W_dec.copy_(torch.randn(n, D, generator=generator))
        dictionary.W_enc.copy_(torch.randn(n, D, generator=generator).T)
    dictionary.table, dictionary.sparse = table, sparse
    return dictionary


def world(
    n_features: int = 6, sequences: int = 40, length: int = 32, vocab: int = 50, seed: int = 0, density: float = 0.05
) -> tuple[Tensor, np.ndarray]:
    """Random tokens ``[sequences, length]`` and activations ``[sequences * length, F]``, log-normal where they fire."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, vocab, (sequences, length))
    shape = (sequences * length, n_features)
    values = np.exp(rng.standard_normal(shape)) * (rng.random(shape) < density)
    return torch.from_numpy(tokens), values.astype(np.float32)
