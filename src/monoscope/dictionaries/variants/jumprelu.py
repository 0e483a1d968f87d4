"""JumpReLU, and the two penalties that train its thresholds through a rectangle kernel.

    acts = pre * 1[score > th]                       K(u) = 1[|u| < 1/2]
    d acts / d pre = 1[score > th]                   d acts / d th = -(th / eps) K((score - th) / eps)

    L0:        sum_f H(score_f - th_f)               dH / dth = -(1 / eps) K((score - th) / eps)
    target L0: (l0 / target - 1)^2, l0 the batch mean of that sum; settles at the target without a weight to search

Thresholds are learned directly, in score units, and kept non-negative. With scores scaled by decoder norms, the
kernel's slope in th is divided by the norm, since a kept entry is score / norm.

Source: Rajamanoharan et al. 2024 (arXiv:2407.14435), equations 3, 8, 11, 12. Shapes: N tokens, F features.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self, cast

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


class JumpReLU(ActivationFunction):
    """A learned threshold per feature; at inference, any function whose selection is a threshold."""

    feature_axes: ClassVar[Mapping[str, int]] = {"threshold": 0}

    class Config(ActivationFunction.Config):
        """Settings of JumpReLU."""

        is_elementwise: ClassVar[bool] = True
        needs_terms: ClassVar[frozenset[str]] = frozenset({"l0", "tanh", "tanh_quad", "target_l0"})
        kind: Literal["jumprelu"] = "jumprelu"
        threshold: float = Field(default=0.1, ge=0, description="initial, in score units")
        bandwidth: float = Field(
            default=2.0, gt=0, description="eps, in score units; a step is sparse where few are so near"
        )
        calibrate_l0: float | None = Field(
            default=None, gt=0, description="start from the threshold at which this many features fire per token"
        )

        def build(self, n_features: int) -> JumpReLU:
            """The function for a number of features."""
            if self.calibrate_l0 is not None and self.calibrate_l0 > n_features:
                raise ConfigError(f"calibrate_l0 is {self.calibrate_l0:g}, more than {n_features} features")
            return JumpReLU(self, torch.full((n_features,), self.threshold))

    config: Config

    def __init__(self, config: Config, threshold: Float[Tensor, " F"]) -> None:
        super().__init__()
        self.config, self.bandwidth = config, config.bandwidth
        self.threshold = nn.Parameter(threshold)

    @property
    def selection(self) -> ops.AboveThreshold | None:
        """Scores above the threshold; None in training, where entries in the kernel's window matter too."""
        return None if self.training else ops.AboveThreshold(self.threshold.detach())

    @property
    def fires_above(self) -> tuple[Float[Tensor, " F"], float]:
        """Its thresholds, and the kernel's width."""
        return self.threshold, self.bandwidth

    def forward(self, pre: Float[Tensor, "*batch F"], norm: Float[Tensor, "*site F"] | None = None) -> Acts:
        """Feature activations."""
        score = pre.detach() if norm is None else pre.detach() * norm
        return Acts(ops.jump(pre, score, norm, self.threshold, self.bandwidth), pre.shape[-1])

    def active(self, score: Float[Tensor, "*batch F"]) -> Float[Tensor, "*batch F"]:
        """``H(score - th)``, with the kernel's gradient to the thresholds and none to the scores."""
        return ops.fires_above(score, self.threshold, self.bandwidth)

    @property
    def calibrates(self) -> bool:
        """Whether the first thresholds are to be those of an L0."""
        return self.config.calibrate_l0 is not None

    @torch.no_grad()
    def calibrate(self, score: Float[Tensor, "n F"]) -> None:
        """Set every threshold to the score that ``calibrate_l0`` entries per token exceed."""
        if self.config.calibrate_l0 is not None:
            self.threshold.fill_(ops.kth_largest(score, max(1, round(self.config.calibrate_l0 * len(score)))))

    @torch.no_grad()
    def rescale_scores_(self, factor: float | Float[Tensor, " F"]) -> None:
        """Multiply the thresholds by ``factor``."""
        self.threshold.mul_(factor)

    @torch.no_grad()
    def project_(self) -> None:
        """Keep thresholds non-negative."""
        self.threshold.clamp_min_(0.0)

    def frozen(self) -> Self:
        """Itself: training differs in the gradient alone."""
        return self


class _Count(torch.autograd.Function):
    """How many entries fire, with the kernel's gradient to thresholds from how many are near each."""

    @staticmethod
    def forward(ctx: Any, fired: Tensor, th: Tensor, near: Tensor, eps: float) -> Tensor:
        ctx.save_for_backward(near)
        ctx.eps = eps
        return fired.to(th.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (near,) = ctx.saved_tensors
        return None, -grads[0] * near / ctx.eps, None, None


def _l0(step: Step) -> Float[Tensor, ""]:
    function = cast(JumpReLU, step.dictionary.activation)
    if (window := step.acts.window) is not None:
        fired = _Count.apply(step.acts.l0().sum(), function.threshold, window.near, function.bandwidth)
    else:
        fired = function.active(step.score.detach()).sum()
    return token_mean(step, ops.over_features(fired))


class L0(Term):
    """``mean_tokens sum_f H(score_f - th_f)``: its gradient reaches the thresholds alone."""

    needs_function: ClassVar[str | None] = "jumprelu"
    kind: Literal["l0"] = "l0"
    weight: float = Field(default=1e-3, ge=0)

    def value(self, step: Step) -> Float[Tensor, ""]:
        """The term for one step."""
        return _l0(step)


class TargetL0(Term):
    """``(l0 / target - 1)^2``: its gradient reaches the thresholds alone, and changes sign at the target."""

    needs_function: ClassVar[str | None] = "jumprelu"
    kind: Literal["target_l0"] = "target_l0"
    target: float = Field(default=32.0, gt=0)

    def value(self, step: Step) -> Float[Tensor, ""]:
        """The term for one step."""
        return (_l0(step) / self.target - 1).pow(2)
