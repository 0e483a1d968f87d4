"""How good a dictionary is, by one piece of code for every library.

    fvu = sum |x - recon|^2 / sum |x - mean(x)|^2      over all held-out tokens, in the units of the language model

A feature is dead if it is active on none of them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

Reconstruct = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Of activations [n, d]: the reconstruction [n, d], and feature activations [n, F]."""


@torch.no_grad()
def score(reconstruct: Reconstruct, held_out: Path, batch: int) -> dict[str, float]:
    """FVU, share of dead features, and mean number of active features per token."""
    x = torch.from_numpy(np.load(held_out))
    left = total = active = 0.0
    fired: Tensor | None = None
    for part in x.split(batch):
        recon, acts = reconstruct(part)
        left += float((part.double() - recon.double()).pow(2).sum())
        total += float((part.double() - x.double().mean(0)).pow(2).sum())
        on = acts != 0
        active += float(on.sum())
        fired = on.any(0) if fired is None else fired | on.any(0)
    assert fired is not None
    return {"fvu": left / total, "dead": 1 - float(fired.float().mean()), "l0": active / len(x)}
