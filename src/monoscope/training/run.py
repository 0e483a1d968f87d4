"""Run: one dictionary in training, with everything that moves along with it."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from monoscope.core.batch import ActivationBatch
from monoscope.core.errors import ConfigError, DataError, nearest
from monoscope.core.site import Site
from monoscope.dictionaries.base import Dictionary, Step
from monoscope.dictionaries.normalize import Scale
from monoscope.dictionaries.objective import total_variance
from monoscope.dictionaries.recipe import Recipe
from monoscope.training.health import Health
from monoscope.training.settings import Training


class Run:
    """A dictionary, its terms, optimizer, schedules, health, and the scale of its activations."""

    def __init__(
        self, name: str, recipe: Recipe, settings: Training, dictionary: Dictionary, scales: dict[Site, Scale]
    ) -> None:
        self.name, self.recipe, self.settings, self.scales = name, recipe, settings, scales
        self.dictionary = dictionary.train()
        self.dictionary.encode_dtype = torch.bfloat16 if settings.encode_dtype == "bf16" else None
        self.optimizer = settings.optimizer.build(dictionary.parameters())
        self.health = Health(dictionary.n_features, settings.dead_after_tokens)
        self.weights = {name: term.weight for name, term in recipe.terms.items()}
        self._check_schedules()

    def _check_schedules(self) -> None:
        for name in self.settings.schedules:
            if name == "function.k" and "k" not in type(self.recipe.function).model_fields:
                kind = self.recipe.function.to_dict()["kind"]
                raise ConfigError(f"schedules hold 'function.k', and the function {kind!r} has no k")
            if name.startswith("terms.") and (term := name.split(".")[1]) not in self.weights:
                raise ConfigError(
                    f"schedules hold {name!r}, and the recipe no such term; {nearest(term, self.weights)}"
                )

    def apply_schedules(self, step: int) -> None:
        """Set the learning rate, k and weights of a step."""
        settings = self.settings
        for name, schedule in settings.schedules.items():
            factor = schedule.factor(step, settings.steps, settings.batch_tokens)
            if name == "optimizer.lr":
                for group in self.optimizer.param_groups:
                    group["lr"] = settings.optimizer.lr * factor
            elif name == "function.k":
                full = self.recipe.function.to_dict()["k"]
                moved = min(full * factor, self.dictionary.n_features)
                setattr(self.dictionary.activation, "k", round(moved) if isinstance(full, int) else moved)  # noqa: B010
            else:
                term = name.split(".")[1]
                self.weights[term] = self.recipe.terms[term].weight * factor

    def forward(self, batch: ActivationBatch) -> Step:
        """One pass over a batch, in scaled activations, with the features that are dead after it."""
        x, target = self.dictionary.gather(batch)
        s_in, s_out = self.scale_in, self.scale_out
        step = self.dictionary(x * s_in, x * s_in if target is x else target * s_out)
        self.health.update(step.acts)
        return dataclasses.replace(step, is_dead=self.health.is_dead)

    def terms(self, step: Step) -> dict[str, Tensor]:
        """The weighted terms of the loss, by name."""
        return {
            name: self.weights[name] * term.value(step)
            for name, term in self.recipe.terms.items()
            if self.weights[name]
        }

    def update(self) -> None:
        """Clip, project, step, and return the weights to their constraint."""
        if self.settings.clip:
            torch.nn.utils.clip_grad_norm_(self.dictionary.parameters(), self.settings.clip)
        self.dictionary.project_gradients_()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.dictionary.project_()

    @property
    def scale_in(self) -> float:
        """What activations read are multiplied by."""
        return self.scales[self.dictionary.reads[0]].value

    @property
    def scale_out(self) -> float:
        """What targets are multiplied by."""
        return self.scales[self.dictionary.writes[0]].value

    @torch.no_grad()
    def metrics(self, step: Step, terms: dict[str, Tensor]) -> dict[str, Any]:
        """What the log says of a step. Raises DataError when the loss is not finite."""
        values = {name: value.item() for name, value in terms.items()}
        loss = sum(values.values())
        if not all(torch.isfinite(torch.tensor(value)) for value in values.values()):
            raise DataError(f"the loss of {self.name or 'the run'} is not finite ({values}); lower the learning rate")
        return {
            "loss": loss,
            **{f"loss/{name}": value for name, value in values.items()},
            "fvu": (step.error.pow(2).sum() / total_variance(step.target)).item(),
            "l0": step.acts.l0().float().mean().item(),
            "dead": self.health.dead_share,
            "lr": self.optimizer.param_groups[0]["lr"],
        }

    def finished(self) -> Dictionary:
        """The dictionary for use: frozen, raw units in and out."""
        done = self.dictionary.frozen()
        done.fold_(self.scale_in, self.scale_out)
        return done

    def state_dict(self) -> dict[str, Any]:
        """Everything that training changes."""
        return {
            "dictionary": self.dictionary.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "age": self.health.age,
            "scales": {str(site): [scale.value, scale.relative_error] for site, scale in self.scales.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what ``state_dict`` gave."""
        self.dictionary.load_state_dict(state["dictionary"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.health.age.copy_(state["age"])
        self.scales = {Site.parse(name): Scale(*pair) for name, pair in state["scales"].items()}
