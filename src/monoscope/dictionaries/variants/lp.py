"""Lp: a penalty between L1, which shrinks what is strong, and L0, which has no gradient.

    Lp = mean_tokens sum_{f active} (|acts_f| ||W_dec[f]||)^p,    0 < p <= 1

The gradient at 0 is infinite for p < 1, so the sum runs over active entries alone.

Source: Karvonen et al. 2024 (arXiv:2408.00113), section 4. Shapes: F features.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from monoscope import ops
from monoscope.dictionaries.objective import Term, token_mean, weighted_by_norm
from monoscope.dictionaries.step import Step


class Lp(Term):
    """``mean_tokens sum_{f active} (|acts_f| ||W_dec[f]||)^p``, for a squared error at mean norm sqrt(d)."""

    beside: ClassVar[str | None] = "squared_error"
    kind: Literal["lp"] = "lp"
    weight: float = Field(default=5.0, ge=0)
    p: float = Field(default=0.5, gt=0, le=1)

    def value(self, step: Step) -> Float[Tensor, ""]:
        """The term for one step."""
        strength = weighted_by_norm(step)
        return token_mean(step, ops.over_features(strength[strength > 0].pow(self.p).sum()))
