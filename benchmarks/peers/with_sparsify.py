"""eai-sparsify, whose trainer takes a language model and text, and no stored activations.

Here the statements of its ``Trainer.fit`` for one step are replayed around its own coder and optimizers, with its
defaults: ``loss_fn`` "fvu", no loss for dead features. Variant ``adam``: its other optimizer, without warm-up, in place
of its schedule-free signed momentum.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from schedulefree import ScheduleFreeWrapper
from sparsify.config import SparseCoderConfig, TrainConfig
from sparsify.sign_sgd import SignSGD
from sparsify.sparse_coder import SparseCoder
from torch import Tensor
from worker import Job


def optimizer_of(coder: SparseCoder, variant: str) -> torch.optim.Optimizer | ScheduleFreeWrapper:
    """As its trainer builds them, with the rates it chooses."""
    shrink = (coder.num_latents / 2**14) ** 0.5
    if variant == "adam":
        return torch.optim.Adam(coder.parameters(), lr=2e-4 / shrink)
    optimizer = ScheduleFreeWrapper(SignSGD(coder.parameters(), lr=5e-3 / shrink), momentum=0.95)
    optimizer.train()
    return optimizer


def train(job: Job, first: Tensor, batches: Iterator[Tensor]) -> SparseCoder:
    """A coder, trained."""
    config = TrainConfig(SparseCoderConfig(num_latents=job.features, k=job.k))
    coder = SparseCoder(job.d, config.sae, "cpu", dtype=torch.float32)
    optimizer = optimizer_of(coder, job.variant)
    since_fired = torch.zeros(coder.num_latents, dtype=torch.long)
    did_fire = torch.zeros(coder.num_latents, dtype=torch.bool)
    for step, outputs in enumerate(batches):
        if step == 0:
            coder.b_dec.data = outputs.mean(0)
        coder.set_decoder_norm_to_unit_norm()
        total_variance = (outputs - outputs.mean(0)).pow(2).sum()
        out = coder(x=outputs, y=outputs, dead_mask=None, total_variance=total_variance)
        did_fire[out.latent_indices.flatten()] = True
        float(out.fvu.detach())
        (out.fvu + config.auxk_alpha * out.auxk_loss + out.multi_topk_fvu / 8).backward()
        coder.remove_gradient_parallel_to_decoder_directions()
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            since_fired += len(outputs)
            since_fired[did_fire] = 0
            did_fire.zero_()
    if isinstance(optimizer, ScheduleFreeWrapper):
        optimizer.eval()
    coder.set_decoder_norm_to_unit_norm()
    return coder


def encode(coder: SparseCoder, x: Tensor) -> object:
    """Feature activations, by the library."""
    return coder.encode(x)


def reconstruct(coder: SparseCoder, x: Tensor) -> tuple[Tensor, Tensor]:
    """Reconstruction and dense feature activations."""
    values, indices, _ = coder.encode(x)
    return coder.decode(values, indices), x.new_zeros(len(x), coder.num_latents).scatter_(1, indices, values)
