"""The tanh penalties of JumpReLU, and the penalty that keeps its silent features within reach.

    tanh       sum_f mean_tokens tanh(c |acts_f| n_f)                          n_f = ||W_dec[f]||
    tanh_quad  sum_f q_f (1 + q_f / s),    q_f = mean_tokens tanh(c |acts_f| n_f)
    preact     mean_tokens sum_f max(th_f - pre_f, 0) n_f

tanh counts what fires strongly as one and pulls on what fires weakly; its gradient reaches encoder, decoder norms and
thresholds. The quadratic form weighs down features that fire often: at q = s one more firing costs three times as much
as at q = 0. preact moves features that do not fire, and is in the units of pre-activations: where scores are scaled by
decoder norms, the threshold of a pre-activation is th_f / n_f.

Sources: Conerly et al. 2025, Dictionary Learning Optimization Techniques (Transformer Circuits, January 2025);
tanh_quad: OpenMOSS llamascopium. Shapes: F features.
"""

from __future__ import annotations

from typing import ClassVar, Literal, cast

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from monoscope import ops
from monoscope.dictionaries.objective import Term, token_mean, weighted_by_norm
from monoscope.dictionaries.step import Step
from monoscope.dictionaries.variants.jumprelu import JumpReLU


class Tanh(Term):
    """``sum_f mean_tokens tanh(c |acts_f| ||W_dec[f]||)``. The weight suits a squared error at mean norm sqrt(d)."""

    beside: ClassVar[str | None] = "squared_error"
    kind: Literal["tanh"] = "tanh"
    weight: float = Field(default=10.0, ge=0)
    c: float = Field(default=4.0, gt=0, description="an activation of 1 / c counts for 0.76")

    def value(self, step: Step) -> Float[Tensor, ""]:
        """The term for one step."""
        return token_mean(step, ops.over_features((self.c * weighted_by_norm(step)).tanh().sum()))


class TanhQuad(Term):
    """``sum_f q_f (1 + q_f / s)`` of the mean tanh of each feature. The weight is the source's."""

    beside: ClassVar[str | None] = "squared_error"
    kind: Literal["tanh_quad"] = "tanh_quad"
    weight: float = Field(default=0.3, ge=0)
    c: float = Field(default=4.0, gt=0)
    s: float = Field(default=0.01, gt=0, description="frequency at which the quadratic part equals the linear one")

    def value(self, step: Step) -> Float[Tensor, ""]:
        """The term for one step."""
        strength = (self.c * weighted_by_norm(step)).tanh()
        often = token_mean(step, strength.reshape(step.n_tokens, -1).sum(0))
        return ops.over_features((often * (1 + often / self.s)).sum())


class PreAct(Term):
    """``mean_tokens sum_f max(th_f - pre_f, 0) ||W_dec[f]||``, over all features, or over those that are dead."""

    needs_function: ClassVar[str | None] = "jumprelu"
    beside: ClassVar[str | None] = "squared_error"
    kind: Literal["preact"] = "preact"
    weight: float = Field(default=3e-6, ge=0)
    dead_only: bool = False

    def value(self, step: Step) -> Float[Tensor, ""]:
        """The term for one step; 0 where it waits for dead features and there are none."""
        norm = step.dictionary.decoder_norm()
        threshold = cast(JumpReLU, step.dictionary.activation).threshold
        if step.dictionary.score_norm() is not None:
            threshold = threshold / norm
        lacking = (threshold - step.pre).relu() * norm
        if not self.dead_only:
            return token_mean(step, ops.over_features(lacking.sum()))
        if step.is_dead is None:
            return step.recon.new_zeros(())
        return token_mean(step, ops.over_features((lacking * step.is_dead).sum()))
