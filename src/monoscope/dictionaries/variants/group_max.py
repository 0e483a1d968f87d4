"""GroupMax: features compete inside groups, and the largest of each group survives.

    group g holds F/k consecutive features        keep = the largest score of each of k groups
    acts = max(pre, 0) * keep

Equal to TopK where a token's k largest scores lie in distinct groups, and cheaper, since nothing is ranked across
groups. k = F is ReLU; k = 1 keeps the largest score alone.

Source: EleutherAI/sparsify, pull request 49. Shapes: F features.
"""

from __future__ import annotations

from typing import ClassVar, Literal, Self

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from monoscope import ops
from monoscope.core.acts import Acts
from monoscope.core.errors import ConfigError
from monoscope.dictionaries.function import ActivationFunction


class GroupMax(ActivationFunction):
    """The largest score of each of k groups of consecutive features survives, if positive."""

    class Config(ActivationFunction.Config):
        """Settings of GroupMax."""

        k_may_move: ClassVar[bool] = False
        kind: Literal["group_max"] = "group_max"
        k: int = Field(default=64, ge=1, description="groups, and so features kept per token")

        def build(self, n_features: int) -> GroupMax:
            """The function for a number of features."""
            if n_features % self.k:
                raise ConfigError(f"k is {self.k} groups, which do not divide {n_features} features evenly")
            return GroupMax(self, n_features)

    config: Config

    def __init__(self, config: Config, n_features: int) -> None:
        super().__init__()
        self.config, self._block = config, n_features // config.k

    @property
    def selection(self) -> ops.LargestPerGroup:
        """The largest score of each group."""
        return ops.LargestPerGroup(self.config.k)

    @property
    def block(self) -> int:
        """Features of a group, which may change places among themselves alone."""
        return self._block

    def forward(self, pre: Float[Tensor, "*batch F"], norm: Float[Tensor, "*site F"] | None = None) -> Acts:
        """Feature activations, in the sparse layout."""
        score = pre.detach() if norm is None else pre.detach() * norm
        best = score.unflatten(-1, (-1, self.block)).argmax(-1, keepdim=True)
        values = pre.unflatten(-1, (-1, self.block)).gather(-1, best)
        first = torch.arange(0, pre.shape[-1], self.block, device=pre.device)
        return Acts(values.squeeze(-1).relu(), pre.shape[-1], best.squeeze(-1) + first)

    def frozen(self) -> Self:
        """Itself."""
        return self
