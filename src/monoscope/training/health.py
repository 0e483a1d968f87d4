"""Which features are dead: those that have not fired for ``dead_after`` tokens."""

from __future__ import annotations

from collections import deque

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from monoscope import ops
from monoscope.core.acts import Acts

LAG = 2  # steps


class Health:
    """Tokens since each feature last fired, ``age [F]``."""

    age: Int[Tensor, " F"]

    def __init__(self, n_features: int, dead_after: int, device: torch.device | str = "cpu") -> None:
        self.age = torch.zeros(n_features, dtype=torch.int64, device=device)
        self.dead_after = dead_after
        self._counts: deque[tuple[Tensor, torch.cuda.Event]] = deque(maxlen=LAG + 1)

    @torch.no_grad()
    def update(self, acts: Acts, n_tokens: int) -> None:
        """Count a batch of tokens, those of all processes. Firing anywhere in it is firing now."""
        self.count(ops.fired_anywhere(acts.fired()), n_tokens)

    @torch.no_grad()
    def count(self, fired: Bool[Tensor, " F"], n_tokens: int) -> None:
        """Count a number of tokens, on one of which at least the features ``fired`` did."""
        self.age += n_tokens
        self.age.masked_fill_(fired.to(self.age.device), 0)
        if self.age.is_cuda:
            arrived, arrival = torch.empty((), dtype=torch.int64, pin_memory=True), torch.cuda.Event()
            arrived.copy_((self.age >= self.dead_after - LAG * n_tokens).sum(), non_blocking=True)
            arrival.record(torch.cuda.current_stream(self.age.device))
            self._counts.append((arrived, arrival))

    def grow(self, n_features: int) -> None:
        """Follow a dictionary that has gained features."""
        self.age = torch.cat([self.age, self.age.new_zeros(n_features)])[:n_features]

    @property
    def is_dead(self) -> Bool[Tensor, " F"]:
        """Features that have not fired for ``dead_after`` tokens."""
        return self.age >= self.dead_after

    @property
    def most_dead(self) -> int | None:
        """No fewer than are dead; None where to count them waits for nothing, on the CPU.

        On a GPU it is the number that could be dead by now as of ``LAG`` steps ago. It has arrived since, and the GPU
        has the steps after it to work on, so that nobody waits.
        """
        if self.age.device.type == "cpu":
            return None
        if len(self._counts) <= LAG:
            return int(self.is_dead.sum())
        count, arrival = self._counts[0]
        arrival.synchronize()
        return int(count)

    @property
    def dead_share(self) -> float:
        """Share of features that are dead."""
        return self.is_dead.float().mean().item()
