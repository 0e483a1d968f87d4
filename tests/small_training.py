"""A training small enough to be run many times, and what tells two of its results apart."""

from __future__ import annotations

from typing import Any

import torch

from monoscope.dictionaries import Dictionary

D, F = 16, 48
RECIPE: dict[str, Any] = {"wiring": {"kind": "autoencoder", "n_features": F}, "function": {"kind": "topk", "k": 4}}
FAST: dict[str, Any] = {"tokens": 6400, "batch_tokens": 128, "log_every": 5, "seed": 0}


def activations(n: int = 2000, d: int = D) -> torch.Tensor:
    """Sparse combinations of more directions than dimensions, far from the origin and from unit scale."""
    generator = torch.Generator().manual_seed(7)
    directions = torch.randn(24, d, generator=generator)
    codes = torch.rand(n, 24, generator=generator) * (torch.rand(n, 24, generator=generator) < 0.1)
    return 30 * (codes @ directions) + 5


def weights(dictionary: Dictionary) -> dict[str, torch.Tensor]:
    """All tensors of a dictionary."""
    return {name: tensor.clone() for name, tensor in dictionary.state_dict().items()}


def assert_same(one: Dictionary, other: Dictionary) -> None:
    """Bit-identical weights."""
    for name, tensor in weights(one).items():
        assert torch.equal(tensor, weights(other)[name]), name
