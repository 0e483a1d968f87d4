"""SAELens, by its own ``SAETrainer.fit``, with its defaults; what is left out there, as its training script has it."""

from __future__ import annotations

from collections.abc import Iterator

from sae_lens import TopKTrainingSAE, TopKTrainingSAEConfig
from sae_lens.config import LoggingConfig, SAETrainerConfig
from sae_lens.training.sae_trainer import SAETrainer
from torch import Tensor
from worker import Job


def train(job: Job, first: Tensor, batches: Iterator[Tensor]) -> TopKTrainingSAE:
    """A dictionary, trained."""
    sae = TopKTrainingSAE(TopKTrainingSAEConfig(d_in=job.d, d_sae=job.features, k=job.k))
    config = SAETrainerConfig(
        total_training_samples=job.steps * job.batch,
        train_batch_size_samples=job.batch,
        lr_end=3e-5,
        logger=LoggingConfig(log_to_wandb=False),
    )
    return SAETrainer(config, sae, batches).fit()


def encode(sae: TopKTrainingSAE, x: Tensor) -> object:
    """Feature activations, by the library."""
    return sae.encode(x)


def reconstruct(sae: TopKTrainingSAE, x: Tensor) -> tuple[Tensor, Tensor]:
    """Reconstruction and dense feature activations."""
    acts = sae.encode(x)
    return sae.decode(acts), acts
