"""Features against planted directions: who is whose, and what the directions alone say.

    C[j, i] = |cos(W_dec[j], D[i])|        S[j, i] = cos(W_dec[j], D[i])
    a(j) = argmax_i C[j, i]                m: the one-to-one assignment of largest total C (Hungarian)

Source of MCC, uniqueness and their conventions: SynthSAEBench (arXiv:2602.14687), SAELens ``synthetic/evals``. Leak,
hedging, splitting and composition as measured here are our own. Shapes: F features, n planted, d width.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.optimize import linear_sum_assignment
from scipy.sparse import csr_array
from scipy.sparse.csgraph import min_weight_full_bipartite_matching
from torch import Tensor

from monoscope.evals.metrics import check_finite

MOST_DENSE = 4096  # wider dictionaries are matched on the best candidates alone
CANDIDATES = 32
SPLIT_AT, COMPOSED_AT = 0.5, 0.4


@dataclass(frozen=True)
class Match:
    """Which planted direction each feature stands for.

    cosines ``[F, n]``: S, signed
    nearest ``[F]``: a(j)
    partner ``[F]``: m(j), -1 for a feature without one
    is_exact: False where the assignment was sought among each row's 32 best candidates
    """

    cosines: Float[Tensor, "F n"]
    nearest: Int[Tensor, " F"]
    partner: Int[Tensor, " F"]
    is_exact: bool

    @property
    def pairs(self) -> tuple[Int[Tensor, " pair"], Int[Tensor, " pair"]]:
        """Matched features, and the planted features they are matched with."""
        features = (self.partner >= 0).nonzero()[:, 0]
        return features, self.partner[features]

    @property
    def matched(self) -> Float[Tensor, " pair"]:
        """S of the matched pairs."""
        return self.cosines[self.pairs]

    def feature_of(self) -> Int[Tensor, " n"]:
        """The feature matched with each planted one; -1 where there is none."""
        features, planted = self.pairs
        out = torch.full((self.cosines.shape[1],), -1)
        out[planted] = features
        return out


def cosines(W_dec: Float[Tensor, "F d"], directions: Float[Tensor, "n d"]) -> Float[Tensor, "F n"]:
    """S; 0 for a row of length 0. Raises DataError for rows that are not finite."""
    check_finite("decoder rows", W_dec)
    rows, planted = (torch.nn.functional.normalize(x.detach().double(), dim=1) for x in (W_dec, directions))
    return rows @ planted.T


def match(W_dec: Float[Tensor, "F d"], directions: Float[Tensor, "n d"]) -> Match:
    """Nearest and assigned planted directions of every feature."""
    signed = cosines(W_dec, directions)
    found = signed.abs()
    is_exact = max(found.shape) <= MOST_DENSE
    rows, columns = _assign(found) if is_exact else _assign_sparsely(found)
    partner = torch.full((len(found),), -1)
    partner[torch.as_tensor(rows, dtype=torch.long)] = torch.as_tensor(columns, dtype=torch.long)
    return Match(signed, found.argmax(1), partner, is_exact)


def _assign(found: Float[Tensor, "F n"]) -> tuple[np.ndarray, np.ndarray]:
    return linear_sum_assignment(found.numpy(), maximize=True)


def _assign_sparsely(found: Float[Tensor, "F n"]) -> tuple[np.ndarray, np.ndarray]:
    """Largest total C among pairs that are one of the 32 best for their feature or for their planted direction."""
    n_features, n_planted = found.shape
    by_row, by_column = (found.topk(min(CANDIDATES, found.shape[dim]), dim=dim).indices for dim in (1, 0))
    rows = torch.cat([torch.arange(n_features).repeat_interleave(by_row.shape[1]), by_column.T.flatten()])
    columns = torch.cat([by_row.flatten(), torch.arange(n_planted).repeat_interleave(by_column.shape[0])])
    rows, columns = torch.stack([rows, columns]).unique(dim=1)
    return assigned(rows, columns, found[rows, columns], (n_features, n_planted))


def assigned(
    rows: Int[Tensor, " edge"], columns: Int[Tensor, " edge"], values: Float[Tensor, " edge"], shape: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs, one to one, whose values in [0, 1] add up to the most among those that are listed, once each."""
    n_rows, n_columns = shape
    # A partner of its own, worth nothing, lets every feature be matched; costs of 0 would mean "no pair" to scipy.
    cost = torch.cat([2 - values, torch.full((n_rows,), 2.0, dtype=values.dtype)]).numpy()
    everyone = torch.arange(n_rows)
    places = torch.cat([rows, everyone]).numpy(), torch.cat([columns, n_columns + everyone]).numpy()
    graph = csr_array((cost, places), shape=(n_rows, n_columns + n_rows))
    chosen, partners = min_weight_full_bipartite_matching(graph)
    real = partners < n_columns
    return chosen[real], partners[real]


def mcc(found: Match, alive: Bool[Tensor, " F"] | None = None, planted: Bool[Tensor, " n"] | None = None) -> float:
    """Mean of C over the min(F, n) matched pairs: blind to sign, dead features included.

    ``alive`` matches those features alone; ``planted`` averages over those planted features alone.
    """
    if alive is not None:
        signed = found.cosines[alive]
        if not len(signed):
            return 0.0
        rows, columns = _assign(signed.abs())
        pairs, values = torch.as_tensor(columns), signed[torch.as_tensor(rows), torch.as_tensor(columns)]
    else:
        pairs, values = found.pairs[1], found.matched
    values = values.abs()
    if planted is not None:
        return values[planted[pairs]].sum().item() / max(1, min(int(planted.sum()), len(found.cosines)))
    return values.sum().item() / min(len(found.cosines) if alive is None else int(alive.sum()), found.cosines.shape[1])


def greedy_mcc(found: Match) -> float:
    """MCC of the matching that takes the best pair left, again and again: what some libraries report."""
    left, total = found.cosines.abs().clone(), 0.0
    n_pairs = min(left.shape)
    for _ in range(n_pairs):
        best = int(left.argmax())
        row, column = divmod(best, left.shape[1])
        total += left[row, column].item()
        left[row], left[:, column] = -1, -1
    return total / n_pairs


def mean_max_cosine(W_dec: Float[Tensor, "F d"], directions: Float[Tensor, "n d"]) -> float:
    """Mean over planted directions of the largest absolute cosine to a decoder row (MMCS): recall-like, in [0, 1]."""
    return cosines(W_dec, directions).abs().amax(0).mean().item()


def recovery(W_dec: Float[Tensor, "F d"], directions: Float[Tensor, "n d"], threshold: float = 0.9) -> float:
    """Share of planted directions whose largest absolute cosine to a decoder row reaches the threshold."""
    return (cosines(W_dec, directions).abs().amax(0) >= threshold).double().mean().item()


def pw_mcc(a: Float[Tensor, "F d"], b: Float[Tensor, "G d"]) -> float:
    """MCC between two dictionaries, such as those of two seeds: how stable a method is, with no truth needed.

    Source: arXiv:2505.20254.
    """
    return mcc(match(a, b))


def uniqueness(found: Match) -> float:
    """Share of features whose nearest planted direction is not another one's: distinct a(j), over F."""
    return len(found.nearest.unique()) / len(found.nearest)


def uniqueness_bounds(n_features: int, n_planted: int) -> tuple[float, float]:
    """What F features with evenly random nearest directions score, ``n (1 - (1 - 1/n)^F) / F``, and the most F can."""
    floor = n_planted * (1 - (1 - 1 / n_planted) ** n_features) / n_features
    return floor, min(1.0, n_planted / n_features)


def splitting(found: Match) -> float:
    """Features beyond the first that share a nearest planted direction at C >= 0.5; mean over directions that have one.

    0 where none has.
    """
    best = found.cosines.abs().gather(1, found.nearest[:, None])[:, 0]
    counts = torch.bincount(found.nearest[best >= SPLIT_AT], minlength=found.cosines.shape[1])
    having = counts[counts > 0]
    return (having - 1).double().mean().item() if len(having) else 0.0


def composition(found: Match) -> float:
    """Share of features with two or more planted directions at C > 0.4; random features have some too."""
    return ((found.cosines.abs() > COMPOSED_AT).sum(1) >= 2).double().mean().item()


def hedging(
    found: Match, directions: Float[Tensor, "n d"], other: Int[Tensor, " n"] | None = None
) -> Float[Tensor, " pair"]:
    """How far each matched row leans towards another planted direction, beyond the planted ones' own overlap.

        cos(W_dec[j], d_other) - d_i . d_other,   the row's sign taken so that it agrees with d_i

    ``other [n]`` names each planted feature's partner, -1 for none: such pairs are left out. Without it, the other is
    the direction not matched with j of largest C, and absolute values are compared. Source: after arXiv:2505.11756.
    """
    features, planted = found.pairs
    unit = torch.nn.functional.normalize(directions.double(), dim=1)
    if other is None:
        apart = found.cosines[features].abs()
        apart[torch.arange(len(planted)), planted] = -1
        largest, index = apart.max(1)
        return largest - (unit[planted] * unit[index]).sum(1).abs()
    partner = other[planted]
    features, planted, partner = (t[partner >= 0] for t in (features, planted, partner))
    sign = found.cosines[features, planted].sign()
    return sign * found.cosines[features, partner] - (unit[planted] * unit[partner]).sum(1)


def leak(found: Match, directions: Float[Tensor, "n d"], parent: Int[Tensor, " n"]) -> float | None:
    """Mean over children of how much of their parent's direction their own row holds; None in a world without children.

    The direction side of absorption; 0 is clean.
    """
    leaning = hedging(found, directions, parent)
    return leaning.mean().item() if len(leaning) else None
