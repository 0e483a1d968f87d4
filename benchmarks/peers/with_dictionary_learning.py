"""dictionary-learning, by its own ``trainSAE``, whose ``TopKTrainer`` chooses the learning rate.

There is no warm-up, since its default of 1,000 steps outlasts the job.
"""

from __future__ import annotations

from collections.abc import Iterator

from dictionary_learning.trainers.top_k import AutoEncoderTopK, TopKTrainer
from dictionary_learning.training import trainSAE
from torch import Tensor
from worker import Job


def train(job: Job, first: Tensor, batches: Iterator[Tensor]) -> AutoEncoderTopK:
    """A dictionary, trained."""
    kept: list[TopKTrainer] = []

    def trainer(**settings: object) -> TopKTrainer:
        kept.append(TopKTrainer(**settings))
        return kept[0]

    config = {
        "trainer": trainer,
        "steps": job.steps,
        "activation_dim": job.d,
        "dict_size": job.features,
        "k": job.k,
        "layer": 0,
        "lm_name": "",
        "warmup_steps": 0,
        "seed": job.seed,
        "device": "cpu",
    }
    trainSAE(batches, [config], steps=job.steps, device="cpu")
    return kept[0].ae


def encode(dictionary: AutoEncoderTopK, x: Tensor) -> object:
    """Feature activations, by the library."""
    return dictionary.encode(x)


def reconstruct(dictionary: AutoEncoderTopK, x: Tensor) -> tuple[Tensor, Tensor]:
    """Reconstruction and dense feature activations."""
    return dictionary(x, output_features=True)
