"""Activation functions of features that belong to layers: each layer with its own selection, thresholds included."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from jaxtyping import Float
from torch import Tensor, nn

from monoscope import ops
from monoscope.core.acts import Acts
from monoscope.core.errors import ConfigError
from monoscope.dictionaries.function import ActivationFunction
from monoscope.dictionaries.variants.jumprelu import JumpReLU


def over_layers(config: ActivationFunction.Config, n_layers: int, n_features: int) -> ActivationFunction:
    """The function of ``n_layers`` layers with ``n_features`` each.

    One over all features where it chooses across layers or looks at each feature alone; else one for every layer, with
    the ``k`` of each.
    """
    if config.across_layers or config.is_elementwise:
        return config.build(n_layers * n_features)
    return PerLayer([config.build(n_features) for _ in range(n_layers)], n_features)


class PerLayer(ActivationFunction):
    """The same function for each of several layers, whose features follow each other in equal numbers."""

    def __init__(self, functions: Iterable[ActivationFunction], n_features: int) -> None:
        super().__init__()
        self.functions, self.n_features = nn.ModuleList(functions), n_features
        self._most = n_features  # k counts features of all processes that share a layer
        first = next(self._each())
        if first.feature_axes:
            kind = first.config.to_dict()["kind"]
            raise ConfigError(f"function {kind!r} has parameters for each feature of one layer, and layers are several")
        self.config = first.config
        self.is_signed = first.is_signed  # pyright: ignore[reportAttributeAccessIssue]

    def _each(self) -> Iterator[ActivationFunction]:
        for function in self.functions:
            assert isinstance(function, ActivationFunction)
            yield function

    @property
    def k(self) -> float:
        """Features kept in each layer."""
        return next(self._each()).k  # type: ignore[return-value]

    @k.setter
    def k(self, value: float) -> None:
        for function in self._each():
            function.k = min(value, self._most)  # type: ignore[assignment]

    @property
    def selection(self) -> ops.EachLayer | None:
        """The rules of all layers."""
        rules = []
        for function in self._each():
            rule = function.selection
            if rule is None or isinstance(rule, ops.EachLayer):
                return None
            rules.append(rule)
        return ops.EachLayer(tuple(rules))

    @property
    def block(self) -> int | None:
        """Size of the groups inside which features of a layer may change places."""
        return next(self._each()).block

    def forward(self, pre: Float[Tensor, "*batch F"], norm: Float[Tensor, "*site F"] | None = None) -> Acts:
        """Feature activations."""
        norms = self._split(norm)
        layers = zip(self._each(), pre.chunk(len(self.functions), dim=-1), norms, strict=True)
        return Acts.joined([function(part, own) for function, part, own in layers])

    def observe(self, acts: Acts, norm: Float[Tensor, "*site F"] | None = None) -> None:
        """Let every layer learn from its own activations."""
        parts = acts.split(range(self.n_features, acts.n_features + 1, self.n_features))
        for function, part, own in zip(self._each(), parts, self._split(norm), strict=True):
            function.observe(part, own)

    @property
    def calibrates(self) -> bool:
        """Whether a layer's function does."""
        return any(function.calibrates for function in self._each())

    def calibrate(self, score: Float[Tensor, "n F"]) -> None:
        """Set thresholds from the scores of each layer."""
        for function, part in zip(self._each(), score.chunk(len(self.functions), dim=-1), strict=True):
            function.calibrate(part)

    def reset(self) -> None:
        """Forget what was observed."""
        for function in self._each():
            function.reset()

    def rescale_scores_(self, factor: float | Float[Tensor, " F"]) -> None:
        """Follow scores that have been multiplied by ``factor``."""
        factors = self._split(factor) if isinstance(factor, Tensor) else [factor] * len(self.functions)
        for function, own in zip(self._each(), factors, strict=True):
            assert own is not None
            function.rescale_scores_(own)

    def project_(self) -> None:
        """Return parameters to their domain."""
        for function in self._each():
            function.project_()

    def share_(self, of: int) -> None:
        """Serve one of several equal shares of every layer's features."""
        self.n_features //= of
        for function in self._each():
            function.share_(of)

    def frozen(self) -> ActivationFunction:
        """The frozen forms of all layers: one JumpReLU where they are thresholds."""
        forms = [function.frozen() for function in self._each()]
        thresholds = [form.threshold for form in forms if isinstance(form, JumpReLU)]
        if len(thresholds) < len(forms):
            return PerLayer(forms, self.n_features).eval()
        return JumpReLU(JumpReLU.Config(), torch.cat([th.detach() for th in thresholds])).eval().requires_grad_(False)

    def _split(self, norm: Tensor | None) -> tuple[Tensor | None, ...]:
        n_layers = len(self.functions)
        return (None,) * n_layers if norm is None else norm.chunk(n_layers, dim=-1)
