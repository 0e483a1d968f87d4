"""Pursuit: activations are a greedy decomposition of the token into feature directions, found step by step.

    r = x;   repeat k times:   j = argmax_j |r . D_j|,   acts_j += r . D_j,   r -= (r . D_j) D_j        (mp)

with unit directions D. Orthogonal pursuit (omp) takes the least-squares coefficients of all directions chosen so far.
Activations are signed, and depend on one another through what the earlier ones left: no function of pre-activations.
With ``positive`` the largest r . D_j is chosen instead, and activations are positive; a token may be finished before k
choices, once little is left of it or a choice brings in no new feature.

Sources: Mallat, Zhang 1993; Pati, Rezaiifar, Krishnaprasad 1993; positive choices and early ends: SAELens,
``saes/matching_pursuit_sae.py``. Shapes: N tokens, F features, d width.
"""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor

from monoscope.core.acts import Acts
from monoscope.core.errors import ConfigError
from monoscope.dictionaries.function import ActivationFunction


class Pursuit(ActivationFunction):
    """How the wirings ``matching_pursuit`` and ``itda`` decompose a token; they alone have the directions it needs."""

    class Config(ActivationFunction.Config):
        """Settings of a pursuit."""

        accepts_wirings: ClassVar[frozenset[str] | None] = frozenset({"itda", "matching_pursuit"})

        kind: Literal["pursuit"] = "pursuit"
        k: int = Field(default=32, ge=1, description="choices per token; at most that many features are active")
        method: Literal["mp", "omp"] = "mp"
        positive: bool = Field(default=False, description="choose by the largest correlation, not its magnitude")
        tolerance: float = Field(default=0.0, ge=0, description="norm below which what is left of a token is left")
        until_repeat: bool = Field(default=False, description="finish a token with the first choice of no new feature")

        @model_validator(mode="after")
        def _only_of_mp(self) -> Self:
            if self.method == "omp" and (self.positive or self.tolerance or self.until_repeat):
                raise ValueError("positive, tolerance and until_repeat belong to method 'mp'")
            return self

        def build(self, n_features: int) -> Pursuit:
            """The function for a number of features."""
            if self.k > n_features and not self.positive:
                raise ConfigError(f"k is {self.k}, more than the dictionary's {n_features} features")
            return Pursuit(self)

    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config, self.k = config, config.k
        self.is_signed = not config.positive  # pyright: ignore[reportAttributeAccessIssue]

    def rescale_residuals_(self, factor: float) -> None:
        """Follow activations that have all been multiplied by ``factor``: the tolerance is in their units."""
        self.config = self.config.model_copy(update={"tolerance": self.config.tolerance * factor})

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
