"""llamascopium, by its own initializer and ``Trainer.fit``, with its defaults (bf16 autocast, activations scaled by the
dataset's mean norm), but for what its defaults set for hundreds of millions of tokens: no warm-up, no L1 with TopK, one
value of k, no checkpoints.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator

import torch
from llamascopium.initializer import Initializer, InitializerConfig
from llamascopium.models.sae import SAEConfig, SparseAutoEncoder
from llamascopium.trainer import Trainer, TrainerConfig
from torch import Tensor
from worker import Job

SITE = "blocks.3.hook_resid_post"


def as_batch(x: Tensor) -> dict[str, Tensor]:
    """A batch as its activation streams yield them."""
    return {SITE: x, "tokens": torch.zeros(len(x), dtype=torch.long), "mask": torch.ones(len(x), dtype=torch.bool)}


class Stream:
    """The batches; the trainer and the initializer look at the first one before they start."""

    def __init__(self, first: Tensor, batches: Iterator[Tensor]) -> None:
        self.first, self.batches, self.looks = first, batches, 2

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        if self.looks:
            self.looks -= 1
            return iter([as_batch(self.first)])
        return map(as_batch, self.batches)


def train(job: Job, first: Tensor, batches: Iterator[Tensor]) -> SparseAutoEncoder:
    """A dictionary, trained."""
    config = SAEConfig(
        hook_point_in=SITE,
        hook_point_out=SITE,
        d_model=job.d,
        expansion_factor=job.features / job.d,
        act_fn="topk",
        top_k=job.k,
        device="cpu",
        dtype=torch.float32,
    )
    with tempfile.TemporaryDirectory() as scratch:
        trainer = Trainer(
            TrainerConfig(
                total_training_tokens=job.steps * job.batch,
                l1_coefficient=None,
                k_warmup_steps=0,
                lr_warm_up_steps=1,
                n_checkpoints=0,
                exp_result_path=scratch,
            )
        )
        stream = Stream(first, batches)
        norm = {SITE: float(first.norm(dim=-1).mean())}
        initial = Initializer(InitializerConfig(grid_search_init_norm=True))
        sae = initial.initialize_sae_from_config(config, activation_stream=stream, activation_norm=norm)
        trainer.fit(sae, stream)
    sae.standardize_parameters_of_dataset_norm()
    return sae


def encode(sae: SparseAutoEncoder, x: Tensor) -> object:
    """Feature activations, by the library."""
    return sae.encode(x)


def reconstruct(sae: SparseAutoEncoder, x: Tensor) -> tuple[Tensor, Tensor]:
    """Reconstruction and dense feature activations."""
    acts = sae.encode(x)
    return sae.decode(acts), acts
