"""Terms: the named, weighted summands of a loss. The loss of a recipe is their sum, logged by name.

Every term is a mean over tokens of a sum over features, coordinates and sites, unless it says otherwise.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from monoscope.core.config import Config
from monoscope.dictionaries.base import Step


class Term(Config, family="term"):
    """One summand of a loss. ``value`` is unweighted; the trainer multiplies it by ``weight``."""

    needs_function: ClassVar[str | None] = None
    """Kind of the only activation function whose parameters the term trains; None where any will do."""

    beside: ClassVar[str | None] = None
    """Kind of the term in whose units the weight is meant; None where it means the same beside any."""

    weight: float = Field(default=1.0, ge=0)

    def value(self, step: Step) -> Float[Tensor, ""]:
        """The term for one step."""
        raise NotImplementedError


class SquaredError(Term):
    """Squared error of the reconstruction.

    value = mean_tokens ||target - recon||^2
    """

    kind: Literal["squared_error"] = "squared_error"

    def value(self, step: Step) -> Float[Tensor, ""]:
        """The term for one step."""
        return step.error.pow(2).sum(-1).mean()


class FVU(Term):
    """Fraction of variance unexplained, on the batch: squared error in units that no rescaling of the data changes.

    value = sum_tokens ||target - recon||^2 / sum_tokens ||target - mean(target)||^2
    """

    kind: Literal["fvu"] = "fvu"

    def value(self, step: Step) -> Float[Tensor, ""]:
        """The term for one step."""
        return step.error.pow(2).sum() / total_variance(step.target)


def total_variance(target: Float[Tensor, "*batch d"] | None) -> Float[Tensor, ""]:
    """Sum over tokens of the squared distance to the batch mean; no gradient."""
    assert target is not None, "terms compare a reconstruction with its target"
    flat = target.detach().flatten(0, -2)
    return (flat - flat.mean(0)).pow(2).sum().clamp_min(1e-30)
