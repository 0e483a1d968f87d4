"""Synthetic activations: sparse sums of known directions, so that what a dictionary should find is known.

fire_i = [u_i < p_i],   u_i uniform         c_i = fire_i max(m + s eps_i, 0)        x = c D + noise eps

D [n, d]   unit rows: orthogonal, or independent random ones
p [n]      firing probabilities, the same for all or falling as a power of the rank:
           r_i = i^-zipf rescaled linearly so that the largest is p_max and the smallest p_min
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from monoscope.core.acts import Acts
from monoscope.core.batch import ActivationBatch
from monoscope.core.config import Config
from monoscope.core.errors import ConfigError
from monoscope.core.site import Site
from monoscope.harvest.source import ActivationSource, check_same

SITE = Site(None, "out", module="synthetic")


class World(Config):
    """What a synthetic world is made of. The structure depends on ``seed`` alone, never on what is drawn from it."""

    n_features: int = Field(ge=1, description="n, planted directions")
    d: int = Field(ge=1, description="width of the activations")
    orthogonal: bool = Field(default=False, description="orthogonal directions, which needs n_features <= d")
    p_max: float = Field(gt=0, le=1, description="firing probability of the commonest feature")
    p_min: float | None = Field(default=None, gt=0, le=1, description="of the rarest; by default that of the commonest")
    zipf: float = Field(default=0.5, gt=0, description="exponent of the power law between them")
    mean: float = Field(default=1.0, description="m, magnitude of a firing")
    sd: float = Field(default=0.25, ge=0, description="s, its spread")
    noise: float = Field(default=0.0, ge=0, description="sd of the isotropic noise in each coordinate")
    seed: int = Field(default=0, ge=0)

    def directions(self) -> Float[Tensor, "n d"]:
        """The planted directions, unit rows. Raises ConfigError for more orthogonal ones than there is room for."""
        if self.orthogonal and self.n_features > self.d:
            raise ConfigError(f"{self.n_features} orthogonal directions do not fit into {self.d} dimensions")
        draws = np.random.default_rng([self.seed, 0]).standard_normal((self.n_features, self.d))
        rows = torch.from_numpy(draws)
        if self.orthogonal:
            q, r = torch.linalg.qr(rows.T)
            rows = (q * r.diagonal().sign()).T  # the sign makes the draw uniform over the orthogonal group
        return (rows / rows.norm(dim=1, keepdim=True)).float()

    def probabilities(self) -> Float[Tensor, " n"]:
        """Firing probability of each feature, commonest first."""
        p_min = self.p_max if self.p_min is None else self.p_min
        if self.n_features == 1 or p_min == self.p_max:
            return torch.full((self.n_features,), self.p_max)
        rank = torch.arange(1, self.n_features + 1, dtype=torch.float64) ** -self.zipf
        share = (rank - rank[-1]) / (rank[0] - rank[-1])
        return (p_min + share * (self.p_max - p_min)).float()


def orthogonal_world(seed: int = 0) -> World:
    """W0, the smoke test: 48 orthogonal directions in 64 dimensions, each firing on 5% of tokens (2.4 at a time)."""
    return World(n_features=48, d=64, orthogonal=True, p_max=0.05, seed=seed)


def superposition_world(seed: int = 0) -> World:
    """W1: 512 random directions in 128 dimensions, firing probabilities falling from 0.15 to 0.005 (5.8 at a time)."""
    return World(n_features=512, d=128, p_max=0.15, p_min=0.005, zipf=0.5, seed=seed)


class SyntheticSource(ActivationSource):
    """Draws from a world; batch i is a function of the seed and i alone. See ``synthetic``.

    directions ``[n, d]`` and probabilities ``[n]`` are what was planted.
    """

    def __init__(self, world: World, tokens: int | None, seed: int, batch_tokens: int) -> None:
        assert tokens is None or tokens >= 1, f"a pass has at least one token, found {tokens}"
        assert batch_tokens >= 1, f"a batch holds at least one token, found {batch_tokens}"
        self.world, self.seed, self.batch_tokens = world, seed, batch_tokens
        self.directions, self.probabilities = world.directions(), world.probabilities()
        self.sites, self.widths, self.n_tokens = (SITE,), {SITE: world.d}, tokens
        self._index = 0

    @property
    def info(self) -> dict[str, Any]:
        """Provenance: the world, and the seed of the draws."""
        return {"kind": "synthetic", "world": self.world.to_dict(), "seed": self.seed}

    def __iter__(self) -> Iterator[ActivationBatch]:
        """Batches of ``batch_tokens`` tokens, without end unless ``tokens`` was given."""
        while self.n_tokens is None or self._index * self.batch_tokens < self.n_tokens:
            x, _ = self.draw(self._index)
            self._index += 1
            yield ActivationBatch({SITE: x})
        self._index = 0

    def draw(self, index: int) -> tuple[Float[Tensor, "batch d"], Acts]:
        """Batch number ``index``, and the true coefficients that it was made from."""
        n = self.batch_tokens
        if self.n_tokens is not None:
            n = min(n, self.n_tokens - index * self.batch_tokens)
        assert n > 0, f"batch {index} lies beyond the pass of {self.n_tokens} tokens"
        seed = np.random.SeedSequence([self.seed, index]).generate_state(1, np.uint64)[0]
        generator = torch.Generator().manual_seed(int(seed >> np.uint64(1)))
        fired = torch.rand(n, self.world.n_features, generator=generator) < self.probabilities
        rows, features = fired.nonzero(as_tuple=True)
        magnitudes = self.world.mean + self.world.sd * torch.randn(len(rows), generator=generator)
        coefficients = torch.zeros(n, self.world.n_features)
        coefficients[rows, features] = magnitudes.clamp(min=0)
        x = coefficients @ self.directions
        if self.world.noise:
            x += self.world.noise * torch.randn(x.shape, generator=generator)
        return x, Acts(coefficients, self.world.n_features)

    def state_dict(self) -> dict[str, Any]:
        """The number of the next batch."""
        return {
            "world": self.world.to_dict(),
            "seed": self.seed,
            "batch_tokens": self.batch_tokens,
            "batch": self._index,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Move to a position."""
        check_same(state, world=self.world.to_dict(), seed=self.seed, batch_tokens=self.batch_tokens)
        self._index = state["batch"]


def synthetic(world: World, *, tokens: int | None = None, seed: int = 0, batch_tokens: int = 4096) -> SyntheticSource:
    """Activations drawn from a world, in flat batches; ``tokens`` of them in a pass, without end by default.

    Another ``seed`` draws other tokens from the same world: held-out data.
    """
    return SyntheticSource(world, tokens, seed, batch_tokens)
