"""Descent: a dictionary trained by gradient descent on the terms of its recipe."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from monoscope import ops
from monoscope.core.batch import ActivationBatch
from monoscope.core.errors import ConfigError, NotFinite, nearest
from monoscope.core.site import Site
from monoscope.dictionaries.base import Dictionary
from monoscope.dictionaries.normalize import Scale
from monoscope.dictionaries.objective import total_variance
from monoscope.dictionaries.recipe import Recipe
from monoscope.dictionaries.step import Step
from monoscope.models import LanguageModel
from monoscope.parallel.shard import Placed
from monoscope.training.downstream import SplicedModel
from monoscope.training.optim import AdamMover, gradient_norm
from monoscope.training.run import Run
from monoscope.training.settings import Training


class Descent(Run):
    """A dictionary, its terms, optimizer, schedules, health, and the scales of its activations.

    lm: the model behind the write site, for recipes with a term that asks it
    """

    def __init__(
        self,
        name: str,
        recipe: Recipe,
        settings: Training,
        dictionary: Dictionary,
        scales: Mapping[Site, Scale],
        lm: LanguageModel | None = None,
        placed: Placed | None = None,
    ) -> None:
        super().__init__(name, recipe, settings, dictionary, scales, placed)
        unit_rows = [dictionary.get_parameter(name) for name in dictionary.unit_rows]
        self.optimizer = settings.optimizer.build(self._groups(), unit_rows)
        is_adam, weight = isinstance(self.optimizer, AdamMover), next(self.dictionary.parameters())
        self.reads_late = is_adam and ops.moves_only_finite(weight.detach())
        self.weights = {name: term.weight for name, term in recipe.terms.items()}
        self.step: Step | None = None
        self.lm = lm if any(term.needs_model for term in recipe.terms.values()) else None
        self._check_schedules()

    def _groups(self) -> list[dict[str, Any]]:
        """Parameters by the rate at which they learn, those of rate 1 first."""
        by_rate: dict[float, list[nn.Parameter]] = {1.0: []}
        rates = dict(self.dictionary.rates)
        if self.settings.optimizer.leaves_rates:
            rates |= self.dictionary.default_rates
        for name, parameter in self.dictionary.named_parameters():
            by_rate.setdefault(rates.get(name, 1.0), []).append(parameter)
        lr = self.settings.lr
        return [{"params": parameters, "rate": rate, "lr": lr * rate} for rate, parameters in by_rate.items()]

    def _check_schedules(self) -> None:
        for name in self.settings.schedules:
            if name == "function.k" and "k" not in type(self.recipe.function).model_fields:
                kind = self.recipe.function.to_dict()["kind"]
                raise ConfigError(f"schedules hold 'function.k', and the function {kind!r} has no k")
            if name == "function.k" and not self.recipe.function.k_may_move:
                kind = self.recipe.function.to_dict()["kind"]
                raise ConfigError(f"schedules hold 'function.k', and k of {kind!r} says how features are grouped")
            if name.startswith("terms.") and (term := name.split(".")[1]) not in self.weights:
                raise ConfigError(
                    f"schedules hold {name!r}, and the recipe no such term; {nearest(term, self.weights)}"
                )

    def advance(self, batch: ActivationBatch, number: int) -> None:
        """Move the weights down the gradient of the loss on a batch. Raises NotFinite where there is none to follow."""
        self.apply_schedules(number)
        self.step = None  # its activations are not needed beside the next ones
        step = self.forward(batch)
        self.loss = self.terms(step)
        total = torch.stack(list(self.loss.values())).sum()
        if self.reads_late:
            self.is_finite = torch.isfinite(total.detach())
        elif not torch.isfinite(total):
            terms = ", ".join(f"{name} {value.item():g}" for name, value in self.loss.items())
            raise NotFinite(f"the loss is NaN or infinite ({terms}); lower the learning rate")
        with ops.adding_rows(self.dictionary.parameters()):
            total.backward()
        self.step = step
        self.update()

    def apply_schedules(self, number: int) -> None:
        """Set the learning rate, k and weights of a step."""
        settings = self.settings
        for name, schedule in settings.schedules.items():
            factor = schedule.factor(number, settings.steps, settings.batch_tokens)
            if name == "optimizer.lr":
                for group in self.optimizer.param_groups:
                    group["lr"] = settings.lr * factor * group["rate"]
            elif name == "function.k":
                full = self.recipe.function.to_dict()["k"]
                moved = min(full * factor, self.n_features)
                setattr(self.dictionary.activation, "k", round(moved) if isinstance(full, int) else moved)  # noqa: B010
            else:
                term = name.split(".")[1]
                self.weights[term] = self.recipe.terms[term].weight * factor

    def forward(self, batch: ActivationBatch) -> Step:
        """One pass over a batch, in scaled activations."""
        step = super().forward(batch)
        if self.lm is None:
            return step
        return dataclasses.replace(step, downstream=SplicedModel(self.lm, batch, self.dictionary, self.scale_out))

    def terms(self, step: Step) -> dict[str, Tensor]:
        """The weighted terms of the loss, by name."""
        return {
            name: self.weights[name] * term.value(step)
            for name, term in self.recipe.terms.items()
            if self.weights[name]
        }

    def update(self) -> None:
        """Clip and step; weights and the function's parameters stay within their constraints.

        Where ``reads_late`` the scale is NaN if loss or gradient are not finite, and the optimizer moves nothing.
        """
        clip, scale = self.settings.clip, None
        if self.placed is not None:
            self.placed.reduce_gradients_(self.dictionary)
        if clip or self.reads_late:
            norm = self.gradient_norm()
            if self.reads_late:
                self.is_finite = self.is_finite & torch.isfinite(norm)
            elif not torch.isfinite(norm):
                self.optimizer.zero_grad()
                raise NotFinite("the gradient is NaN or infinite; lower the learning rate")
            scale = (clip / (norm + 1e-6)).clamp_max(1.0) if clip else torch.ones_like(norm)
            scale = torch.where(self.is_finite, scale, torch.nan) if self.reads_late else scale
        self.optimizer.step(scale)
        self.optimizer.zero_grad()
        self.dictionary.activation.project_()

    @property
    def trained(self) -> list[str]:
        """Names of the parameters that the optimizer moves, in its order."""
        name_of = {id(parameter): name for name, parameter in self.dictionary.named_parameters()}
        return [name_of[id(parameter)] for group in self.optimizer.param_groups for parameter in group["params"]]

    def gradient_norm(self) -> Tensor:
        """The norm of the whole dictionary's gradient."""
        if self.placed is None:
            return gradient_norm(self.dictionary.parameters())
        return self.placed.gradient_norm(self.dictionary)

    @torch.no_grad()
    def metrics(self) -> dict[str, Any]:
        """What the log says of the last step. Raises NotFinite for steps that were to be looked at later, now."""
        self.look_back()
        if self.reads_late and not self.is_finite:
            return {"skipped": self.n_skipped}
        step = self.step
        assert step is not None, "there was a step"
        values = {name: value.item() for name, value in self.loss.items()}
        fired = ops.over_tokens(ops.over_features(step.acts.l0().sum().float()))
        return {
            "loss": sum(values.values()),
            **{f"loss/{name}": value for name, value in values.items()},
            "fvu": (ops.over_tokens(step.squared_error) / total_variance(step.target, step.n_tokens)).item(),
            "l0": (fired / ops.token_count(step.acts.values[..., 0].numel())).item(),
            "dead": ops.feature_count(int(self.health.is_dead.sum())) / self.n_features,
            "lr": self.optimizer.param_groups[0]["lr"],
            **({"skipped": self.n_skipped} if self.reads_late and self.n_skipped else {}),
        }

    def state_dict(self) -> dict[str, Any]:
        """Everything that training changes. Raises NotFinite as ``metrics`` does."""
        self.look_back()
        return {
            "dictionary": self.dictionary.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "age": self.health.age,
            "scales": {str(site): [scale.value, scale.relative_error] for site, scale in self.scales.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what ``state_dict`` gave."""
        self.dictionary.load_state_dict(state["dictionary"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.health.age.copy_(state["age"])
        self.scales = {Site.parse(name): Scale(*pair) for name, pair in state["scales"].items()}
