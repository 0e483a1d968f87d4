"""Atoms: whether a dictionary's directions are far enough apart for its sparse codes to be the only ones.

    S = E[x x^T]^-1            cos_S(u, v) = u^T S v / (|u|_S |v|_S)         cosine after whitening, without centering
    mu_j = max_i |cos_S(D_j, D_i)|        a code of K atoms is unique if K < (1 + 1 / mu) / 2, mu the largest of them
    q* = sup {q : mu_q < 1 / (2 K_q - 1)},        q-quantiles of coherence over atoms and of L0 over tokens
    delta_K <= max_j sum of the K - 1 largest |cos_S(D_j, D_i)|              every K atoms are nearly orthonormal:
                                                 (1 - delta) |c|^2 <= |sum c_j D_j|_S^2 <= (1 + delta) |c|^2
    thresholding finds a support where  e K c_max < tau < c_min - e (K - 1) c_max,  e the largest coherence

The inner product does not depend on coordinates: x -> T x with S -> T^-T S T^-1 changes nothing. Atoms of more than d
dimensions have d / F as their mean square in S, so all are scaled to unit length in S first.

Source: Hu et al. 2025 (arXiv:2509.20784) for the product and q*, from summaries: not checked against the paper's own
text. The bound on delta: Tropp 2004, from the Gershgorin circles. Shapes: N tokens, F atoms, d width.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from monoscope.core.errors import DataError, MismatchError
from monoscope.dictionaries import Dictionary
from monoscope.evals.metrics import Fidelity, check_finite

CHUNK = 1024  # atoms whose cosines are held at once


@dataclass(frozen=True, slots=True)
class Atoms:
    """What the theory of atoms says of a dictionary on held-out tokens.

    ev: explained variance; the theory calls it faithfulness
    coherence, coherence_median: largest and median mu_j
    l0: median number of active features
    uniqueness: q*, the share of the dictionary and of the tokens for which codes are provably unique
    rip: bound on delta at the median L0; from 1 on it says nothing
    """

    ev: float
    coherence: float
    coherence_median: float
    l0: float
    uniqueness: float
    rip: float


def examine_atoms(dictionary: Dictionary, sample: Float[Tensor, "n d"], held_out: Float[Tensor, "N d"]) -> Atoms:
    """Checks of a dictionary that writes where it reads; ``sample`` gives the inner product.

    Many features against few training tokens explain held-out ones less than those: compare with a dictionary made of
    training tokens themselves.
    """
    step = dictionary(held_out)
    fidelity = Fidelity(held_out.shape[1])
    fidelity.update(held_out, step.recon)
    directions = dictionary.decoder_rows(dictionary.writes[0])
    if directions is None:
        raise MismatchError("the features of this dictionary have no directions of their own")
    rows = whitened(directions.detach()[step.acts.fired()], atomic_product(sample))
    mu, l0 = coherence(rows), step.acts.l0().flatten()
    k = int(l0.float().median())
    return Atoms(
        ev=fidelity.result().ev,
        coherence=mu.max().item(),
        coherence_median=mu.median().item(),
        l0=float(k),
        uniqueness=uniqueness_quantile(mu, l0),
        rip=rip_bound(rows, k),
    )


def atomic_product(x: Float[Tensor, "N d"], *, shrink: bool = True) -> Float[Tensor, "d d"]:
    """S: the inverse of the second moment of activations.

    ``shrink`` moves the moment towards a multiple of the identity by Ledoit and Wolf's rule (2004), which costs little
    where tokens are many and keeps the inverse finite where they are few; it makes the product depend on coordinates.
    Raises DataError where there is no inverse.
    """
    check_finite("activations", x)
    x = x.double()
    n, d = x.shape
    moment = x.T @ x / n
    if shrink:
        scale = moment.trace() / d
        target = scale * torch.eye(d, dtype=moment.dtype)
        apart = (moment - target).square().sum()
        # mean over tokens of |x x^T - moment|^2, from sums alone
        spread = (x.square().sum(1).square().mean() - moment.square().sum()) / n
        share = (spread / apart.clamp_min(torch.finfo(torch.float64).tiny)).clamp(0, 1)
        moment = share * target + (1 - share) * moment
    if torch.linalg.matrix_rank(moment, hermitian=True) < d:
        raise DataError(f"{n:,} tokens do not span {d} dimensions; give more, or let the moment shrink")
    return torch.linalg.inv(moment)


def whitened(rows: Float[Tensor, "F d"], product: Float[Tensor, "d d"]) -> Float[Tensor, "F d"]:
    """Rows in coordinates where S is the identity, scaled to length 1: their products are cosines in S."""
    factor = torch.linalg.cholesky((product + product.T) / 2)
    return torch.nn.functional.normalize(rows.double() @ factor, dim=1)


def coherence(unit_rows: Float[Tensor, "F d"]) -> Float[Tensor, " F"]:
    """mu: the largest absolute product of each row with another."""
    return torch.cat([cosines.amax(1) for cosines in _others(unit_rows)])


def rip_bound(unit_rows: Float[Tensor, "F d"], k: int) -> float:
    """Bound on delta_k: the largest sum, over rows, of a row's k - 1 largest absolute products with others."""
    if k <= 1:
        return 0.0
    most = min(k - 1, len(unit_rows) - 1)
    return max(cosines.topk(most, dim=1).values.sum(1).max().item() for cosines in _others(unit_rows))


def _others(unit_rows: Float[Tensor, "F d"]) -> Iterator[Float[Tensor, "n F"]]:
    """Absolute products of rows with all rows, themselves at 0, in chunks."""
    if len(unit_rows) < 2:
        raise DataError(f"coherence needs two directions or more, found {len(unit_rows)}")
    for start in range(0, len(unit_rows), CHUNK):
        cosines = (unit_rows[start : start + CHUNK] @ unit_rows.T).abs()
        index = torch.arange(len(cosines))
        cosines[index, start + index] = 0
        yield cosines


def uniqueness_quantile(mu: Float[Tensor, " F"], l0: Int[Tensor, " N"]) -> float:
    """q*: the largest q at which the q-quantiles of coherence and of L0 keep codes unique; 0 where none does.

    Both quantiles grow with q, so everything below q* holds as well.
    """
    mu, l0 = mu.double().sort().values, l0.double().sort().values
    n, m = len(mu), len(l0)
    q = torch.cat([torch.arange(1, n + 1, dtype=torch.float64) / n, torch.arange(1, m + 1, dtype=torch.float64) / m])
    # The q-quantile is the smallest value that a share q of all does not exceed.
    mu_q = mu[((q * n - 1e-9).ceil().long() - 1).clamp(0, n - 1)]
    l0_q = l0[((q * m - 1e-9).ceil().long() - 1).clamp(0, m - 1)]
    holds = mu_q * (2 * l0_q - 1) < 1
    return q[holds].max().item() if holds.any() else 0.0


def threshold_window(e: float, k: int, c_min: float, c_max: float) -> tuple[float, float] | None:
    """Thresholds by which scores ``<D_j, x>_S`` tell a support of k atoms from the rest; None if there are none.

    ``e`` is the largest coherence, and coefficients lie between ``c_min`` and ``c_max``.
    """
    low, high = e * k * c_max, c_min - e * (k - 1) * c_max
    return (low, high) if low < high else None
