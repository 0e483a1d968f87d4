"""Fidelity and health of a dictionary, as sums that stream in float64: updated by batch, merged across parts.

Results do not depend on the size or order of batches. Updates take tokens that count, as rows; masked ones never enter.
Values that are not finite raise DataError; a ratio whose denominator is 0 is None. A feature fires where its activation
is not 0, be it negative. Below, E is the mean over tokens and n2 the squared Euclidean norm.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from monoscope.core.acts import Acts
from monoscope.core.errors import DataError

MIN_NORM = 1e-6  # vectors shorter than this have no direction to compare
CHUNK = 512  # tokens whose distributions over the vocabulary are held at once


class Moments:
    """Mean and spread of vectors, by the parallel update of Chan et al. 1979: stable however far the mean is from 0.

    n: tokens seen; mean ``[d]``; spread: sum of ``n2(x - mean)``; power: sum of ``n2(x)``
    """

    def __init__(self, d: int) -> None:
        self.n, self.mean, self.spread, self.power = 0, torch.zeros(d, dtype=torch.float64), 0.0, 0.0

    def update(self, x: Float[Tensor, "n d"]) -> None:
        """Add tokens."""
        if not len(x):
            return
        check_finite("activations", x)
        x, batch = x.double(), Moments(x.shape[1])
        mean = x.mean(0)
        batch.n, batch.mean = len(x), mean.cpu()
        batch.spread, batch.power = (x - mean).square().sum().item(), x.square().sum().item()
        self.merge(batch)

    def merge(self, other: Moments) -> None:
        """Add what another accumulator has seen."""
        n = self.n + other.n
        if n == 0:
            return
        apart = other.mean - self.mean
        self.spread += other.spread + apart.square().sum().item() * self.n * other.n / n
        self.mean = self.mean + apart * (other.n / n)
        self.power += other.power
        self.n = n


@dataclass(frozen=True, slots=True)
class FidelityResult:
    """How well reconstructions match their targets ``x``.

    n_tokens: tokens seen
    ev: explained variance, ``1 - E n2(x - recon) / (E n2(x) - n2(E x))``; 1 is perfect, 0 no better than the mean
    fvu: fraction of variance unexplained, ``1 - ev``
    legacy_ratio: ``1 - E n2(x - recon) / n2(x - mean)``, a mean of ratios, biased low; None where no mean was given, or
        a token is the mean
    ev_saebench: explained variance as SAEBench and SAELens compute it, with ``(E n2(x) / d)^2`` for ``n2(E x)``; it
        changes with the scale of the activations, and is here to compare with published numbers only
    nmse: ``E n2(x - recon) / E n2(x)``
    mse: ``E n2(x - recon) / d``
    cosine: ``E cos(x, recon)``; a reconstruction of 0 counts as 0
    shrinkage: ``E |recon| / |x|``
    bias: relative reconstruction bias, ``E n2(recon) / E <x, recon>``
    n_short: tokens with ``|x| < 1e-6``, which cosine and shrinkage leave out
    """

    n_tokens: int
    ev: float
    fvu: float
    legacy_ratio: float | None
    ev_saebench: float | None
    nmse: float
    mse: float
    cosine: float | None
    shrinkage: float | None
    bias: float | None
    n_short: int


class Fidelity:
    """Accumulates how well reconstructions of width ``d`` match their targets.

    ``mean [d]`` is the targets' mean. ``legacy_ratio`` alone needs it, since each of its ratios holds the distance of
    one token to a mean that must be known by then; libraries that take the batch's mean depend on the batch.
    """

    def __init__(self, d: int, mean: Float[Tensor, " d"] | None = None) -> None:
        self.targets = Moments(d)
        self.mean = None if mean is None else mean.double()
        self.error = self.recon = self.product = self.cosine = self.shrinkage = self.legacy = 0.0
        self.n_short = 0

    def update(self, target: Float[Tensor, "n d"], recon: Float[Tensor, "n d"]) -> None:
        """Add tokens. Raises DataError for values that are not finite."""
        self.targets.update(target)
        check_finite("reconstructions", recon)
        target, recon = target.double(), recon.double()
        error = (target - recon).square().sum(1)
        product = (target * recon).sum(1)
        norm, norm_recon = target.norm(dim=1), recon.norm(dim=1)
        long = norm >= MIN_NORM
        self.error += error.sum().item()
        self.recon += norm_recon.square().sum().item()
        self.product += product.sum().item()
        cosines = product / (norm * norm_recon).clamp_min(torch.finfo(torch.float64).tiny)
        self.cosine += cosines[long].sum().item()
        self.shrinkage += (norm_recon / norm)[long].sum().item()
        self.n_short += int((~long).sum())
        if self.mean is not None:
            self.legacy += (error / (target - self.mean.to(target.device)).square().sum(1)).sum().item()

    def merge(self, other: Fidelity) -> None:
        """Add what another accumulator has seen."""
        self.targets.merge(other.targets)
        for name in ("error", "recon", "product", "cosine", "shrinkage", "legacy", "n_short"):
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def result(self) -> FidelityResult:
        """The metrics. Raises DataError where there were no tokens, or no two that differ."""
        n, spread, power = self.targets.n, self.targets.spread, self.targets.power
        if spread <= 0:
            raise DataError(f"explained variance needs tokens that differ; found {n:,}, all with the same activations")
        d, long = len(self.targets.mean), n - self.n_short
        return FidelityResult(
            n_tokens=n,
            ev=1 - self.error / spread,
            fvu=self.error / spread,
            legacy_ratio=None if self.mean is None or math.isinf(self.legacy) else 1 - self.legacy / n,
            ev_saebench=_recovered(self.error / n, power / n - (power / n / d) ** 2),
            nmse=self.error / power,
            mse=self.error / n / d,
            cosine=_ratio(self.cosine, long),
            shrinkage=_ratio(self.shrinkage, long),
            bias=_ratio(self.recon, self.product),
            n_short=self.n_short,
        )


@dataclass(frozen=True, slots=True)
class FiringResult:
    """How features fire.

    n_tokens: tokens seen
    n_features: F
    l0: mean number of features that fire on a token
    l1: ``E sum |acts|``, activations in the site's units: each times the norm of its feature's decoder
    dead_share: share of features that fired on none of the ``n_tokens`` tokens
    dense_1_share, dense_10_share: share of features that fire on more than 1 % and more than 10 % of tokens
    """

    n_tokens: int
    n_features: int
    l0: float
    l1: float
    dead_share: float
    dense_1_share: float
    dense_10_share: float


class Firing:
    """Accumulates how often each of F features fires. ``decoder_norm [F]`` puts L1 in the units of the site."""

    def __init__(self, decoder_norm: Float[Tensor, " F"]) -> None:
        self.norm = decoder_norm.detach().double()
        self.counts = torch.zeros(len(decoder_norm), dtype=torch.int64)
        self.n, self.l1 = 0, 0.0

    def update(self, acts: Acts) -> None:
        """Add tokens. Raises DataError for values that are not finite."""
        check_finite("feature activations", acts.values)
        _, features, values = acts.coo()
        self.n += acts.values[..., 0].numel()
        self.counts += torch.bincount(features, minlength=len(self.counts)).cpu()
        self.l1 += (values.double().abs() * self.norm.to(features.device)[features]).sum().item()

    def merge(self, other: Firing) -> None:
        """Add what another accumulator has seen."""
        self.counts = self.counts + other.counts
        self.n, self.l1 = self.n + other.n, self.l1 + other.l1

    @property
    def density(self) -> Float[Tensor, " F"]:
        """Share of tokens on which each feature fires. Raises DataError where there were no tokens."""
        if self.n == 0:
            raise DataError("there are no tokens to count firing on")
        return self.counts.double() / self.n

    def result(self) -> FiringResult:
        """The metrics. Raises DataError where there were no tokens."""
        density = self.density
        return FiringResult(
            n_tokens=self.n,
            n_features=len(density),
            l0=density.sum().item(),
            l1=self.l1 / self.n,
            dead_share=(density == 0).double().mean().item(),
            dense_1_share=(density > 0.01).double().mean().item(),
            dense_10_share=(density > 0.1).double().mean().item(),
        )


class NextToken:
    """Accumulates a language model's next-token losses, as it is and as it is under named changes, in nats.

    ce: ``E -log p(next token)``;  kl: ``E KL(clean, changed) = E sum p_clean (log p_clean - log p_changed)``
    """

    def __init__(self) -> None:
        self.n = 0
        self.ce_sums: dict[str, float] = {}
        self.kl_sums: dict[str, float] = {}

    def update(self, next_tokens: Int[Tensor, " n"], clean: Float[Tensor, "n vocab"]) -> None:
        """Add tokens: the model's logits as it is. Raises DataError where a loss is not finite."""
        self.n += len(next_tokens)
        for wanted, logits in zip(next_tokens.split(CHUNK), clean.split(CHUNK), strict=True):
            self._add_ce("clean", logits.float().log_softmax(1), wanted)

    def update_changed(
        self,
        name: str,
        next_tokens: Int[Tensor, " n"],
        clean: Float[Tensor, "n vocab"],
        changed: Float[Tensor, "n vocab"],
    ) -> None:
        """The same tokens under a change. Raises DataError where a loss is not finite."""
        parts = zip(next_tokens.split(CHUNK), clean.split(CHUNK), changed.split(CHUNK), strict=True)
        for wanted, logits, logits_changed in parts:
            log_p, log_q = logits.float().log_softmax(1), logits_changed.float().log_softmax(1)
            self._add_ce(name, log_q, wanted)
            self._add(self.kl_sums, name, (log_p.exp() * (log_p - log_q)).sum(1))

    def _add_ce(self, name: str, log_p: Tensor, wanted: Tensor) -> None:
        self._add(self.ce_sums, name, -log_p.gather(1, wanted.long()[:, None])[:, 0])

    @staticmethod
    def _add(sums: dict[str, float], name: str, losses: Tensor) -> None:
        check_finite(f"{name} losses", losses)
        sums[name] = sums.get(name, 0.0) + losses.double().sum().item()

    def merge(self, other: NextToken) -> None:
        """Add what another accumulator has seen."""
        self.n += other.n
        for mine, theirs in ((self.ce_sums, other.ce_sums), (self.kl_sums, other.kl_sums)):
            for name, value in theirs.items():
                mine[name] = mine.get(name, 0.0) + value

    def ce(self, name: str) -> float:
        """Mean cross-entropy under a change, or of the ``clean`` model."""
        return self.ce_sums[name] / self.n

    def kl(self, name: str) -> float:
        """Mean divergence of a changed model's predictions from the clean model's."""
        return self.kl_sums[name] / self.n

    def ce_recovered(self, spliced: str, ablated: str) -> float | None:
        """``(CE_ablated - CE_spliced) / (CE_ablated - CE_clean)``: 1 is as good as clean, 0 as bad as ablated."""
        return _recovered(self.ce(spliced) - self.ce("clean"), self.ce(ablated) - self.ce("clean"))

    def kl_recovered(self, spliced: str, ablated: str) -> float | None:
        """``1 - KL(clean, spliced) / KL(clean, ablated)``."""
        return _recovered(self.kl(spliced), self.kl(ablated))


def check_finite(what: str, x: Float[Tensor, "*shape"]) -> None:
    """Raises DataError, naming the first row at fault, unless every value is finite."""
    finite = torch.isfinite(x)
    if not finite.all():
        row = int((~finite).reshape(len(x), -1).any(1).nonzero()[0])
        raise DataError(f"{what} hold a value that is not finite; the first is in row {row} of {len(x):,}")


def _ratio(a: float, b: float) -> float | None:
    return a / b if b else None


def _recovered(lost: float, at_stake: float) -> float | None:
    return 1 - lost / at_stake if at_stake else None
