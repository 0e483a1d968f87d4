"""Variational: activations drawn around their mean, and held near a standard normal prior.

    mu = max(pre, 0)        zeta = mu + sigma eps, eps ~ N(0, 1)        keep = the k largest |zeta| of the token
    acts = zeta * keep in training, mu * keep at inference

    KL = 1/2 sum_f (mu_f^2 + sigma_f^2 - 1 - log sigma_f^2)

sigma is a number, or learned as log sigma^2, one per feature. Free bits let a feature's mean KL be smaller than them
without a reward. A batch's noise is a function of the seed and of how many batches came before, so that interrupted
runs continue to the same weights.

Source: Baker, Li 2025 (arXiv:2509.22994), a negative result. Free bits: Kingma et al. 2016 (arXiv:1606.04934), section
2.4. The source's learned sigma depends on the input as well. Shapes: F features.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal, cast

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from monoscope import ops
from monoscope.core.acts import Acts
from monoscope.core.errors import ConfigError
from monoscope.dictionaries.function import ActivationFunction
from monoscope.dictionaries.objective import Term, token_mean
from monoscope.dictionaries.step import Step
from monoscope.dictionaries.variants.topk import TopK


class Variational(ActivationFunction):
    """TopK of magnitudes of noisy activations in training; at inference TopK of their means, which are not negative."""

    feature_axes: ClassVar[Mapping[str, int]] = {"log_variance": 0}

    class Config(ActivationFunction.Config):
        """Settings of a variational dictionary."""

        kind: Literal["variational"] = "variational"
        k: int = Field(default=64, ge=1, description="features kept per token")
        sigma: float = Field(default=1.0, ge=0, description="of the noise; where a learned one starts")
        learn_sigma: bool = False
        seed: int = Field(default=0, ge=0, description="of the noise")

        def build(self, n_features: int) -> Variational:
            """The function for a number of features."""
            if self.k > n_features:
                raise ConfigError(f"k is {self.k}, more than the dictionary's {n_features} features")
            if self.learn_sigma and self.sigma == 0:
                raise ConfigError("sigma is learned as the logarithm of a variance and cannot start at 0")
            return Variational(self, n_features)

    n_batches: Tensor

    def __init__(self, config: Config, n_features: int) -> None:
        super().__init__()
        self.config, self.k = config, config.k
        log_variance = 2 * torch.full((n_features,), config.sigma).log()
        self.log_variance = nn.Parameter(log_variance, requires_grad=config.learn_sigma)
        self.register_buffer("n_batches", torch.zeros((), dtype=torch.int64))

    @property
    def selection(self) -> ops.TopKPerToken | None:
        """TopK of the means at inference; None in training, where noise decides as well."""
        return None if self.training else ops.TopKPerToken(self.k)

    def forward(self, pre: Float[Tensor, "*batch F"], norm: Float[Tensor, "*site F"] | None = None) -> Acts:
        """Feature activations, in the sparse layout."""
        values = pre.relu()
        if self.training:
            values = values + (0.5 * self.log_variance).exp() * self._noise(pre)
        score = values.detach() if norm is None else values.detach() * norm
        return ops.top_per_token(values, score.abs(), self.k)

    def _noise(self, like: Tensor) -> Tensor:
        generator = torch.Generator(like.device).manual_seed(self.config.seed * 2**31 + int(self.n_batches))
        return ops.normal(like, generator)

    @torch.no_grad()
    def observe(self, acts: Acts, norm: Float[Tensor, "*site F"] | None = None) -> None:
        """Draw other noise for the next batch."""
        self.n_batches += 1

    @torch.no_grad()
    def reset(self) -> None:
        """Begin the noise anew."""
        self.n_batches.zero_()

    @torch.no_grad()
    def project_(self) -> None:
        """Keep the logarithms of variances in [-6, 2]."""
        if self.config.learn_sigma:
            self.log_variance.clamp_(-6.0, 2.0)

    def frozen(self) -> TopK:
        """TopK of the means."""
        return TopK(TopK.Config(k=self.k)).eval()


class KL(Term):
    """``sum_f max(mean_tokens KL_f, free_bits)``: activations' distance from a standard normal, in nats."""

    needs_function: ClassVar[str | None] = "variational"
    kind: Literal["kl"] = "kl"
    weight: float = Field(default=1e-3, ge=0)
    free_bits: float = Field(default=0.0, ge=0, description="nats per feature that cost nothing more")

    def value(self, step: Step) -> Float[Tensor, ""]:
        """The term for one step."""
        # Without noise the divergence is infinite by a constant, which no gradient sees.
        log_variance = ops.once(cast(Variational, step.dictionary.activation).log_variance.clamp_min(-60.0))
        mean_square = token_mean(step, step.pre.relu().square().flatten(0, -2).sum(0))
        divergence = 0.5 * (mean_square + log_variance.exp() - 1 - log_variance)
        return ops.over_features(divergence.clamp_min(self.free_bits).sum())
