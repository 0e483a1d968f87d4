"""Synthetic activations: sparse sums of known directions, so that what a dictionary should find is known.

    fire_i = [z_i > Phi^-1(1 - p_i)],   z = B u + sqrt(1 - |B_i|^2) e      where features are independent: [u_i < p_i]
    c_i    = +-1 fire_i max(m_i + s_i eps, 0)                              x = c D + b + noise eps

Where the world has a tree or companions, they decide who fires; see ``harvest.world``. Shapes: n planted features,
d width of the activations.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from monoscope.core.acts import Acts
from monoscope.core.batch import ActivationBatch
from monoscope.core.site import Site
from monoscope.harvest.source import ActivationSource, check_same
from monoscope.harvest.world import World, seeded

SITE = Site(None, "out", module="synthetic")
Split = Literal["train", "held_out"]


class SyntheticSource(ActivationSource):
    """Draws from a world; batch i is a function of the split, the seed and i alone. See ``synthetic``.

    directions ``[n, d]`` and probabilities ``[n]`` are what was planted.
    """

    def __init__(self, world: World, tokens: int | None, seed: int, split: Split, batch_tokens: int) -> None:
        assert tokens is None or tokens >= 1, f"a pass has at least one token, found {tokens}"
        assert batch_tokens >= 1, f"a batch holds at least one token, found {batch_tokens}"
        self.world, self.seed, self.batch_tokens = world, seed, batch_tokens
        self.split: Split = split
        self.directions, self.probabilities = world.directions(), world.probabilities()
        self.draws = Draws(world)
        self.sites, self.widths, self.n_tokens = (SITE,), {SITE: world.d}, tokens
        self._index = 0

    @property
    def info(self) -> dict[str, Any]:
        """Provenance: the world, and which of its draws."""
        return {"kind": "synthetic", "world": self.world.to_dict(), "seed": self.seed, "split": self.split}

    def __iter__(self) -> Iterator[ActivationBatch]:
        """Batches of ``batch_tokens`` tokens, without end unless ``tokens`` was given."""
        while self.n_tokens is None or self._index * self.batch_tokens < self.n_tokens:
            x, _ = self.draw(self._index)
            self._index += 1
            yield ActivationBatch({SITE: x})
        self._index = 0

    def draw(self, index: int) -> tuple[Float[Tensor, "batch d"], Acts]:
        """Batch number ``index``, and the true coefficients that it was made from."""
        n, generator = self._batch(index)
        coefficients = self.draws.coefficients(n, generator)
        x = coefficients @ self.directions
        if self.world.bias:
            x += self.draws.bias
        if self.world.noise:
            x += self.world.noise * torch.randn(x.shape, generator=generator)
        return x, Acts(coefficients, self.world.n_features)

    def _batch(self, index: int) -> tuple[int, torch.Generator]:
        n = self.batch_tokens
        if self.n_tokens is not None:
            n = min(n, self.n_tokens - index * self.batch_tokens)
        assert n > 0, f"batch {index} lies beyond the pass of {self.n_tokens} tokens"
        return n, seeded(self.seed, self.split, index)

    def state_dict(self) -> dict[str, Any]:
        """The number of the next batch."""
        return self._identity() | {"batch": self._index}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Move to a position."""
        check_same(state, **self._identity())
        self._index = state["batch"]

    def _identity(self) -> dict[str, Any]:
        return {
            "world": self.world.to_dict(),
            "seed": self.seed,
            "split": self.split,
            "batch_tokens": self.batch_tokens,
        }


class Draws:
    """The coefficients of a world's tokens, drawn from a generator."""

    def __init__(self, world: World) -> None:
        self.world, self.bias = world, world.bias_vector()
        self.p, (self.mean, self.sd) = world.candidate_probabilities(), world.magnitudes()
        if world.copula_rank:
            self.factor = world.copula()
            self.own = (1 - self.factor.square().sum(1)).sqrt()
            self.limit = torch.special.ndtri(1 - self.p.double()).float()
        if world.companions:
            self.p_on, self.p_off = world.companion_probabilities()

    def coefficients(self, n: int, generator: torch.Generator) -> Float[Tensor, "batch n"]:
        """True coefficients of ``n`` tokens."""
        fired = self._fired(n, generator)
        if self.world.tree is not None:
            self._thin(fired, generator)
        rows, features = fired.nonzero(as_tuple=True)
        magnitudes = self.mean[features] + self.sd[features] * torch.randn(len(rows), generator=generator)
        magnitudes.clamp_(min=0)
        if self.world.signed:
            magnitudes *= 2 * torch.randint(0, 2, (len(rows),), generator=generator) - 1
        coefficients = torch.zeros(n, self.world.n_features)
        coefficients[rows, features] = magnitudes
        if self.world.tree is not None:
            self._inherit(coefficients)
        return coefficients

    def _fired(self, n: int, generator: torch.Generator) -> Bool[Tensor, "batch n"]:
        """Which features would fire by themselves."""
        shape = (n, self.world.n_features)
        if self.world.copula_rank:
            shared = torch.randn(n, self.world.copula_rank, generator=generator) @ self.factor.T
            return torch.randn(shape, generator=generator).mul_(self.own).add_(shared) > self.limit
        draws = torch.rand(shape, generator=generator)
        fired = draws < self.p
        pairs = self.world.n_pairs
        if pairs:
            given = torch.where(fired[:, :pairs], self.p_on, self.p_off)
            fired[:, pairs : 2 * pairs] = draws[:, pairs : 2 * pairs] < given
        return fired

    def _thin(self, fired: Bool[Tensor, "batch n"], generator: torch.Generator) -> None:
        """Silence children of silent parents, and all but one of those that would fire together."""
        assert self.world.tree is not None, "only a tree has siblings"
        for above, below in itertools.pairwise(self.world.tree.levels):
            children = fired[:, below.start : below.stop].view(len(fired), len(above), -1)
            children &= fired[:, above.start : above.stop, None]
            rows, parents = (children.sum(2) > 1).nonzero(as_tuple=True)
            among = children[rows, parents]
            ticket = torch.rand(among.shape, generator=generator).where(among, -1)
            children[rows, parents] = ticket == ticket.amax(1, keepdim=True)

    def _inherit(self, coefficients: Float[Tensor, "batch n"]) -> None:
        """Scale children by their parent's value over its mean, level by level."""
        assert self.world.tree is not None, "only a tree has parents"
        for above, below in itertools.pairwise(self.world.tree.levels):
            parents = coefficients[:, above.start : above.stop] / self.mean[above.start : above.stop]
            children = coefficients[:, below.start : below.stop].view(len(coefficients), len(above), -1)
            children *= parents[..., None]


def synthetic(
    world: World,
    *,
    tokens: int | None = None,
    seed: int = 0,
    split: Split = "train",
    batch_tokens: int = 4096,
) -> SyntheticSource:
    """Activations drawn from a world, in flat batches; ``tokens`` of them in a pass, without end by default.

    Another ``seed`` or ``split`` draws other tokens from the same world; those of the two splits never meet.
    """
    return SyntheticSource(world, tokens, seed, split, batch_tokens)
