"""Geometry of feature directions: what lies nearest to a feature, and how features split as dictionaries grow.

Directions are decoder rows, compared by cosine. Chance is what random directions of the same number and width give: in
few dimensions the nearest of many is never far.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from monoscope.core.errors import DataError

ROWS = 1024  # compared at once
QUANTILES = (0.05, 0.5, 0.95)


def nearest_directions(
    rows: Float[Tensor, "n d"], among: Float[Tensor, "m d"] | None = None
) -> tuple[Float[Tensor, " n"], Int[Tensor, " n"]]:
    """For each direction the largest cosine to one of ``among``, and which; by default to another one of ``rows``.

    Raises DataError where there is nothing to compare with.
    """
    others = rows if among is None else among
    if len(others) < (2 if among is None else 1):
        raise DataError(f"nearest directions need others to compare with, found {len(others)}")
    unit, targets = normalize(rows.detach().double(), dim=1), normalize(others.detach().double(), dim=1)
    cosines, indices = [], []
    for first in range(0, len(unit), ROWS):
        part = unit[first : first + ROWS] @ targets.T
        if among is None:
            part.diagonal(first).fill_(-2.0)  # a direction is not its own neighbor
        best = part.max(dim=1)
        cosines.append(best.values)
        indices.append(best.indices)
    return torch.cat(cosines), torch.cat(indices)


@dataclass(frozen=True, slots=True)
class Splitting:
    """What becomes of a narrow dictionary's features in a wider one, at a cosine of ``threshold``.

    kept_share: of the narrow ones, those with a wide one within the threshold
    children: wide features nearest to a narrow one and within the threshold, on average over those that have any
    split_share: of the narrow ones, those that are nearest to two or more wide ones within the threshold
    new_share: of the wide ones, those with no narrow one within the threshold
    chance_kept_share, chance_new_share: the same between random directions
    """

    threshold: float
    n_narrow: int
    n_wide: int
    kept_share: float
    children: float
    split_share: float
    new_share: float
    chance_kept_share: float
    chance_new_share: float


def splitting(narrow: Float[Tensor, "n d"], wide: Float[Tensor, "m d"], threshold: float = 0.7) -> Splitting:
    """How the features of a narrow dictionary split in a wider one of the same site."""
    kept, new, counts = _relation(narrow, wide, threshold)
    generator = torch.Generator().manual_seed(0)
    by_chance = [torch.randn(rows.shape, generator=generator) for rows in (narrow, wide)]
    chance_kept, chance_new, _ = _relation(by_chance[0], by_chance[1], threshold)
    parents = counts[counts > 0].double()
    return Splitting(
        threshold=threshold,
        n_narrow=len(narrow),
        n_wide=len(wide),
        kept_share=kept,
        children=parents.mean().item() if len(parents) else 0.0,
        split_share=(counts >= 2).double().mean().item(),
        new_share=new,
        chance_kept_share=chance_kept,
        chance_new_share=chance_new,
    )


def _relation(narrow: Tensor, wide: Tensor, threshold: float) -> tuple[float, float, Int[Tensor, " n"]]:
    """Share of narrow ones that are kept, share of wide ones that are new, and the children of each narrow one."""
    to_wide, _ = nearest_directions(narrow, wide)
    to_narrow, parents = nearest_directions(wide, narrow)
    near = to_narrow >= threshold
    counts = torch.bincount(parents[near], minlength=len(narrow))
    return (to_wide >= threshold).double().mean().item(), (~near).double().mean().item(), counts


@dataclass(frozen=True, slots=True)
class Neighbors:
    """How near each other the features of one dictionary are, and how long their decoder rows.

    nearest: quantiles 5 %, 50 %, 95 % of the cosine to the nearest other one; chance: the median for random directions
    near_share: of features, those with another one within ``threshold``
    norms: quantiles 5 %, 50 %, 95 % of decoder norms
    """

    threshold: float
    n: int
    nearest: tuple[float, ...]
    chance: float
    near_share: float
    norms: tuple[float, ...]


def neighbors(rows: Float[Tensor, "n d"], threshold: float = 0.7) -> Neighbors:
    """Nearest other feature and decoder norm of each feature, as distributions."""
    cosines, _ = nearest_directions(rows)
    random = torch.randn(rows.shape, generator=torch.Generator().manual_seed(0))
    return Neighbors(
        threshold=threshold,
        n=len(rows),
        nearest=_quantiles(cosines),
        chance=nearest_directions(random)[0].median().item(),
        near_share=(cosines >= threshold).double().mean().item(),
        norms=_quantiles(rows.detach().double().norm(dim=1)),
    )


def _quantiles(values: Float[Tensor, " n"]) -> tuple[float, ...]:
    return tuple(torch.quantile(values, torch.tensor(QUANTILES, dtype=values.dtype)).tolist())
