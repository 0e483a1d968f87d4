"""overcomplete, by its own ``train_sae``, with the encoder its defaults give it and the optimizer of its manual.

Its vision models are not imported: they need a torchvision that fits, and the one it pulls in is built for CUDA.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from types import ModuleType

import torch
from torch import Tensor
from worker import Job

spec = importlib.util.find_spec("overcomplete")
package = ModuleType("overcomplete")
package.__path__ = list(spec.submodule_search_locations)
sys.modules["overcomplete"] = package

from overcomplete.sae import TopKSAE, train_sae  # noqa: E402


def criterion(x: Tensor, x_hat: Tensor, pre_codes: Tensor, codes: Tensor, dictionary: Tensor) -> Tensor:
    """Mean squared error: the library asks its user for a loss."""
    return (x - x_hat).square().mean()


def train(job: Job, first: Tensor, batches: Iterator[Tensor]) -> TopKSAE:
    """A dictionary, trained."""
    sae = TopKSAE(job.d, nb_concepts=job.features, top_k=job.k)
    optimizer = torch.optim.Adam(sae.parameters(), lr=5e-4)
    train_sae(sae, batches, criterion, optimizer, nb_epochs=1)
    return sae.eval()


def encode(sae: TopKSAE, x: Tensor) -> object:
    """Feature activations, by the library."""
    return sae.encode(x)


def reconstruct(sae: TopKSAE, x: Tensor) -> tuple[Tensor, Tensor]:
    """Reconstruction and dense feature activations."""
    codes = sae.encode(x)[1]
    return sae.decode(codes), codes
