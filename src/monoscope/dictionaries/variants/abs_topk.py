"""AbsTopK: features with two ends, such as more and less of one thing, on one direction.

    keep = the k largest |score| of the token        acts = pre * keep, with its sign

One proximal step under the constraint ||acts||_0 <= k, without the non-negativity that ReLU and TopK add to it.
Flipping the sign of a feature's encoder and decoder changes nothing.

Source: Zhu, Khalili, Zhu 2025 (arXiv:2510.00404), section 4. Shapes: F features.
"""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from monoscope import ops
from monoscope.core.acts import Acts
from monoscope.core.errors import ConfigError
from monoscope.dictionaries.function import ActivationFunction


class AbsTopK(ActivationFunction):
    """The k scores of largest magnitude of each token survive, with their signs."""

    is_signed: ClassVar[bool] = True

    class Config(ActivationFunction.Config):
        """Settings of AbsTopK."""

        kind: Literal["abs_topk"] = "abs_topk"
        k: int = Field(default=64, ge=1, description="features kept per token")

        def build(self, n_features: int) -> AbsTopK:
            """The function for a number of features."""
            if self.k > n_features:
                raise ConfigError(f"k is {self.k}, more than the dictionary's {n_features} features")
            return AbsTopK(self)

    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config, self.k = config, config.k

    @property
    def selection(self) -> ops.AbsTopKPerToken:
        """The k largest magnitudes of each token."""
        return ops.AbsTopKPerToken(self.k)

    def forward(self, pre: Float[Tensor, "*batch F"], norm: Float[Tensor, "*site F"] | None = None) -> Acts:
        """Feature activations, in the sparse layout."""
        score = pre.detach() if norm is None else pre.detach() * norm
        return ops.top_per_token(pre, score.abs(), self.k)

    def frozen(self) -> Self:
        """Itself."""
        return self
