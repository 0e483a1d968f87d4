"""Run: one dictionary in training, with everything that moves along with it."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from monoscope.core.batch import ActivationBatch
from monoscope.core.site import Site
from monoscope.dictionaries.base import Dictionary
from monoscope.dictionaries.normalize import Scale
from monoscope.dictionaries.recipe import Recipe
from monoscope.dictionaries.step import Step
from monoscope.training.health import Health
from monoscope.training.settings import Training


class Run(ABC):
    """A dictionary that learns from a stream of batches, and the scales of its activations."""

    def __init__(
        self, name: str, recipe: Recipe, settings: Training, dictionary: Dictionary, scales: Mapping[Site, Scale]
    ) -> None:
        self.name, self.recipe, self.settings, self.scales = name, recipe, settings, dict(scales)
        self.dictionary = dictionary.train()
        self.dictionary.encode_dtype = torch.bfloat16 if settings.encode_dtype == "bf16" else None
        self.health = Health(dictionary.n_features, settings.dead_after_tokens)

    @abstractmethod
    def advance(self, batch: ActivationBatch, number: int) -> None:
        """Learn from the batch of a step, counting from 0."""

    @abstractmethod
    def metrics(self) -> dict[str, Any]:
        """What the log says of the last step. Raises DataError when its loss is not finite."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Everything that training changes."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what ``state_dict`` gave."""

    @property
    def scale_in(self) -> Float[Tensor, " reads"]:
        """What activations read are multiplied by."""
        return torch.tensor([self.scales[site].value for site in self.dictionary.reads])

    @property
    def scale_out(self) -> Float[Tensor, " writes"]:
        """What targets are multiplied by."""
        return torch.tensor([self.scales[site].value for site in self.dictionary.writes])

    def forward(self, batch: ActivationBatch) -> Step:
        """One pass over a batch, in scaled activations, with the features that are dead after it."""
        x, target = self.dictionary.gather(batch)
        scaled = scaled_by(x, self.scale_in)
        step = self.dictionary(scaled, scaled if target is x else scaled_by(target, self.scale_out), batch.mask)
        self.health.update(step.acts, step.n_tokens)
        return dataclasses.replace(step, is_dead=self.health.is_dead)

    def finished(self) -> Dictionary:
        """The dictionary for use: frozen, raw units in and out."""
        done = self.dictionary.frozen()
        done.fold_(self.scale_in, self.scale_out)
        return done


def scaled_by(x: Float[Tensor, "*batch d"], scale: Float[Tensor, " site"]) -> Float[Tensor, "*batch d"]:
    """Activations times the scale of their site."""
    return x * (scale if len(scale) == 1 else scale[:, None]).to(x.device)
