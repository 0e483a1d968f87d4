"""The named worlds: what each is made of, what it is for, and the size at which dictionaries are compared on it.

Source: W3b follows SynthSAEBench-16k (arXiv:2602.14687) at a sixteenth of its size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from monoscope.harvest import Companions, Tree, World


def orthogonal_world(seed: int = 0) -> World:
    """48 orthogonal directions in 64 dimensions, each firing on 5% of tokens."""
    return World(n_features=48, d=64, orthogonal=True, p_max=0.05, seed=seed)


def superposition_world(seed: int = 0) -> World:
    """512 random directions in 128 dimensions, firing probabilities falling from 0.15 to 0.005."""
    return World(n_features=512, d=128, p_max=0.15, p_min=0.005, zipf=0.5, seed=seed)


def correlated_world(seed: int = 0) -> World:
    """Superposition whose features fire together by eight shared factors."""
    return _changed(superposition_world(seed), copula_rank=8, copula_sd=0.25)


def hierarchical_world(seed: int = 0) -> World:
    """16 trees of 21 nodes, and 176 features beside them."""
    tree = Tree(roots=16, branching=4, depth=2, p_root=0.12, p_child=0.2)
    return World(n_features=512, d=128, p_max=0.10, p_min=0.005, tree=tree, seed=seed)


def signed_world(seed: int = 0) -> World:
    """Superposition with coefficients of either sign."""
    return _changed(superposition_world(seed), signed=True)


def narrow_world(seed: int = 0) -> World:
    """64 orthogonal main features, each with a companion that fires with it (32 pairs) or only without it (32)."""
    pairs = (Companions(pairs=32, p_on=0.5, p_off=0.02), Companions(pairs=32, p_on=0.0, p_off=0.2))
    return World(n_features=128, d=128, orthogonal=True, p_max=0.15, companions=pairs, seed=seed)


def noisy_world(seed: int = 0, ratio: float = 10.0) -> World:
    """Superposition under isotropic noise of a tenth of its power."""
    world = superposition_world(seed)
    power = float(world.probabilities().sum()) * (world.mean**2 + world.sd**2)
    return _changed(world, noise=(power / ratio / world.d) ** 0.5)


def public_world(seed: int = 0, *, n_features: int = 16384, d: int = 768, roots: int = 128) -> World:
    """SynthSAEBench-16k, or the same recipe at another size."""
    share = n_features / 16384
    return World(
        n_features=n_features,
        d=d,
        apart=100,
        p_max=0.4,
        p_min=5e-4 if share == 1 else 2e-3,
        mean=5.0,
        mean_last=4.0,
        sd=0.5,
        sd_spread=0.5,
        bias=0.5,
        copula_rank=25 if share == 1 else 8,
        copula_sd=0.1,
        tree=Tree(roots=roots, branching=4, depth=3),
        seed=seed,
    )


def _changed(world: World, **changes: object) -> World:
    return World.from_dict(world.to_dict() | changes)


@dataclass(frozen=True)
class NamedWorld:
    """A world that dictionaries are compared on.

    build: the world of a seed
    n_features: F of the dictionaries, unless a method says otherwise
    l0: what they are compared at; the true L0, rounded where that moves it by less than 5 %, so that TopK can have it
    shows: what the world is for
    """

    build: Callable[[int], World]
    n_features: int
    l0: float
    shows: str


WORLDS = {
    "W0": NamedWorld(orthogonal_world, 48, 2.4, "orthogonal: a smoke test"),
    "W1": NamedWorld(
        superposition_world, 512, 6, "superposition; one-sided twin of W4, where signed codes must not win"
    ),
    "W1, a quarter": NamedWorld(
        superposition_world, 128, 3, "room for a quarter of the features, as in the literature"
    ),
    "W2": NamedWorld(correlated_world, 512, 6, "correlated: methods should rank as on W1"),
    "W3": NamedWorld(hierarchical_world, 512, 7, "hierarchy: absorption and leak"),
    "W4": NamedWorld(signed_world, 512, 6, "signed: codes of one sign need twice the width"),
    "W5": NamedWorld(narrow_world, 64, 9, "too narrow, correlated pairs: hedging"),
    "W5, wide enough": NamedWorld(narrow_world, 128, 18, "the same pairs with room for all: no need to hedge"),
    "W6": NamedWorld(noisy_world, 512, 6, "noisy: chasing residuals gains EV and loses F1"),
}
