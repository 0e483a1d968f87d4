"""Which entries of the pre-activations survive, as data: what an activation function tells the encoder.

Scores are ``pre * norm``, or ``pre`` without a norm. Only positive pre-activations survive, except under a signed rule,
which ranks magnitudes and keeps signs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, slots=True)
class TopKPerToken:
    """The k largest scores of each token."""

    is_signed: ClassVar[bool] = False
    k: int


@dataclass(frozen=True, slots=True)
class AbsTopKPerToken:
    """The k scores of largest magnitude of each token, with their signs."""

    is_signed: ClassVar[bool] = True
    k: int


@dataclass(frozen=True, slots=True)
class LargestPerGroup:
    """The largest score of each of ``n_groups`` runs of consecutive features, equally long."""

    is_signed: ClassVar[bool] = False
    n_groups: int


@dataclass(frozen=True, slots=True)
class TopKPerBatch:
    """The ``round(k N)`` largest scores of a batch of N tokens."""

    is_signed: ClassVar[bool] = False
    k: float


@dataclass(frozen=True, slots=True)
class AboveThreshold:
    """Scores strictly above a feature's threshold."""

    is_signed: ClassVar[bool] = False
    threshold: Float[Tensor, " F"]


PerToken = TopKPerToken | AbsTopKPerToken | LargestPerGroup
"""Rules that choose a fixed number of features for each token, whatever the others do."""


@dataclass(frozen=True, slots=True)
class EachLayer:
    """A rule for each of several layers, whose features follow each other in equal numbers."""

    rules: tuple[PerToken | TopKPerBatch | AboveThreshold, ...]

    @property
    def is_signed(self) -> bool:
        """Whether the rules keep signs."""
        return self.rules[0].is_signed


Selection = PerToken | TopKPerBatch | AboveThreshold | EachLayer
