"""A value as a function of the step."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from annotated_types import Ge, Interval
from pydantic import Field, Strict

from monoscope.core.config import Config

Span = Annotated[int, Strict(), Ge(0)] | Annotated[float, Interval(ge=0, le=1)]
"""A stretch of a run: an integer counts tokens, a fraction is a share of the run."""


def span_steps(span: Span, total_tokens: int, tokens_per_step: int) -> int:
    """Steps that a span covers, rounded up."""
    tokens = span if isinstance(span, int) else span * total_tokens
    return math.ceil(tokens / tokens_per_step - 1e-9)  # 0.07 of 100 steps is 7 steps, whatever the floats say


class Schedule(Config, family="schedule"):
    """How one setting of a run moves; ``factor`` is what multiplies its configured value."""

    def factor(self, step: int, total_steps: int, tokens_per_step: int) -> float:
        """Multiplier at a step of a run."""
        raise NotImplementedError

    def _steps(self, span: Span, total_steps: int, tokens_per_step: int) -> int:
        return span_steps(span, total_steps * tokens_per_step, tokens_per_step)


class Trapezoid(Schedule):
    """Rises linearly over ``warmup``, stays, falls linearly over ``decay`` to ``floor``.

    factor(t) = min(1, (t + 1) / w, floor + (1 - floor) (T - t) / c)
    """

    kind: Literal["trapezoid"] = "trapezoid"
    warmup: Span = 0.02
    decay: Span = 0.2
    floor: float = Field(default=0.0, ge=0, le=1)

    def factor(self, step: int, total_steps: int, tokens_per_step: int) -> float:
        """Multiplier at a step of a run."""
        warmup = self._steps(self.warmup, total_steps, tokens_per_step)
        decay = self._steps(self.decay, total_steps, tokens_per_step)
        up = (step + 1) / warmup if warmup else 1.0
        down = self.floor + (1 - self.floor) * max(total_steps - step, 1) / decay if decay else 1.0
        return min(1.0, up, down)


class Anneal(Schedule):
    """Moves from ``start`` times the value to the value itself over ``over``, straight or exponentially.

    factor(t) = start + (1 - start) p,    p = u or (1 - e^(-a u)) / (1 - e^(-a)),    u = min(1, t / over)
    """

    kind: Literal["anneal"] = "anneal"
    start: float = Field(ge=0)
    over: Span
    rate: float = Field(default=0.0, ge=0, le=100, description="a of the exponential form; 0 is the straight one")

    def factor(self, step: int, total_steps: int, tokens_per_step: int) -> float:
        """Multiplier at a step of a run."""
        over = self._steps(self.over, total_steps, tokens_per_step)
        u = min(1.0, step / over) if over else 1.0
        p = math.expm1(-self.rate * u) / math.expm1(-self.rate) if self.rate else u
        return self.start + (1 - self.start) * p
