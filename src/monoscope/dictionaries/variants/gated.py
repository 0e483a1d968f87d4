"""Gated: one path decides which features fire, another how strongly, so that a penalty on the first shrinks nothing.

    u = z @ W_enc        gate = u + b_gate        mag = exp(r) u + b_mag        acts = 1[gate > 0] max(mag, 0)

    gate L1   mean_tokens sum_f max(gate_f, 0) ||W_dec[f]||
    gate aux  mean_tokens ||target - decode(max(gate, 0))||^2, the decoder held fixed

The hard gate passes no gradient, so these two terms alone train it. Inference computes the same as a JumpReLU:

    W_enc' = W_enc exp(r)        b_enc' = b_mag        threshold = max(0, b_mag - exp(r) b_gate)

The wiring's own b_enc would be a third bias: it enters both paths, stays as it starts, and is not trained.

Source: Rajamanoharan et al. 2024 (arXiv:2404.16014), equations 3-8 and appendix H. Shapes: F features.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, cast

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from monoscope import ops
from monoscope.core.acts import Acts
from monoscope.dictionaries.function import ActivationFunction
from monoscope.dictionaries.objective import Term, token_mean
from monoscope.dictionaries.step import Step
from monoscope.dictionaries.variants.jumprelu import JumpReLU


class Gated(ActivationFunction):
    """A gate with its own bias, and a magnitude that shares the gate's directions up to a scale per feature."""

    feature_axes: ClassVar[Mapping[str, int]] = {"b_gate": 0, "b_mag": 0, "r": 0}
    owns_bias: ClassVar[bool] = True

    class Config(ActivationFunction.Config):
        """Gated has no settings."""

        is_elementwise: ClassVar[bool] = True
        needs_terms: ClassVar[frozenset[str]] = frozenset({"gate_l1"})
        kind: Literal["gated"] = "gated"

        def build(self, n_features: int) -> Gated:
            """The function for a number of features."""
            return Gated(self, n_features)

    def __init__(self, config: Config, n_features: int) -> None:
        super().__init__()
        self.config = config
        self.b_gate, self.b_mag, self.r = (nn.Parameter(torch.zeros(n_features)) for _ in range(3))

    @property
    def selection(self) -> None:
        """None: the gate is trained by what does not fire, too."""
        return None

    def forward(self, pre: Float[Tensor, "*batch F"], norm: Float[Tensor, "*site F"] | None = None) -> Acts:
        """Feature activations. Norms scale a gate, and cannot change its sign."""
        magnitude = self.r.exp() * pre + self.b_mag
        return Acts(magnitude.relu() * (self.gate(pre.detach()) > 0), pre.shape[-1])

    def gate(self, pre: Float[Tensor, "*batch F"]) -> Float[Tensor, "*batch F"]:
        """What lets a feature fire where it is positive."""
        return pre + self.b_gate

    @property
    def absorbed(self) -> tuple[Float[Tensor, " F"], Float[Tensor, " F"]]:
        """The magnitude's scale and bias, which the frozen form leaves to the encoder."""
        return self.r.detach().exp(), self.b_mag.detach()

    @torch.no_grad()
    def frozen(self) -> JumpReLU:
        """A JumpReLU of magnitudes."""
        threshold = (self.b_mag - self.r.exp() * self.b_gate).clamp_min(0.0)
        return JumpReLU(JumpReLU.Config(), threshold).eval().requires_grad_(False)


class GateL1(Term):
    """``mean_tokens sum_f max(gate_f, 0) ||W_dec[f]||``. The weight suits a squared error at mean norm sqrt(d)."""

    needs_function: ClassVar[str | None] = "gated"
    beside: ClassVar[str | None] = "gate_aux"
    kind: Literal["gate_l1"] = "gate_l1"
    weight: float = Field(default=5.0, ge=0)

    def value(self, step: Step) -> Float[Tensor, ""]:
        """The term for one step."""
        return token_mean(step, ops.over_features((_gate(step).relu() * step.dictionary.decoder_norm()).sum()))


class GateAux(Term):
    """``mean_tokens ||target - decode(max(gate, 0))||^2``: no gradient reaches a decoder, nor a bias through it."""

    needs_function: ClassVar[str | None] = "gated"
    beside: ClassVar[str | None] = "squared_error"
    kind: Literal["gate_aux"] = "gate_aux"

    def value(self, step: Step) -> Float[Tensor, ""]:
        """The term for one step."""
        assert step.target is not None, "terms compare a reconstruction with its target"
        recon = _DecodeHeldFixed.apply(_gate(step).relu(), step)
        return token_mean(step, ops.squared_distance(recon, step.target))


def _gate(step: Step) -> Float[Tensor, "*tokens F"]:
    return cast(Gated, step.dictionary.activation).gate(step.pre)


class _DecodeHeldFixed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, acts: Tensor, step: Step) -> Tensor:
        with torch.enable_grad():
            ctx.acts = acts.detach().requires_grad_()
            ctx.recon = step.dictionary.decode(Acts(ctx.acts, acts.shape[-1]), step.counted(step.x).detach())
        return ctx.recon.detach()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (dacts,) = torch.autograd.grad(ctx.recon, ctx.acts, grads[0], retain_graph=True)
        return dacts, None
