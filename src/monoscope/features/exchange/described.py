"""A feature as other tools describe it: what their files have in common, in their order of importance."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float64

from monoscope.core.errors import DataError


@dataclass(frozen=True, slots=True)
class Example:
    """A token window and the feature's activation at each of its tokens."""

    tokens: tuple[str, ...]
    acts: Float64[np.ndarray, " window"]
    is_top: bool = False

    @property
    def max_act(self) -> float:
        """Largest activation by magnitude, with its sign."""
        return float(self.acts[self.max_pos]) if len(self.acts) else 0.0

    @property
    def max_pos(self) -> int:
        """Where that is."""
        return int(np.abs(self.acts).argmax()) if len(self.acts) else 0


@dataclass(frozen=True, slots=True)
class Bars:
    """A histogram: counts in bins between edges."""

    edges: Float64[np.ndarray, " edges"]
    counts: Float64[np.ndarray, " bins"]

    @staticmethod
    def around(centers: list[float], heights: list[float]) -> Bars | None:
        """The histogram of equally wide bars, given by their middles; None for none."""
        if len(centers) != len(heights):
            raise DataError(f"a histogram has {len(centers)} places and {len(heights)} heights")
        if not centers:
            return None
        width = centers[1] - centers[0] if len(centers) > 1 else 1.0
        edges = np.append(np.array(centers) - width / 2, centers[-1] + width / 2)
        return Bars(edges, np.array(heights, np.float64))


@dataclass(frozen=True, slots=True)
class Said:
    """An explanation: its text, by which method and model, and how it scored."""

    text: str
    method: str = ""
    model: str = ""
    scores: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Described:
    """All that a file says of one feature; what it does not say is None or empty."""

    index: int
    density: float | None = None
    max_act: float | None = None
    promoted: tuple[tuple[str, float], ...] = ()
    suppressed: tuple[tuple[str, float], ...] = ()
    acts: Bars | None = None
    logits: Bars | None = None
    examples: tuple[Example, ...] = ()
    explanations: tuple[Said, ...] = field(default=())


def example(tokens: list[Any], values: list[Any], *, is_top: bool = False) -> Example:
    """A checked example. Raises DataError where tokens and values do not pair, or a value is not a finite number."""
    if len(tokens) != len(values):
        raise DataError(f"an example has {len(tokens)} tokens and {len(values)} values")
    if not all(isinstance(token, str) for token in tokens):
        raise DataError("an example has a token that is no text")
    acts = np.array([0.0 if value is None else value for value in values], np.float64)
    if not np.isfinite(acts).all():
        raise DataError("an example has a value that is not finite")
    return Example(tuple(tokens), acts, is_top)
