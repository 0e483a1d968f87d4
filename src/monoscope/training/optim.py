"""Optimizers, by kind."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import nn

from monoscope.core.config import Config

Parameters = Iterable[nn.Parameter] | Iterable[dict[str, Any]]


class Optimizer(Config, family="optimizer"):
    """Which optimizer, and its settings."""

    states: ClassVar[int] = 0
    """Numbers kept for each parameter."""

    lr: float = Field(gt=0)

    def build(self, parameters: Parameters) -> torch.optim.Optimizer:
        """The optimizer of some parameters, or of groups that may have learning rates of their own."""
        raise NotImplementedError


class Adam(Optimizer):
    """Adam (Kingma, Ba 2015), without weight decay. The rate is the best of ``benchmarks/bench_quality.py``."""

    states: ClassVar[int] = 2
    kind: Literal["adam"] = "adam"
    lr: float = Field(default=6e-3, gt=0)
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = Field(default=1e-8, gt=0)

    def build(self, parameters: Parameters) -> torch.optim.Adam:
        """The optimizer of some parameters."""
        return torch.optim.Adam(parameters, lr=self.lr, betas=self.betas, eps=self.eps, fused=True)


class Sign(Optimizer):
    """Signed momentum: every coordinate moves by the learning rate, along the sign of its averaged gradient.

    m <- momentum m + (1 - momentum) g        w <- w - lr sign(m)
    """

    states: ClassVar[int] = 1
    kind: Literal["sign"] = "sign"
    lr: float = Field(default=1e-3, gt=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)

    def build(self, parameters: Parameters) -> SignedMomentum:
        """The optimizer of some parameters."""
        return SignedMomentum(parameters, self.lr, self.momentum)


class SignedMomentum(torch.optim.Optimizer):
    """The optimizer that ``Sign`` builds."""

    def __init__(self, parameters: Parameters, lr: float, momentum: float) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Move every parameter that has a gradient."""
        assert closure is None, "a closure would be evaluated once per step, and nothing here needs one"
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    average = self.state[parameter].setdefault("average", torch.zeros_like(parameter))
                    average.lerp_(parameter.grad, 1 - group["momentum"])
                    parameter.add_(average.sign(), alpha=-group["lr"])
