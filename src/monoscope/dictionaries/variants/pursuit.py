"""Pursuit: activations are a greedy decomposition of the token into feature directions, found step by step.

    r = x;   repeat k times:   j = argmax_j |r . D_j|,   acts_j += r . D_j,   r -= (r . D_j) D_j        (mp)

with unit directions D. Orthogonal pursuit (omp) takes the least-squares coefficients of all directions chosen so far.
Activations are signed, and depend on one another through what the earlier ones left: no function of pre-activations.

Sources: Mallat, Zhang 1993; Pati, Rezaiifar, Krishnaprasad 1993. Shapes: N tokens, F features, d width.
"""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from monoscope.core.acts import Acts
from monoscope.core.errors import ConfigError
from monoscope.dictionaries.function import ActivationFunction


class Pursuit(ActivationFunction):
    """How the wirings ``matching_pursuit`` and ``itda`` decompose a token; they alone have the directions it needs."""

    is_signed: ClassVar[bool] = True

    class Config(ActivationFunction.Config):
        """Settings of a pursuit."""

        accepts_wirings: ClassVar[frozenset[str] | None] = frozenset({"itda", "matching_pursuit"})

        kind: Literal["pursuit"] = "pursuit"
        k: int = Field(default=32, ge=1, description="choices per token; at most that many features are active")
        method: Literal["mp", "omp"] = "mp"

        def build(self, n_features: int) -> Pursuit:
            """The function for a number of features."""
            if self.k > n_features:
                raise ConfigError(f"k is {self.k}, more than the dictionary's {n_features} features")
            return Pursuit(self)

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config, self.k = config, config.k

    @property
    def selection(self) -> None:
        """No rule on pre-activations."""
        return None

    def forward(self, pre: Float[Tensor, "*batch F"], norm: Float[Tensor, "*site F"] | None = None) -> Acts:
        """Not defined: a choice depends on what the directions chosen before it left of the token."""
        raise NotImplementedError("a pursuit needs directions, which pre-activations do not hold; use encode")

    def frozen(self) -> Self:
        """Itself."""
        return self
