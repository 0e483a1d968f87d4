"""Optimizers, by kind."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from monoscope import ops
from monoscope.core.config import Config

RATE, RATE_TOKENS = 6e-3, 1_000_000
"""Adam's learning rate, and the tokens up to which a run bears it; ``docs/decisions/0004-defaults-of-training.md``."""

Parameters = Iterable[nn.Parameter] | Iterable[dict[str, Any]]


class Optimizer(Config, family="optimizer"):
    """Which optimizer, and its settings."""

    states: ClassVar[int] = 0
    """Numbers kept for each parameter."""

    def rate(self, tokens: int) -> float:
        """The learning rate of a run over a number of tokens."""
        raise NotImplementedError

    @property
    def leaves_rates(self) -> bool:
        """Whether learning rates are left to what suits a dictionary: multiples of the default one."""
        return False

    def build(self, parameters: Parameters, unit_rows: Collection[nn.Parameter] = ()) -> Mover:
        """The optimizer of some parameters, or of groups that may have learning rates of their own.

        Rows of ``unit_rows`` have norm 1, and keep it.
        """
        raise NotImplementedError


class Mover(ABC):
    """What an optimizer's settings build: moves parameters in place, and keeps rows of norm 1 at norm 1.

    Its groups and its state are those of a ``torch.optim.Optimizer``, which it is not: that class loads torch's
    compiler, 80 MB of a process, to say that it is not to be compiled.
    """

    def __init__(self, parameters: Parameters, defaults: dict[str, Any], unit_rows: Collection[nn.Parameter]) -> None:
        listed = list(parameters)
        groups = listed if listed and isinstance(listed[0], dict) else [{"params": listed}]
        self.param_groups: list[dict[str, Any]] = [{**defaults, **group} for group in groups]  # pyright: ignore[reportGeneralTypeIssues]
        self.state: dict[nn.Parameter, dict[str, Tensor]] = {}
        self.unit_rows = frozenset(map(id, unit_rows))

    @torch.no_grad()
    def step(self, scale: Float[Tensor, ""] | None = None) -> None:
        """Move every parameter that has a gradient, against the gradient times ``scale``; gradients are used up."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self.move(parameter, parameter.grad, group, scale, id(parameter) in self.unit_rows)

    @abstractmethod
    def move(
        self, parameter: nn.Parameter, grad: Tensor, group: dict[str, Any], scale: Tensor | None, unit_norm: bool
    ) -> None:
        """Move one parameter, with the settings of its group."""

    def average(self, parameter: nn.Parameter, name: str) -> Tensor:
        """A running average of a parameter, 0 at first, in the parameter's own layout of memory."""
        state = self.state.setdefault(parameter, {})
        if name not in state:
            state[name] = torch.zeros_like(parameter)
        elif state[name].stride() != parameter.stride():
            state[name] = torch.empty_like(parameter).copy_(state[name])
        return state[name]

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for parameter in self._parameters():
            parameter.grad = None

    def state_dict(self) -> dict[str, Any]:
        """State and settings, with numbers for parameters."""
        numbers = {parameter: number for number, parameter in enumerate(self._parameters())}
        groups = [
            group | {"params": [numbers[parameter] for parameter in group["params"]]} for group in self.param_groups
        ]
        return {
            "state": {numbers[parameter]: dict(state) for parameter, state in self.state.items()},
            "param_groups": groups,
        }

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Continue from what ``state_dict`` gave; where that was of one learning rate, with that one."""
        parameters = self._parameters()
        if len(saved["param_groups"]) == 1:
            self.param_groups = [{**self.param_groups[0], "params": parameters}]
        self.state = {
            parameters[number]: {
                name: value.clone() if value.ndim == 0 else value.to(parameters[number], copy=True)
                for name, value in state.items()
            }
            for number, state in saved["state"].items()
        }
        for group, old in zip(self.param_groups, saved["param_groups"], strict=True):
            for name, value in old.items():
                if name != "params":  # a checkpoint may hold pairs as lists
                    group[name] = tuple(value) if isinstance(value, list) else value

    def _parameters(self) -> list[nn.Parameter]:
        return [parameter for group in self.param_groups for parameter in group["params"]]


class Adam(Optimizer):
    """Adam (Kingma, Ba 2015), without weight decay.

    rate = lr, or RATE min(1, (RATE_TOKENS / tokens)^(1/2)): in longer runs features drift further, and more fall silent
    """

    states: ClassVar[int] = 2
    kind: Literal["adam"] = "adam"
    lr: float | None = Field(
        default=None,
        gt=0,
        description="of all weights; None: 6e-3 up to a million tokens, then less, with the root of their number; of "
        "autoencoders twice that, but half of it for W_enc",
    )
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = Field(default=1e-8, gt=0)

    def rate(self, tokens: int) -> float:
        """The learning rate of a run over a number of tokens."""
        return self.lr or RATE * (RATE_TOKENS / max(tokens, RATE_TOKENS)) ** 0.5

    @property
    def leaves_rates(self) -> bool:
        """Whether no rate is set."""
        return self.lr is None

    def build(self, parameters: Parameters, unit_rows: Collection[nn.Parameter] = ()) -> AdamMover:
        """The optimizer of some parameters."""
        return AdamMover(parameters, {"lr": self.rate(0), "betas": self.betas, "eps": self.eps}, unit_rows)


class AdamMover(Mover):
    """The optimizer that ``Adam`` builds; its state is that of ``torch.optim.Adam``."""

    def move(
        self, parameter: nn.Parameter, grad: Tensor, group: dict[str, Any], scale: Tensor | None, unit_norm: bool
    ) -> None:
        """One step of Adam, see ``ops.adam_rows_``."""
        state = self.state.setdefault(parameter, {})
        state["step"] = state.get("step", torch.tensor(0.0)) + 1
        moments = (self.average(parameter, name) for name in ("exp_avg", "exp_avg_sq"))
        rows = [in_memory_order(tensor, parameter) for tensor in (parameter, grad, *moments)]
        settings = {name: group[name] for name in ("lr", "betas", "eps")}
        ops.adam_rows_(*rows, step=int(state["step"]), **settings, scale=scale, unit_norm=unit_norm)


class Sign(Optimizer):
    """Signed momentum: every coordinate moves by the learning rate, along the sign of its averaged gradient.

    m <- momentum m + (1 - momentum) g        w <- w - lr sign(m)
    """

    states: ClassVar[int] = 1
    kind: Literal["sign"] = "sign"
    lr: float = Field(default=1e-3, gt=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)

    def rate(self, tokens: int) -> float:
        """The learning rate, whatever the number of tokens."""
        return self.lr

    def build(self, parameters: Parameters, unit_rows: Collection[nn.Parameter] = ()) -> SignedMomentum:
        """The optimizer of some parameters."""
        return SignedMomentum(parameters, {"lr": self.lr, "momentum": self.momentum}, unit_rows)


class SignedMomentum(Mover):
    """The optimizer that ``Sign`` builds."""

    def move(
        self, parameter: nn.Parameter, grad: Tensor, group: dict[str, Any], scale: Tensor | None, unit_norm: bool
    ) -> None:
        """One step of signed momentum."""
        if scale is not None:
            grad.mul_(scale)
        if unit_norm:
            grad.addcmul_(torch.linalg.vecdot(grad, parameter).unsqueeze(-1), parameter, value=-1)
        average = self.average(parameter, "average")
        average.lerp_(grad, 1 - group["momentum"])
        parameter.add_(average.sign(), alpha=-group["lr"])
        if unit_norm:
            parameter.div_(parameter.norm(dim=-1, keepdim=True).clamp_min_(1e-12))


def in_memory_order(tensor: Tensor, like: Tensor) -> Tensor:
    """A tensor as rows of memory ``[rows, width]``, its axes in the order in which ``like`` lies in memory."""
    order = sorted(range(like.ndim), key=lambda axis: -like.stride(axis))
    ordered = tensor.permute(order)
    return (ordered.reshape(-1, ordered.shape[-1]) if ordered.ndim > 1 else ordered.reshape(1, -1)).contiguous()


def gradient_norm(parameters: Iterable[nn.Parameter]) -> Float[Tensor, ""]:
    """The norm of all gradients together."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    return torch.nn.utils.get_total_norm(gradients)
