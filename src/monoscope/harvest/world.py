"""World: what synthetic activations are made of. Its structure depends on its seed alone, never on what is drawn.

D [n, d]   directions, unit rows: independent random ones, pushed apart on request, or orthogonal
p [n]      firing probabilities, the same for all or falling as a power of the rank:
           r_i = i^-zipf rescaled linearly so that the largest is p_max and the smallest p_min
m, s [n]   mean and spread of magnitudes          b [d]   bias
B [n, r]   copula factor: z = B u + sqrt(1 - |B_i|^2) e has unit variance, and fire_i = [z_i > Phi^-1(1 - p_i)]

Hierarchies and companions say which features fire given that others do. Source of the common conventions:
SynthSAEBench (arXiv:2602.14687) and its code in SAELens.
"""

from __future__ import annotations

import itertools
from typing import Literal, Self

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor

from monoscope.core.config import Config

Purpose = Literal["structure", "train", "held_out"]
_PURPOSES: tuple[Purpose, ...] = ("structure", "train", "held_out")
MOST_SHARED = 0.99  # of a feature's variance in the copula
APART_LR = 3e-4


def seeded(seed: int, purpose: Purpose, *index: int) -> torch.Generator:
    """The generator of one use of a seed. Those of different uses, and of different indices, are independent."""
    spawned = np.random.SeedSequence(seed, spawn_key=(_PURPOSES.index(purpose), *index))
    return torch.Generator().manual_seed(int(spawned.generate_state(1, np.uint64)[0] >> np.uint64(1)))


class Tree(Config):
    """Features in a hierarchy: the first ones of a world, breadth first, so that node q's children are neighbors.

    A child is off where its parent is. Of the children that would fire, one, chosen evenly, does; its magnitude is a
    fresh one times the parent's value over the parent's mean.
    """

    roots: int = Field(ge=1)
    branching: int = Field(ge=1)
    depth: int = Field(ge=1, description="levels below the roots")
    p_root: float | None = Field(default=None, gt=0, le=1, description="None: nodes take part in the world's power law")
    p_child: float | None = Field(default=None, gt=0, le=1, description="of each child, given its parent")

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.p_root is None) != (self.p_child is None):
            raise ValueError("p_root and p_child are given together or not at all")
        if self.p_child is not None and self.p_child * self.branching > 1:
            raise ValueError(f"{self.branching} children that exclude each other cannot each fire with {self.p_child}")
        return self

    @property
    def levels(self) -> tuple[range, ...]:
        """Features of each level, roots first."""
        sizes = [self.roots * self.branching**level for level in range(self.depth + 1)]
        ends = np.cumsum(sizes).tolist()
        return tuple(range(end - size, end) for size, end in zip(sizes, ends, strict=True))

    @property
    def n_nodes(self) -> int:
        """Features in the tree."""
        return self.levels[-1].stop

    def children(self, node: int) -> range:
        """Children of a node; none of a leaf."""
        for level, below in itertools.pairwise(self.levels):
            if node in level:
                first = below.start + (node - level.start) * self.branching
                return range(first, first + self.branching)
        return range(0)


class Companions(Config):
    """Pairs of a main feature and a companion whose probability depends on whether the main one fires."""

    pairs: int = Field(ge=1)
    p_on: float = Field(ge=0, le=1, description="of the companion while the main feature fires")
    p_off: float = Field(ge=0, le=1, description="of the companion while it does not")


class World(Config):
    """What a synthetic world is made of; see the module."""

    n_features: int = Field(ge=1, description="n, planted directions")
    d: int = Field(ge=1, description="width of the activations")
    orthogonal: bool = Field(default=False, description="orthogonal directions, which needs n_features <= d")
    apart: int = Field(default=0, ge=0, description="steps that push random directions apart")
    p_max: float = Field(gt=0, le=1, description="firing probability of the commonest feature")
    p_min: float | None = Field(default=None, gt=0, le=1, description="of the rarest; by default that of the commonest")
    zipf: float = Field(default=0.5, gt=0, description="exponent of the power law between them")
    mean: float = Field(default=1.0, description="m, magnitude of a firing; of the first feature")
    mean_last: float | None = Field(default=None, description="m of the last feature, linearly between; None: the same")
    sd: float = Field(default=0.25, ge=0, description="s, spread of magnitudes")
    sd_spread: float = Field(default=0.0, ge=0, description="s_i = |N(sd, sd_spread^2)|")
    signed: bool = Field(default=False, description="coefficients have random signs")
    noise: float = Field(default=0.0, ge=0, description="sd of the isotropic noise in each coordinate")
    bias: float = Field(default=0.0, ge=0, description="norm of the constant part, in a random direction")
    copula_rank: int = Field(default=0, ge=0, description="r, number of shared factors; 0: independent features")
    copula_sd: float = Field(default=0.25, ge=0, description="sd of the entries of B")
    tree: Tree | None = None
    companions: tuple[Companions, ...] = ()
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.orthogonal and self.n_features > self.d:
            raise ValueError(f"{self.n_features} orthogonal directions do not fit into {self.d} dimensions")
        if self.tree is not None and self.companions:
            raise ValueError("a world has a tree or companions, not both: each says which features fire first")
        if self.tree is not None and self.tree.n_nodes > self.n_features:
            raise ValueError(
                f"the tree has {self.tree.n_nodes} nodes, more than the world's {self.n_features} features"
            )
        if 2 * self.n_pairs > self.n_features:
            raise ValueError(f"{self.n_pairs} pairs need {2 * self.n_pairs} features; the world has {self.n_features}")
        return self

    @property
    def n_pairs(self) -> int:
        """Pairs of companions: feature i < n_pairs is main, feature i + n_pairs its companion."""
        return sum(group.pairs for group in self.companions)

    def directions(self) -> Float[Tensor, "n d"]:
        """The planted directions, unit rows."""
        rows = torch.randn(self.n_features, self.d, generator=self._generator(0), dtype=torch.float64)
        if self.orthogonal:
            q, r = torch.linalg.qr(rows.T)
            rows = (q * r.diagonal().sign()).T  # the sign makes the draw uniform over the orthogonal group
        rows = torch.nn.functional.normalize(rows, dim=1).float()
        return push_apart(rows, self.apart) if self.apart else rows

    def probabilities(self) -> Float[Tensor, " n"]:
        """Nominal firing probability of each feature. What exclusive siblings leave of it must be measured."""
        tree = self.tree
        if tree is None or tree.p_root is None or tree.p_child is None:
            p = self._power_law(self.n_features)
        else:
            nodes = [torch.full((len(level),), tree.p_root * tree.p_child**i) for i, level in enumerate(tree.levels)]
            p = torch.cat([*nodes, self._power_law(self.n_features - tree.n_nodes)])
        if self.companions:
            on, off = self.companion_probabilities()
            p[self.n_pairs : 2 * self.n_pairs] = off + (on - off) * p[: self.n_pairs]
        return p

    def _power_law(self, n: int) -> Float[Tensor, " n"]:
        p_min = self.p_max if self.p_min is None else self.p_min
        if n <= 1 or p_min == self.p_max:
            return torch.full((n,), self.p_max)
        rank = torch.arange(1, n + 1, dtype=torch.float64) ** -self.zipf
        share = (rank - rank[-1]) / (rank[0] - rank[-1])
        return (p_min + share * (self.p_max - p_min)).float()

    def companion_probabilities(self) -> tuple[Float[Tensor, " pair"], Float[Tensor, " pair"]]:
        """Probability of each companion while its main feature fires, and while it does not."""
        on, off = (
            torch.cat([torch.full((group.pairs,), getattr(group, key)) for group in self.companions])
            for key in ("p_on", "p_off")
        )
        return on, off

    def candidate_probabilities(self) -> Float[Tensor, " n"]:
        """Probability with which each feature would fire, were its parent on and its siblings off.

        Given p_child, it makes each of b children the one that fires with exactly that: 1 - (1 - b p_child)^(1/b).
        Else it compensates for exclusion to first order: p_c / p_parent (1 + sum of the siblings' p / p_parent).
        """
        p, tree = self.probabilities(), self.tree
        if tree is None:
            return p
        nominal = p.clone()
        for above, below in itertools.pairwise(tree.levels):
            if tree.p_child is not None:
                would = torch.tensor(1 - (1 - tree.branching * tree.p_child) ** (1 / tree.branching))
            else:
                share = nominal[below.start : below.stop].view(len(above), -1) / nominal[above.start : above.stop, None]
                would = (share * (1 + share.sum(1, keepdim=True) - share)).clamp(max=1).flatten()
            p[below.start : below.stop] = would
        return p

    def magnitudes(self) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
        """Mean and spread of each feature's magnitudes."""
        last = self.mean if self.mean_last is None else self.mean_last
        mean, sd = torch.linspace(self.mean, last, self.n_features), torch.full((self.n_features,), self.sd)
        if self.sd_spread:
            sd = (sd + self.sd_spread * torch.randn(self.n_features, generator=self._generator(1))).abs()
        return mean, sd

    def copula(self) -> Float[Tensor, "n r"]:
        """B, scaled down where a row would hold more than 0.99 of its feature's variance."""
        factor = self.copula_sd * torch.randn(self.n_features, self.copula_rank, generator=self._generator(2))
        most = factor.square().sum(1).amax()
        return factor * min(1.0, (MOST_SHARED / most.item()) ** 0.5)

    def bias_vector(self) -> Float[Tensor, " d"]:
        """The constant part of every activation."""
        return self.bias * torch.nn.functional.normalize(torch.randn(self.d, generator=self._generator(3)), dim=0)

    def _generator(self, part: int) -> torch.Generator:
        return seeded(self.seed, "structure", part)


def push_apart(rows: Float[Tensor, "n d"], steps: int) -> Float[Tensor, "n d"]:
    """Unit rows with smaller overlaps: Adam on squared off-diagonal cosines and on squared deviations from norm 1."""
    moved = rows.clone().requires_grad_()
    optimizer = torch.optim.Adam([moved], lr=APART_LR)
    for _ in range(steps):
        optimizer.zero_grad()
        gram = moved @ moved.T
        norms = gram.diagonal()
        (gram.square().sum() - norms.square().sum() + (norms - 1).square().sum()).backward()
        optimizer.step()
    return torch.nn.functional.normalize(moved.detach(), dim=1)
