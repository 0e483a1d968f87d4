"""A floor that is trained: an autoencoder whose decoder rows stay the random directions they started as.

What it scores shows how much of a score needs no learned directions. Source: random-dictionary controls of
arXiv:2602.14111.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from monoscope.core.site import Site
from monoscope.dictionaries.autoencoder import Autoencoder
from monoscope.dictionaries.base import Wiring
from monoscope.dictionaries.function import ActivationFunction


class FrozenDecoder(Wiring):
    """Settings of the floor."""

    kind: Literal["frozen_decoder"] = "frozen_decoder"
    n_features: int = Field(default=4096, ge=1)

    def build(
        self,
        function: ActivationFunction.Config,
        reads: tuple[Site, ...],
        writes: tuple[Site, ...],
        widths: Mapping[Site, int],
    ) -> Autoencoder:
        """An uninitialized autoencoder that trains everything else."""
        built = Autoencoder.Config(n_features=self.n_features).build(function, reads, writes, widths)
        built.W_dec.requires_grad_(False)
        return built
