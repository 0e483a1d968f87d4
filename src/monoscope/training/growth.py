"""Growth: an ITDA in training, which gains features from data and follows no gradient."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from monoscope.core.batch import ActivationBatch
from monoscope.core.errors import ConfigError, DataError
from monoscope.core.site import Site
from monoscope.dictionaries.base import Dictionary
from monoscope.dictionaries.itda import grow_
from monoscope.dictionaries.normalize import Scale
from monoscope.dictionaries.objective import total_variance
from monoscope.dictionaries.pursuit import MatchingPursuit
from monoscope.dictionaries.recipe import Recipe
from monoscope.training.run import Run, scaled_by
from monoscope.training.settings import Training

LOGGED_TOKENS = 1024  # of the last batch, encoded once more for a row of the log


class Growth(Run):
    """A dictionary that gains features from data. Optimizer, learning rate and clipping do not apply to it."""

    dictionary: MatchingPursuit

    def __init__(
        self, name: str, recipe: Recipe, settings: Training, dictionary: Dictionary, scales: Mapping[Site, Scale]
    ) -> None:
        super().__init__(name, recipe, settings, dictionary, scales)
        if scheduled := sorted(settings.schedules.keys() - {"optimizer.lr"}):
            raise ConfigError(f"schedules hold {scheduled[0]!r}; a dictionary that grows has nothing to schedule")
        self.most = recipe.wiring.n_features
        self.n_seen = 0
        self.x = torch.zeros(0, dictionary.widths[dictionary.reads[0]])

    def advance(self, batch: ActivationBatch, number: int) -> None:
        """Gain what the tokens of a batch have and the dictionary lacks."""
        flat = batch.flat()
        x, _ = self.dictionary.gather(flat)
        self.x = scaled_by(x, self.scale_in)
        grown = grow_(self.dictionary, self.x, self._origin(flat, len(x)), self.most)
        self.n_seen += len(x)
        self.health.grow(self.dictionary.n_features)
        self.health.count(grown.fired, len(x))

    def _origin(self, batch: ActivationBatch, n: int) -> Tensor:
        unknown = torch.full((n,), -1)
        columns = (unknown if column is None else column.long().cpu() for column in (batch.tokens, batch.positions))
        return torch.stack([torch.arange(self.n_seen, self.n_seen + n), *columns], dim=1)

    @torch.no_grad()
    def metrics(self) -> dict[str, Any]:
        """What the log says of the last batch, of its first tokens where it is large."""
        step = self.dictionary(self.x[:LOGGED_TOKENS])
        return {
            "fvu": (step.squared_error / total_variance(step.target, step.n_tokens)).item(),
            "l0": step.acts.l0().float().mean().item(),
            "dead": self.health.dead_share,
            "n_features": self.dictionary.n_features,
        }

    def finished(self) -> Dictionary:
        """The dictionary for use. Raises DataError where no token gave it a feature."""
        if self.dictionary.n_features == 0:
            raise DataError(f"all {self.n_seen:,} tokens at {self.dictionary.reads[0]} are zero: there are no features")
        return super().finished()

    def state_dict(self) -> dict[str, Any]:
        """Everything that growing changes."""
        return {
            "dictionary": self.dictionary.state_dict(),
            "age": self.health.age,
            "n_seen": self.n_seen,
            "scales": {str(site): [scale.value, scale.relative_error] for site, scale in self.scales.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what ``state_dict`` gave."""
        self.dictionary.resize_(len(state["dictionary"]["W_dec"]))
        self.dictionary.load_state_dict(state["dictionary"])
        self.health.grow(self.dictionary.n_features)
        self.health.age.copy_(state["age"])
        self.n_seen = state["n_seen"]
        self.scales = {Site.parse(name): Scale(*pair) for name, pair in state["scales"].items()}
