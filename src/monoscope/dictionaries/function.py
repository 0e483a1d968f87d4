"""ActivationFunction: what makes a dictionary sparse, and owns nothing else."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from monoscope.core.acts import Acts
from monoscope.core.config import Config
from monoscope.ops import Selection


class ActivationFunction(nn.Module, ABC):
    """Pre-activations to feature activations. May own parameters.

    Selection and value are separate: ``score = pre * norm`` chooses the entries that survive, ``pre`` is their value.
    Thresholds are strict: an entry is active iff its score exceeds the threshold.
    """

    feature_axes: ClassVar[Mapping[str, int]] = {}
    is_signed: ClassVar[bool] = False
    """Whether activations may be negative."""

    owns_bias: ClassVar[bool] = False
    """Whether the function has biases of its own, so that the encoder's stays as it starts."""

    class Config(Config, family="activation function"):
        """Which function, and its settings."""

        needs_terms: ClassVar[frozenset[str]] = frozenset()
        """Kinds of terms of which a recipe must hold one, since nothing else makes the function sparse."""

        accepts_wirings: ClassVar[frozenset[str] | None] = None
        """Kinds of the only wirings that can serve the function; None where any can."""

        is_elementwise: ClassVar[bool] = False
        """Whether a feature's activation depends on its own pre-activation alone."""

        across_layers: ClassVar[bool] = False
        """Whether the function chooses among the features of all layers at once."""

        k_may_move: ClassVar[bool] = True
        """Whether a schedule may change k, where there is one."""

        def build(self, n_features: int) -> ActivationFunction:
            """The function for a number of features. Raises ConfigError for settings they cannot satisfy."""
            raise NotImplementedError

    config: Any  # the function's own Config

    @property
    @abstractmethod
    def selection(self) -> Selection | None:
        """The rule by which entries survive, where gradients reach surviving entries alone; else None.

        With a rule, encoders select as they go and pre-activations need not exist as a whole.
        """

    @property
    def fires_above(self) -> tuple[Float[Tensor, " F"] | float, float] | None:
        """Thresholds that alone decide in training, and the kernel's width through which they learn, 0: they do not.

        None where the function is something else. What lies in the kernel's window gets gradients too.
        """
        return None

    @abstractmethod
    def forward(self, pre: Float[Tensor, "*batch F"], norm: Float[Tensor, "*site F"] | None = None) -> Acts:
        """Feature activations; ``norm`` scales the scores that decide which entries survive."""

    @abstractmethod
    def frozen(self) -> ActivationFunction:
        """The function that inference uses."""

    @property
    def block(self) -> int | None:
        """Size of the consecutive groups inside which features may change places; None: anywhere."""
        return None

    @property
    def absorbed(self) -> tuple[Float[Tensor, " F"], Float[Tensor, " F"]] | None:
        """Scale and shift of pre-activations that the frozen form leaves to the encoder; None where there are none."""
        return None

    def observe(self, acts: Acts, norm: Float[Tensor, "*site F"] | None = None) -> None:
        """Learn from the activations of a training batch what inference will need; most functions need nothing."""

    @property
    def calibrates(self) -> bool:
        """Whether ``calibrate`` sets anything: if not, all scores of a sample need not exist at once."""
        return False

    def calibrate(self, score: Float[Tensor, "n F"]) -> None:
        """Set thresholds from the scores of an untrained dictionary; most functions have none."""

    def reset(self) -> None:
        """Forget what was observed; most functions remember nothing."""

    def rescale_scores_(self, factor: float | Float[Tensor, " F"]) -> None:
        """Follow scores that have all been multiplied by ``factor``; only thresholds need to."""

    def project_(self) -> None:
        """Return parameters to their domain after an optimizer step; most functions have nothing to do."""

    def share_(self, of: int) -> None:
        """Serve one of several equal shares of the features; most functions count none."""
