"""Dictionary and ActivationFunction: the two abstractions every sparse decomposition is made of.

Shapes: F features, d width. ``x`` is read from the language model, ``target`` is what should be reconstructed.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from monoscope.core.acts import Acts
from monoscope.core.batch import ActivationBatch
from monoscope.core.config import Config
from monoscope.core.errors import MismatchError
from monoscope.core.io import fingerprint_tensors
from monoscope.core.site import Site
from monoscope.dictionaries.initialize import Initialization
from monoscope.ops import Selection


class ActivationFunction(nn.Module, ABC):
    """What makes a dictionary sparse: pre-activations to feature activations. May own parameters.

    Selection and value are separate: ``score = pre * norm`` chooses the entries that survive, ``pre`` is their value.
    Thresholds are strict: an entry is active iff its score exceeds the threshold.
    """

    feature_axes: ClassVar[Mapping[str, int]] = {}

    class Config(Config, family="activation function"):
        """Which function, and its settings."""

        def build(self, n_features: int) -> ActivationFunction:
            """The function for a number of features. Raises ConfigError for settings they cannot satisfy."""
            raise NotImplementedError

    config: Any  # the function's own Config

    @property
    @abstractmethod
    def selection(self) -> Selection | None:
        """The rule by which entries survive, where gradients reach surviving, positive entries alone; else None.

        With a rule, encoders select as they go and pre-activations need not exist as a whole.
        """

    @abstractmethod
    def forward(self, pre: Float[Tensor, "*batch F"], norm: Float[Tensor, " F"] | None = None) -> Acts:
        """Feature activations; ``norm`` scales the scores that decide which entries survive."""

    @abstractmethod
    def frozen(self) -> ActivationFunction:
        """The function that inference uses."""

    def observe(self, acts: Acts, norm: Float[Tensor, " F"] | None = None) -> None:
        """Learn from the activations of a training batch what inference will need; most functions need nothing."""

    def calibrate(self, score: Float[Tensor, "n F"]) -> None:
        """Set thresholds from the scores of an untrained dictionary; most functions have none."""

    def reset(self) -> None:
        """Forget what was observed; most functions remember nothing."""

    def rescale_scores_(self, factor: float) -> None:
        """Follow scores that have all been multiplied by ``factor``; only thresholds need to."""

    def project_(self) -> None:
        """Return parameters to their domain after an optimizer step; most functions have nothing to do."""


@dataclass(frozen=True, slots=True)
class Step:
    """What one pass through a dictionary yields, and every loss term sees.

    x: ``[*batch, d]`` read; target: ``[*batch, d_out]``, None where a transcoder was given none; acts;
    recon: ``[*batch, d_out]``
    is_dead: ``[F]`` features that have not fired for long, where a trainer keeps count
    """

    dictionary: Dictionary
    x: Float[Tensor, "*batch d"]
    target: Float[Tensor, "*batch d_out"] | None
    acts: Acts
    recon: Float[Tensor, "*batch d_out"]
    is_dead: Bool[Tensor, " F"] | None = None

    @property
    def pre(self) -> Float[Tensor, "*batch F"]:
        """All pre-activations, computed on each request: training with hard selection never needs them whole."""
        return self.dictionary.preacts(self.x)

    @property
    def score(self) -> Float[Tensor, "*batch F"]:
        """What decides which entries survive: pre-activations, times decoder norms where the wiring says so."""
        norm = self.dictionary.score_norm()
        return self.pre if norm is None else self.pre * norm

    @property
    def error(self) -> Float[Tensor, "*batch d_out"]:
        """What the reconstruction leaves out: ``target - recon``. Raises ValueError without a target."""
        if self.target is None:
            raise ValueError("there is no target to compare with; pass dictionary(x, target)")
        return self.target - self.recon


class Dictionary(nn.Module, ABC):
    """Any sparse decomposition of activations: reads at sites, writes at sites.

    ``feature_axes`` names the feature axis of every parameter that has one: all that sharding, pruning and
    permutation need to know. ``acts_scale`` is None until the activation scale is folded into the weights; afterwards
    ``acts / acts_scale`` are activations in the units of the site.
    """

    per_token: ClassVar[bool] = True
    feature_axes: ClassVar[Mapping[str, int]]

    reads: tuple[Site, ...]
    writes: tuple[Site, ...]
    widths: Mapping[Site, int]
    n_features: int
    activation: ActivationFunction
    acts_scale: float | None
    encode_dtype: torch.dtype | None  # a narrower one selects in it; see ops.encode
    provenance: dict[str, Any]

    @abstractmethod
    def initialize_(
        self,
        config: Initialization,
        x: Float[Tensor, "n d"],
        target: Float[Tensor, "n d_out"],
        generator: torch.Generator,
    ) -> None:
        """Set every parameter, from scaled activations of one sample."""

    @abstractmethod
    def preacts(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch F"]:
        """Pre-activations of every feature."""

    @abstractmethod
    def decoder_norm(self) -> Float[Tensor, " F"]:
        """Norm of each feature's decoder."""

    @abstractmethod
    def score_norm(self) -> Float[Tensor, " F"] | None:
        """What pre-activations are multiplied by to score them, without gradient; None where they are their scores."""

    @abstractmethod
    def part(
        self, x: Float[Tensor, "*batch d"], features: Int[Tensor, " n"]
    ) -> tuple[Float[Tensor, "*batch n"], Float[Tensor, "n d_out"]]:
        """Pre-activations and decoder rows of chosen features, with gradients to their own weights alone."""

    @abstractmethod
    def encode(self, x: Float[Tensor, "*batch d"]) -> Acts:
        """Feature activations."""

    @abstractmethod
    def decode(self, acts: Acts, x: Float[Tensor, "*batch d"] | None = None) -> Float[Tensor, "*batch d_out"]:
        """Reconstruction from feature activations; ``x`` is needed where a path leads around the features."""

    @abstractmethod
    def project_gradients_(self) -> None:
        """Remove, before an optimizer step, the part of the gradient that the constraint on weights would undo."""

    @abstractmethod
    def project_(self) -> None:
        """Return weights to their constraint after an optimizer step."""

    @abstractmethod
    def rescale_(self, scale_in: float, scale_out: float) -> None:
        """Fold activation scales into the weights: afterwards raw activations give raw reconstructions, exactly.

        ``scale_in`` and ``scale_out`` are what reads and targets were multiplied by in training. Feature activations
        and thresholds stay as they were.
        """

    @abstractmethod
    def config_dict(self) -> dict[str, Any]:
        """The wiring and function that rebuild this dictionary, as a recipe's plain table."""

    def forward(self, x: Float[Tensor, "*batch d"], target: Float[Tensor, "*batch d_out"] | None = None) -> Step:
        """Encode and decode; unless given, the target is ``x`` itself where the dictionary writes what it reads."""
        if target is None and self.reads == self.writes:
            target = x
        acts = self.encode(x)
        return Step(self, x, target, acts, self.decode(acts, x))

    def gather(self, batch: ActivationBatch) -> tuple[Tensor, Tensor]:
        """Activations that are read, and those to reconstruct. Raises MismatchError for a missing site."""
        for site in {*self.reads, *self.writes}:
            if site not in batch.activations:
                found = ", ".join(map(str, batch.activations))
                raise MismatchError(f"the dictionary needs activations at {site}; the source gives {found}")
        return batch.activations[self.reads[0]], batch.activations[self.writes[0]]

    def frozen(self) -> Self:
        """A copy for inference: evaluation mode, no gradients, the activation function in its frozen form."""
        twin = copy.deepcopy(self)
        twin.activation = self.activation.frozen()
        return twin.eval().requires_grad_(False)

    def fold_(self, scale_in: float, scale_out: float) -> None:
        """``rescale_``, once. A second fold is refused."""
        if self.acts_scale is not None:
            raise MismatchError(f"the activation scale {self.acts_scale:g} is folded into these weights already")
        self.rescale_(scale_in, scale_out)
        self.acts_scale = scale_in

    def fingerprint(self) -> str:
        """SHA-256 of the weights."""
        return fingerprint_tensors(self.state_dict())

    def save(self, path: Path | str, *, force: bool = False) -> None:
        """Write ``config.toml`` and ``weights.safetensors``, frozen. See ``dictionaries.saved``."""
        from monoscope.dictionaries.saved import save

        save(self, Path(path), force=force)


class Wiring(Config, family="wiring"):
    """Which sites a dictionary reads and writes, and through what weights."""

    n_features: int

    def build(
        self,
        function: ActivationFunction.Config,
        reads: tuple[Site, ...],
        writes: tuple[Site, ...],
        widths: Mapping[Site, int],
    ) -> Dictionary:
        """An uninitialized dictionary. Raises ConfigError where the choices do not fit together."""
        raise NotImplementedError
