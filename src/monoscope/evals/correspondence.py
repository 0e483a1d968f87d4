"""Which features of two dictionaries belong together: by what they write, or by when they fire.

    decoder       S[j, i] = cos(a_j, b_i)
    activations   S[j, i] = corr over tokens of acts_a[:, j] and acts_b[:, i]

    matched   pairs, one to one, of largest total S among those with S >= threshold
    split     a feature of a that is the nearest of two or more of b, within the threshold; merge: the other way round

S is computed in blocks, and only what reaches the threshold is kept, so that two dictionaries of 131,072 features need
no table of both. Of a feature's partners at most 32 are kept. Shapes: F features of a, G of b, d width, n tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.sparse import csc_array
from torch import Tensor
from torch.nn.functional import normalize

from monoscope.core.errors import MismatchError
from monoscope.core.progress import progress
from monoscope.evals.worlds.matching import CANDIDATES, assigned

CELLS = 2**24  # of S, in memory at once
SAMPLED = 1024  # random rows that say what chance gives


@dataclass(frozen=True)
class Correspondence:
    """How two dictionaries correspond.

    best_a, nearest_a: largest S of each feature of a, and to which of b; the same for b
    pairs ``[2, m]``, similarity ``[m]``: matched features of a and b, and their S
    """

    threshold: float
    best_a: Float[Tensor, " F"]
    nearest_a: Int[Tensor, " F"]
    best_b: Float[Tensor, " G"]
    nearest_b: Int[Tensor, " G"]
    pairs: Int[Tensor, "2 m"]
    similarity: Float[Tensor, " m"]

    def splits(self) -> dict[int, list[int]]:
        """Features of a, each with the two or more features of b it is the nearest of."""
        return _families(self.nearest_b, self.best_b, self.threshold)

    def merges(self) -> dict[int, list[int]]:
        """Features of b, each with the two or more features of a it is the nearest of."""
        return _families(self.nearest_a, self.best_a, self.threshold)

    def alone(self) -> tuple[Int[Tensor, " x"], Int[Tensor, " y"]]:
        """Features of a, and of b, without a partner; the loneliest first."""
        sides = []
        for side, best in enumerate((self.best_a, self.best_b)):
            order = best.argsort(stable=True)
            sides.append(order[~torch.isin(order, self.pairs[side])])
        return sides[0], sides[1]


def by_direction(
    a: Float[Tensor, "F d"], b: Float[Tensor, "G d_b"], threshold: float, *, signed: bool = True
) -> Correspondence:
    """Correspondence of decoder rows by cosine; ``signed = False`` lets opposite directions be the same feature.

    Raises MismatchError for rows of different widths.
    """
    if a.shape[1] != b.shape[1]:
        raise MismatchError(f"features that write {a.shape[1]} and {b.shape[1]} numbers have no cosine")
    rows, columns = normalize(a.detach().float(), dim=1), normalize(b.detach().float(), dim=1)

    def blocks() -> Iterator[Tensor]:
        for part in rows.split(_rows(len(b))):
            cosines = part @ columns.T
            yield cosines if signed else cosines.abs()

    return _correspondence(blocks(), len(a), len(b), threshold)


def by_activation(a: csc_array, b: csc_array, threshold: float) -> Correspondence:
    """Correspondence of activations ``[n, F]`` and ``[n, G]`` on the same tokens, by correlation."""
    scaled_a, scaled_b = _standard(a), _standard(b)
    mean_b = torch.from_numpy(scaled_b.mean)

    def blocks() -> Iterator[Tensor]:
        for start in range(0, _size(a)[1], _rows(_size(b)[1])):
            part = slice(start, min(start + _rows(_size(b)[1]), _size(a)[1]))
            products = (scaled_a.values[:, part].T @ scaled_b.values).toarray()
            yield torch.from_numpy(products / _size(a)[0]) - torch.from_numpy(scaled_a.mean[part])[:, None] * mean_b

    return _correspondence(blocks(), _size(a)[1], _size(b)[1], threshold)


def correlations(a: csc_array, b: csc_array, pairs: Int[Tensor, "2 m"]) -> Float[np.ndarray, " m"]:
    """Correlation of chosen pairs of features; 0 for one that never fires, or always alike."""
    left, right = _standard(a), _standard(b)
    out = np.zeros(pairs.shape[1])
    for start in range(0, pairs.shape[1], 4096):
        i, j = (side[start : start + 4096].numpy() for side in pairs)
        products = left.values[:, i].multiply(right.values[:, j]).sum(axis=0)
        out[start : start + 4096] = np.asarray(products).ravel() / _size(a)[0] - left.mean[i] * right.mean[j]
    return out


def chance(n_a: int, n_b: int, width: int, *, signed: bool = True) -> float:
    """Mean over random directions of the largest cosine to one of ``n_b`` others, from at most 1,024 of them."""
    generator = torch.Generator().manual_seed(0)
    rows = normalize(torch.randn(min(n_a, SAMPLED), width, generator=generator), dim=1)
    best = torch.full((len(rows),), -1.0)
    left = n_b
    while left:
        others = normalize(torch.randn(min(left, CELLS // SAMPLED), width, generator=generator), dim=1)
        cosines = rows @ others.T
        best = torch.maximum(best, (cosines if signed else cosines.abs()).amax(1))
        left -= len(others)
    return best.mean().item()


def nearest_other(rows: Float[Tensor, "F d"]) -> float | None:
    """Median cosine of a feature to the nearest other one, over at most 1,024; None where there is one alone."""
    if len(rows) < 2:
        return None
    unit = normalize(rows.detach().float(), dim=1)
    chosen = torch.linspace(0, len(unit) - 1, min(SAMPLED, len(unit))).long()
    best = []
    for part in chosen.split(_rows(len(unit))):
        cosines = unit[part] @ unit.T
        cosines[torch.arange(len(part)), part] = -2.0
        best.append(cosines.amax(1))
    return torch.cat(best).median().item()


@dataclass(frozen=True)
class _Standard:
    """Activations over their standard deviation, and what the means become; 0 where there is no deviation."""

    values: csc_array
    mean: Float[np.ndarray, " F"]


def _standard(acts: csc_array) -> _Standard:
    n = _size(acts)[0]
    mean = np.asarray(acts.sum(axis=0)).ravel() / n
    square = np.asarray(acts.multiply(acts).sum(axis=0)).ravel() / n
    deviation = np.sqrt(np.maximum(square - mean**2, 0))
    inverse = np.divide(1.0, deviation, out=np.zeros_like(deviation), where=deviation > 1e-12)
    return _Standard(csc_array(acts.multiply(inverse[None, :])), mean * inverse)


def _size(acts: csc_array) -> tuple[int, int]:
    """Tokens and features; scipy's types allow arrays without a shape."""
    assert acts.shape is not None, "two axes"
    return acts.shape[0], acts.shape[1]


def _rows(width: int) -> int:
    return max(1, CELLS // max(width, 1))


def _correspondence(blocks: Iterator[Float[Tensor, "rows G"]], n_a: int, n_b: int, threshold: float) -> Correspondence:
    best_a, nearest_a = [], []
    best_b, nearest_b = torch.full((n_b,), -2.0), torch.zeros(n_b, dtype=torch.long)
    edges: list[tuple[Tensor, Tensor, Tensor]] = []
    start = 0
    with progress("compare features", n_a, "features") as bar:
        for block in blocks:
            block = block.float()
            values, indices = block.topk(min(CANDIDATES, n_b), dim=1)
            best_a.append(values[:, 0])
            nearest_a.append(indices[:, 0])
            row, place = (values >= threshold).nonzero(as_tuple=True)
            edges.append((row + start, indices[row, place], values[row, place]))
            best, which = block.max(dim=0)
            better = best > best_b
            best_b[better], nearest_b[better] = best[better], which[better] + start
            start += len(block)
            bar.advance(len(block))
    rows, columns, similarities = (torch.cat(parts) for parts in zip(*edges, strict=True))
    i, j = assigned(rows, columns, similarities.double().clamp(0, 1), (n_a, n_b))
    pairs = torch.stack([torch.as_tensor(i, dtype=torch.long), torch.as_tensor(j, dtype=torch.long)])
    similarity = _of_pairs(rows, columns, similarities, pairs, n_b)
    order = similarity.argsort(descending=True, stable=True)
    return Correspondence(
        threshold, torch.cat(best_a), torch.cat(nearest_a), best_b, nearest_b, pairs[:, order], similarity[order]
    )


def _of_pairs(rows: Tensor, columns: Tensor, values: Tensor, pairs: Tensor, n_b: int) -> Float[Tensor, " m"]:
    """Values of pairs that are among the edges."""
    codes, order = (rows * n_b + columns).sort()
    return values[order[torch.searchsorted(codes, pairs[0] * n_b + pairs[1])]]


def _families(nearest: Int[Tensor, " n"], best: Float[Tensor, " n"], threshold: float) -> dict[int, list[int]]:
    near = (best >= threshold).nonzero()[:, 0]
    order = nearest[near].argsort(stable=True)
    parents, counts = nearest[near][order].unique_consecutive(return_counts=True)
    children = near[order].split(counts.tolist())
    return {int(parent): own.tolist() for parent, own in zip(parents, children, strict=True) if len(own) > 1}
