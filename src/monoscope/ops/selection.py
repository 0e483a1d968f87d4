"""Which entries of the pre-activations survive, as data: what an activation function tells the encoder.

Scores are ``pre * norm``, or ``pre`` without a norm. Only positive pre-activations survive any of these rules.
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, slots=True)
class TopKPerToken:
    """The k largest scores of each token."""

    k: int


@dataclass(frozen=True, slots=True)
class TopKPerBatch:
    """The ``round(k N)`` largest scores of a batch of N tokens."""

    k: float


@dataclass(frozen=True, slots=True)
class AboveThreshold:
    """Scores strictly above a feature's threshold."""

    threshold: Float[Tensor, " F"]


Selection = TopKPerToken | TopKPerBatch | AboveThreshold
