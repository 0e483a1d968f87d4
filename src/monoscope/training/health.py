"""Which features are dead: those that have not fired for ``dead_after`` tokens."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from monoscope.core.acts import Acts


class Health:
    """Tokens since each feature last fired, ``age [F]``."""

    age: Int[Tensor, " F"]

    def __init__(self, n_features: int, dead_after: int) -> None:
        self.age = torch.zeros(n_features, dtype=torch.int64)
        self.dead_after = dead_after

    @torch.no_grad()
    def update(self, acts: Acts, n_tokens: int) -> None:
        """Count a batch. Firing anywhere in it is firing now."""
        self.count(acts.fired(), n_tokens)

    @torch.no_grad()
    def count(self, fired: Bool[Tensor, " F"], n_tokens: int) -> None:
        """Count a number of tokens, on one of which at least the features ``fired`` did."""
        self.age += n_tokens
        self.age[fired.to(self.age.device)] = 0

    def grow(self, n_features: int) -> None:
        """Follow a dictionary that has gained features."""
        self.age = torch.cat([self.age, self.age.new_zeros(n_features)])[:n_features]

    @property
    def is_dead(self) -> Bool[Tensor, " F"]:
        """Features that have not fired for ``dead_after`` tokens."""
        return self.age >= self.dead_after

    @property
    def dead_share(self) -> float:
        """Share of features that are dead."""
        return self.is_dead.float().mean().item()
