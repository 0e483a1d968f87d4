"""Terms: the named, weighted summands of a loss. The loss of a recipe is their sum, logged by name.

Every term is a mean over tokens of a sum over features, coordinates and sites, unless it says otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from monoscope import ops
from monoscope.core.config import Config
from monoscope.dictionaries.step import Step


class Term(Config, family="term"):
    """One summand of a loss. ``value`` is unweighted; the trainer multiplies it by ``weight``."""

    needs_function: ClassVar[str | None] = None
    """Kind of the only activation function whose parameters the term trains; None where any will do."""

    beside: ClassVar[str | None] = None
    """Kind of the term in whose units the weight is meant; None where it means the same beside any."""

    reconstructs: ClassVar[bool] = False
    """Whether the term makes a dictionary reconstruct its target: a recipe needs one that does."""

    needs_model: ClassVar[bool] = False
    """Whether the term asks what the language model makes of the reconstruction: ``step.downstream``."""

    refuses: ClassVar[Mapping[str, str]] = {}
    """Kinds of activation functions that the term cannot train, and why."""

    weight: float = Field(default=1.0, ge=0)

    @property
    def stands_for(self) -> str:
        """Kind of the term in whose place it stands beside others: its own, unless it is a form of another."""
        return str(self.to_dict()["kind"])

    def check_size(self, n_features: int) -> None:
        """Raise ValueError where the term's settings do not suit the number of features."""

    def value(self, step: Step) -> Float[Tensor, ""]:
        """The term for one step."""
        raise NotImplementedError


class SquaredError(Term):
    """Squared error of the reconstruction.

    value = mean_tokens ||target - recon||^2
    """

    reconstructs: ClassVar[bool] = True
    kind: Literal["squared_error"] = "squared_error"

    def value(self, step: Step) -> Float[Tensor, ""]:
        """The term for one step."""
        return token_mean(step, step.squared_error)


class FVU(Term):
    """Fraction of variance unexplained, on the batch: squared error in units that no rescaling of the data changes.

    value = sum_tokens ||target - recon||^2 / sum_tokens ||target - mean(target)||^2

    Over several sites, both sums run over all of them.
    """

    reconstructs: ClassVar[bool] = True
    kind: Literal["fvu"] = "fvu"

    def value(self, step: Step) -> Float[Tensor, ""]:
        """The term for one step."""
        return ops.over_tokens(step.squared_error) / total_variance(step.target, step.n_tokens)


class EndToEnd(Term):
    """What splicing the reconstruction in changes about the model's predictions, in nats.

    value = mean_tokens KL(p_clean(next token), p_spliced(next token))

    The error is dropped, so that only what the reconstruction carries reaches the model. Beside a penalty it is the
    whole loss; beside ``squared_error`` or ``fvu`` it keeps features from passing through other paths of the model.
    Source: Braun et al. 2024 (arXiv:2405.12014).
    """

    reconstructs: ClassVar[bool] = True
    needs_model: ClassVar[bool] = True
    kind: Literal["end_to_end"] = "end_to_end"

    def value(self, step: Step) -> Float[Tensor, ""]:
        """The term for one step."""
        assert step.downstream is not None, "a trainer gives terms the model they need"
        return step.downstream.divergence(step.recon)


def token_mean(step: Step, total: Tensor) -> Tensor:
    """The mean over the tokens of a batch, from the sum over those of this process.

    A sum over features is given as ``ops.over_features(sum)``: terms see the tokens and the features of their process.
    """
    return ops.over_tokens(total) / (step.n_all_tokens or ops.token_count(step.n_tokens))


def weighted_by_norm(step: Step) -> Float[Tensor, "*tokens F"]:
    """``|acts_f| ||W_dec[f]||``: what penalties act on, which no rescaling of a feature changes."""
    return step.acts.dense().abs() * step.dictionary.decoder_norm()


def total_variance(target: Float[Tensor, "*tokens d"] | None, n_tokens: int) -> Float[Tensor, ""]:
    """Sum over tokens, and sites where there are several, of the squared distance to the batch mean; no gradient."""
    assert target is not None, "terms compare a reconstruction with its target"
    flat = target.detach().reshape(n_tokens, -1)
    return ops.over_tokens(ops.squared_distance(flat, ops.batch_mean(flat).expand_as(flat))).clamp_min(1e-30)
