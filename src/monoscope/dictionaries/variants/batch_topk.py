"""BatchTopK: tokens share one budget of active features.

    keep = the round(k N) largest positive scores of a batch of N tokens        acts = max(pre, 0) * keep
    threshold <- momentum * threshold + (1 - momentum) * smallest kept score      (the first value is copied)

Inference keeps scores above that threshold, whatever else is in the batch.

Source: Bussmann, Leask, Nanda 2024 (arXiv:2412.06410), section 3. Shapes: N tokens, F features.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from monoscope import ops
from monoscope.core.acts import Acts
from monoscope.core.errors import ConfigError
from monoscope.dictionaries.function import ActivationFunction
from monoscope.dictionaries.variants.jumprelu import JumpReLU

if TYPE_CHECKING:
    from monoscope.dictionaries.variants.layer_topk import BatchLayerTopK


class BatchTopK(ActivationFunction):
    """The ``round(k N)`` largest scores of a batch survive in training, those above a threshold at inference."""

    class Config(ActivationFunction.Config):
        """Settings of BatchTopK."""

        kind: Literal["batch_topk"] = "batch_topk"
        k: float = Field(default=64.0, gt=0, description="mean number of features kept per token")
        momentum: float = Field(default=0.95, ge=0, lt=1, description="of the running threshold")

        def build(self, n_features: int) -> BatchTopK:
            """The function for a number of features."""
            if self.k > n_features:
                raise ConfigError(f"k is {self.k:g}, more than the dictionary's {n_features} features")
            return BatchTopK(self, n_features)

    threshold: Tensor

    config: Config | BatchLayerTopK

    def __init__(self, config: Config | BatchLayerTopK, n_features: int) -> None:
        super().__init__()
        self.config, self.k, self.n_features = config, config.k, n_features
        self.register_buffer("threshold", torch.tensor(-1.0))  # -1: no batch seen yet

    @property
    def selection(self) -> ops.TopKPerBatch | ops.AboveThreshold:
        """The batch's largest scores in training, those above the running threshold at inference."""
        if self.training:
            return ops.TopKPerBatch(self.k)
        return ops.AboveThreshold(self._thresholds())

    def _thresholds(self) -> Float[Tensor, " F"]:
        return self.threshold.clamp_min(0.0).expand(self.n_features)

    def forward(self, pre: Float[Tensor, "*batch F"], norm: Float[Tensor, "*site F"] | None = None) -> Acts:
        """Feature activations, in the dense layout."""
        score = pre.detach() if norm is None else pre.detach() * norm
        if self.training:
            keep = score >= ops.batch_cut(score, self.k)
        else:
            keep = score > self._thresholds()
        return Acts(pre.relu() * keep, pre.shape[-1])

    @torch.no_grad()
    def observe(self, acts: Acts, norm: Float[Tensor, "*site F"] | None = None) -> None:
        """Move the running threshold towards the smallest kept score of a batch."""
        score = acts.values
        if norm is not None:
            score = score * (norm if acts.indices is None else norm[acts.indices])
        smallest = ops.smallest(torch.where(score > 0, score, torch.inf).min())
        first = self.threshold < 0
        moved = torch.where(first, smallest, torch.lerp(self.threshold, smallest, 1 - self.config.momentum))
        self.threshold.copy_(torch.where(smallest.isfinite(), moved, self.threshold))

    @torch.no_grad()
    def reset(self) -> None:
        """Forget the running threshold."""
        self.threshold.fill_(-1.0)

    @torch.no_grad()
    def rescale_scores_(self, factor: float | Float[Tensor, " F"]) -> None:
        """Multiply the threshold by ``factor``."""
        self.threshold.mul_(factor)

    def share_(self, of: int) -> None:
        """Serve one of several equal shares of the features."""
        self.n_features //= of

    def frozen(self) -> JumpReLU:
        """A JumpReLU with the running threshold for every feature."""
        function = JumpReLU(JumpReLU.Config(), self._thresholds().clone())
        return function.eval().requires_grad_(False)
