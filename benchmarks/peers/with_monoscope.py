"""monoscope, by its own ``train`` with its defaults, and everything on: clipping, dead features, log, checkpoints.

Afterwards it encodes as it did in training, in the precision that selects features fastest (``encode_dtype``). With
``MONOSCOPE_NATIVE=0`` it is pure PyTorch; without, that there are no compiled kernels is an error. Variant ``long``:
the first steps of a long run, in which no feature is silent for long enough to be dead yet.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor
from worker import Job

from monoscope import ops
from monoscope.core.batch import ActivationBatch
from monoscope.core.site import Site
from monoscope.dictionaries import Dictionary
from monoscope.harvest import ActivationSource
from monoscope.ops import native
from monoscope.training import Training
from monoscope.training import train as train_dictionary
from monoscope.training.settings import MOST_DEAD_AFTER

SITE = Site(3, "resid_post")


class Stream(ActivationSource):
    """The batches; before training starts, ``train`` looks at the first ones, which are not counted."""

    sites = (SITE,)

    def __init__(self, job: Job, first: Tensor, batches: Iterator[Tensor]) -> None:
        self.first, self.batches = first, batches
        self.widths: Mapping[Site, int] = {SITE: job.d}
        self.n_tokens = job.steps * job.batch
        self.looks = True

    @property
    def info(self) -> dict[str, Any]:
        """Provenance."""
        return {"kind": "bench"}

    def __iter__(self) -> Iterator[ActivationBatch]:
        while self.looks:
            yield ActivationBatch({SITE: self.first})
        for x in self.batches:
            yield ActivationBatch({SITE: x})

    def state_dict(self) -> dict[str, Any]:
        """A stream has no position."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The look is over."""
        self.looks = False


def train(job: Job, first: Tensor, batches: Iterator[Tensor]) -> Dictionary:
    """A dictionary, trained."""
    is_compiled = native.kernels() is not None
    assert is_compiled or os.environ.get("MONOSCOPE_NATIVE") == "0", "there are no compiled kernels here"
    recipe = {
        "wiring": {"kind": "autoencoder", "n_features": job.features},
        "function": {"kind": "topk", "k": job.k},
    }
    training = Training(
        tokens=job.steps * job.batch,
        batch_tokens=job.batch,
        seed=job.seed,
        dead_after=MOST_DEAD_AFTER if job.variant == "long" else None,
    )
    with tempfile.TemporaryDirectory() as scratch:
        source = Stream(job, first, batches)
        dictionary = train_dictionary(recipe, source, training=training, out=f"{scratch}/dictionary")
    dictionary.encode_dtype = ops.fastest_dtype(first.device)
    return dictionary


def encode(dictionary: Dictionary, x: Tensor) -> object:
    """Feature activations, by the library."""
    return dictionary.encode(x)


def reconstruct(dictionary: Dictionary, x: Tensor) -> tuple[Tensor, Tensor]:
    """Reconstruction and dense feature activations."""
    acts = dictionary.encode(x)
    return dictionary.decode(acts, x), acts.dense()
