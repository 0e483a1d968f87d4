"""Concept separability: how well one feature's activations tell concepts apart, as a Jensen-Shannon distance.

    p_c = distribution of the feature's activation on tokens of concept c, pi_c = share of those tokens
    JSD = H(sum_c pi_c p_c) - sum_c pi_c H(p_c)        D = sqrt(JSD / H(pi)), in [0, 1]

Distributions are histograms: activations of exactly 0 are a bin of their own, since otherwise D would measure little
but how often a feature fires; the others fall into equal bins over the feature's range. A plug-in entropy is too large
for few tokens, so D of the same activations under permuted labels is subtracted.

Source: Fereidouni, Haider, Ju, Siddique 2025 (arXiv:2508.15094). Shapes: N tokens, F features, C concepts, B bins.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from monoscope.core.errors import DataError
from monoscope.evals.metrics import check_finite

BINS = 20
PERMUTATIONS = 20


@dataclass(frozen=True)
class Separability:
    """D of every feature, as it is and under permuted labels.

    distance, null ``[F]``; alive ``[F]``: features that fire on one of the tokens; the others have a distance of 0
    """

    distance: Float[Tensor, " F"]
    null: Float[Tensor, " F"]
    alive: Bool[Tensor, " F"]

    @property
    def above_null(self) -> Float[Tensor, " F"]:
        """What D holds beyond chance: about 0 for a feature that tells nothing."""
        return self.distance - self.null

    @property
    def score(self) -> float:
        """Mean over features."""
        return self.above_null.mean().item()

    @property
    def score_alive(self) -> float:
        """Mean over features that fire. Raises DataError where none does."""
        if not self.alive.any():
            raise DataError("no feature fires on these tokens")
        return self.above_null[self.alive].mean().item()


def separability(
    acts: Float[Tensor, "N F"],
    concepts: Int[Tensor, " N"],
    *,
    bins: int = BINS,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
) -> Separability:
    """Separability of concepts, numbered from 0, by each feature.

    Raises DataError for fewer than two concepts, or activations that are not finite.
    """
    check_finite("feature activations", acts)
    places, shares = _places(acts, bins), _shares(concepts)
    generator = torch.Generator().manual_seed(seed)
    null = torch.zeros(acts.shape[1], dtype=torch.float64)
    for _ in range(permutations):
        permuted = concepts[torch.randperm(len(concepts), generator=generator)]
        null += _distance(_histograms(places, permuted, bins), shares) / permutations
    return Separability(_distance(_histograms(places, concepts, bins), shares), null, (acts != 0).any(0))


def posterior(
    acts: Float[Tensor, "N F"], concepts: Int[Tensor, " N"], concept: int, *, bins: int = BINS
) -> Float[Tensor, "N F"]:
    """Probability of a concept given each feature's activation alone, by Bayes' rule on the histograms.

    P(c | a) = p_c(a) pi_c / sum_i p_i(a) pi_i
    """
    places, shares = _places(acts, bins), _shares(concepts)
    joint = _histograms(places, concepts, bins) * shares[:, None, None]
    given = joint[concept] / joint.sum(0).clamp_min(torch.finfo(torch.float64).tiny)
    return given.gather(1, places.T).T


def _shares(concepts: Int[Tensor, " N"]) -> Float[Tensor, " C"]:
    counts = torch.bincount(concepts)
    if len(counts) < 2 or (counts == 0).any():
        raise DataError(f"separability needs tokens of two concepts or more, numbered from 0; found {counts.tolist()}")
    return counts.double() / len(concepts)


def _places(acts: Float[Tensor, "N F"], bins: int) -> Int[Tensor, "N F"]:
    """Bin of every activation: 0 for what does not fire, 1 to ``bins`` over the range of what does."""
    fires = acts != 0
    low = acts.where(fires, torch.inf).amin(0)
    high = acts.where(fires, -torch.inf).amax(0)
    width = (high - low).clamp_min(torch.finfo(acts.dtype).tiny)
    place = ((acts - low) / width * bins).where(fires, 0).long().clamp(0, bins - 1) + 1
    return place.where(fires, 0)


def _histograms(places: Int[Tensor, "N F"], concepts: Int[Tensor, " N"], bins: int) -> Float[Tensor, "C F B"]:
    n_features = places.shape[1]
    n_concepts, n_places = int(concepts.max()) + 1, bins + 1
    cell = (concepts[:, None] * n_features + torch.arange(n_features)) * n_places + places
    counts = torch.bincount(cell.flatten(), minlength=n_concepts * n_features * n_places)
    found = counts.view(n_concepts, n_features, n_places).double()
    return found / found.sum(2, keepdim=True)


def _distance(histograms: Float[Tensor, "C F B"], shares: Float[Tensor, " C"]) -> Float[Tensor, " F"]:
    mixed = (shares[:, None, None] * histograms).sum(0)
    divergence = _entropy(mixed) - (shares[:, None] * _entropy(histograms)).sum(0)
    return (divergence.clamp_min(0) / _entropy(shares)).sqrt()


def _entropy(p: Float[Tensor, "*shape B"]) -> Float[Tensor, "*shape"]:
    return -torch.xlogy(p, p).sum(-1)
