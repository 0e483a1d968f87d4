"""ReLU with an L1 penalty: the first sparse autoencoders.

    acts = max(pre, 0)            L1 = mean_tokens sum_f acts_f ||W_dec[f]||

Decoder norms in the penalty make it invariant to rescaling a feature. One unit feature of coefficient a is shrunk by
exactly weight / 2 under the squared error.

Sources: Bricken et al. 2023, Towards Monosemanticity; Cunningham et al. 2023 (arXiv:2309.08600); decoder norms:
Conerly et al. 2024, Update on how we train SAEs. Shapes: F features.
"""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from monoscope import ops
from monoscope.core.acts import Acts
from monoscope.dictionaries.function import ActivationFunction
from monoscope.dictionaries.objective import Term, token_mean, weighted_by_norm
from monoscope.dictionaries.step import Step


class ReLU(ActivationFunction):
    """``acts = max(pre, 0)``; sparse only by its penalty."""

    class Config(ActivationFunction.Config):
        """ReLU has no settings."""

        is_elementwise: ClassVar[bool] = True
        needs_terms: ClassVar[frozenset[str]] = frozenset({"l1", "lp", "tanh", "tanh_quad"})
        kind: Literal["relu"] = "relu"

        def build(self, n_features: int) -> ReLU:
            """The function."""
            return ReLU(self)

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config

    @property
    def selection(self) -> None:
        """None: too many entries may survive for a sparse path to pay."""
        return None

    @property
    def fires_above(self) -> tuple[float, float]:
        """0, which does not learn."""
        return 0.0, 0.0

    def forward(self, pre: Float[Tensor, "*batch F"], norm: Float[Tensor, "*site F"] | None = None) -> Acts:
        """Feature activations."""
        return Acts(pre.relu(), pre.shape[-1])

    def frozen(self) -> Self:
        """Itself."""
        return self


class L1(Term):
    """``mean_tokens sum_f |acts_f| ||W_dec[f]||``. The weight suits a squared error at mean norm sqrt(d)."""

    beside: ClassVar[str | None] = "squared_error"
    kind: Literal["l1"] = "l1"
    weight: float = Field(default=5.0, ge=0)

    def value(self, step: Step) -> Float[Tensor, ""]:
        """The term for one step."""
        return token_mean(step, ops.over_features(weighted_by_norm(step).sum()))
