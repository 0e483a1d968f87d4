"""Features as detectors of planted features, counted over tokens whose true coefficients are known.

    precision = TP / fires       recall = TP / on       F1 = 2 TP / (fires + on)       0 for what never fires

once with the nearest planted feature of each feature (argmax) and once one to one (Hungarian; the unmatched score 0).
Sums stream in float64; results do not depend on the size or order of batches. A feature fires where its activation is
not 0, a planted one is on where its coefficient is not 0. Shapes: F features, n planted.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from monoscope.core.acts import Acts
from monoscope.core.errors import DataError
from monoscope.evals.metrics import check_finite
from monoscope.evals.worlds.matching import Match

MIN_EVENTS = 20  # of both kinds, before a parent's absorption counts


@dataclass(frozen=True)
class Tally:
    """One set of pairs of a feature and a planted feature, each counted on its own.

    true_positives, fires, on ``[pair]``
    """

    true_positives: Float[Tensor, " pair"]
    fires: Float[Tensor, " pair"]
    on: Float[Tensor, " pair"]

    @property
    def precision(self) -> Float[Tensor, " pair"]:
        """Of the tokens where the feature fires, the share where the planted one is on."""
        return self.true_positives / self.fires.clamp_min(1)

    @property
    def recall(self) -> Float[Tensor, " pair"]:
        """Of the tokens where the planted feature is on, the share where the feature fires."""
        return self.true_positives / self.on.clamp_min(1)

    @property
    def f1(self) -> Float[Tensor, " pair"]:
        """Harmonic mean of the two."""
        return 2 * self.true_positives / (self.fires + self.on).clamp_min(1)


class Detection:
    """Accumulates how features and planted features fire together, given who stands for whom.

    ``children`` of each planted feature that has any, where absorption should be counted.
    """

    def __init__(self, found: Match, children: dict[int, range] | None = None) -> None:
        self.found, self.children = found, children or {}
        n_features, n_planted = found.cosines.shape
        self.n = 0
        self.fires, self.on = torch.zeros(n_features).double(), torch.zeros(n_planted).double()
        self.nearest_hits = torch.zeros(n_features).double()
        n_pairs = len(found.pairs[0])
        self.matched_hits = torch.zeros(n_pairs).double()
        self.moments = torch.zeros(5, n_pairs).double()  # sums of a, c, a a, c c, a c over matched pairs
        self.jaccard = 0.0
        self.parents = sorted(self.children)
        self.events = torch.zeros(4, len(self.parents)).double()  # on and silent with a child on; the same without

    def update(self, acts: Acts, truth: Acts) -> None:
        """Add tokens. Raises DataError for values that are not finite."""
        check_finite("feature activations", acts.values)
        a, c = acts.dense(), truth.dense()
        fires, on = a != 0, c != 0
        features, planted = self.found.pairs
        self.n += len(a)
        self.fires += fires.sum(0)
        self.on += on.sum(0)
        self.nearest_hits += (fires & on[:, self.found.nearest]).sum(0)
        hits = fires[:, features] & on[:, planted]
        self.matched_hits += hits.sum(0)
        self._add_moments(a[:, features], c[:, planted])
        # Of the planted features that are on and the features that fire, the share that are each other's.
        union = fires.sum(1) + on.sum(1) - hits.sum(1)
        self.jaccard += (hits.sum(1).double() / union.clamp_min(1)).where(union > 0, 1.0).sum().item()
        self._add_events(fires, on)

    def _add_moments(self, a: Float[Tensor, "n pair"], c: Float[Tensor, "n pair"]) -> None:
        parts = (a, c, a * a, c * c, a * c)
        self.moments += torch.stack([part.sum(0, dtype=torch.float64) for part in parts])

    def _add_events(self, fires: Bool[Tensor, "n F"], on: Bool[Tensor, "n n_planted"]) -> None:
        stands = self.found.feature_of()
        for index, parent in enumerate(self.parents):
            here = on[:, parent]
            below = self.children[parent]
            child = on[here, below.start : below.stop].any(1)
            j = int(stands[parent])
            silent = ~fires[here, j] if j >= 0 else torch.ones_like(child)
            counted = (child, child & silent, ~child, ~child & silent)
            self.events[:, index] += torch.stack([part.sum() for part in counted])

    def merge(self, other: Detection) -> None:
        """Add what another accumulator has seen of the same features and the same world."""
        self.n, self.jaccard = self.n + other.n, self.jaccard + other.jaccard
        for name in ("fires", "on", "nearest_hits", "matched_hits", "moments", "events"):
            getattr(self, name).add_(getattr(other, name))

    def nearest(self) -> Tally:
        """Every feature with its nearest planted one."""
        self._check()
        return Tally(self.nearest_hits, self.fires, self.on[self.found.nearest])

    def matched(self) -> Tally:
        """Every matched feature with its own planted one."""
        self._check()
        features, planted = self.found.pairs
        return Tally(self.matched_hits, self.fires[features], self.on[planted])

    @property
    def alive(self) -> Bool[Tensor, " F"]:
        """Features that fired at all."""
        self._check()
        return self.fires > 0

    @property
    def covariance(self) -> Float[Tensor, " pair"]:
        """Covariance of activation and true coefficient, over matched pairs."""
        self._check()
        a, c, _, _, ac = self.moments / self.n
        return ac - a * c

    def fidelity(self) -> Float[Tensor, " pair"]:
        """Correlation of activation and true coefficient over matched pairs, with the sign of the row; 0 for constants.

        A feature that stands for the opposite of its planted direction has negative activations where that has positive
        ones, and is as good.
        """
        a, c, aa, cc, _ = self.moments / self.n
        spread = ((aa - a * a) * (cc - c * c)).clamp_min(0).sqrt()
        return self.found.matched.sign() * torch.where(spread > 0, self.covariance / spread, 0.0)

    def signed_mcc(self) -> float:
        """Mean over matched pairs of ``S sign(cov)``: a feature that writes the direction it detects counts fully.

        Flipping a feature with its row changes nothing; one that never fires, or writes the opposite, lowers it.
        """
        return (self.found.matched * self.covariance.sign()).sum().item() / min(self.found.cosines.shape)

    def absorption(self) -> Float[Tensor, " parent"]:
        """How much oftener a parent's feature is silent on the parent where a child is on than where none is.

            P(m(p) silent | p on, some child on) - P(m(p) silent | p on, no child on)

        NaN for parents seen 20 times or fewer either way. Source: after arXiv:2409.14507.
        """
        self._check()
        with_child, silent_with, without, silent_without = self.events
        rate = silent_with / with_child - silent_without / without
        return rate.where(torch.minimum(with_child, without) > MIN_EVENTS, torch.nan)

    def support_jaccard(self) -> float:
        """Mean over tokens of the overlap of active features and active planted ones, under the matching."""
        self._check()
        return self.jaccard / self.n

    def true_l0(self) -> float:
        """Mean number of planted features that are on."""
        self._check()
        return self.on.sum().item() / self.n

    def _check(self) -> None:
        if not self.n:
            raise DataError("there are no tokens to count detections on")


def parents_of(children: dict[int, range], n: int) -> Int[Tensor, " n"]:
    """The parent of each planted feature; -1 where it has none."""
    out = torch.full((n,), -1)
    for parent, below in children.items():
        out[below.start : below.stop] = parent
    return out
