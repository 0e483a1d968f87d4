"""Methods to compare on the worlds, as data: what each trains, and what sets how sparse it is.

A method whose sparsity follows from a setting directly is trained at the world's L0; where that is no integer and the
setting has to be one, at the integers around it. A method that is sparse by the weight of a penalty is trained at two
weights, whose L0 bracket the world's; its scores are then interpolated. Settings that miss it are moved by ``steps``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from monoscope.core.config import assign
from monoscope.evals.worlds.named import NamedWorld

FVU = {"reconstruction": {"kind": "fvu"}}
REVIVED = FVU | {"revive": {"kind": "auxk"}}
SQUARED = {"reconstruction": {"kind": "squared_error"}}


@dataclass(frozen=True)
class Method:
    """One row of the comparison.

    function, terms, wiring: of the recipe, where they are not a BatchTopK autoencoder's
    at_l0: dotted keys of the recipe that are set to the wanted L0
    steps: by world, what is added to it, one run each, where other numbers fire than are asked for
    weight: dotted key of the penalty that sets the L0, and by world the two weights to train at
    width: F, as a multiple of the world's
    worlds: those the method is for; None for all
    training: settings that differ from the comparison's
    """

    function: Mapping[str, Any]
    terms: Mapping[str, Any] = field(default_factory=lambda: REVIVED)
    wiring: Mapping[str, Any] = field(default_factory=lambda: {"kind": "autoencoder"})
    at_l0: tuple[str, ...] = ()
    steps: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    weight: str | None = None
    weights: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    width: float = 1
    worlds: tuple[str, ...] | None = None
    training: Mapping[str, Any] = field(default_factory=dict)

    def applies(self, world: str) -> bool:
        """Whether the method is compared on a world."""
        return (self.worlds is None or world in self.worlds) and (self.weight is None or world in self.weights)

    def recipes(self, name: str, world: NamedWorld, l0: float | None = None) -> list[dict[str, Any]]:
        """Recipes to train for one row on a world, at an L0 other than its own if given."""
        n_features = round(self.width * world.n_features)
        l0 = world.l0 if l0 is None else l0
        base: dict[str, Any] = {
            "wiring": {**self.wiring, "n_features": n_features},
            "function": dict(self.function),
            "terms": {key: dict(term) for key, term in self.terms.items()},
        }
        if self.weight is not None:
            return [_set(base, {self.weight: weight}) for weight in self.weights[name]]
        whole = self.function["kind"] in INTEGER_K
        around = {math.floor(l0), math.ceil(l0)} if whole else {float(l0)}
        wanted = sorted({k + step for k in around for step in self.steps.get(name, (0,))})
        recipes = [_set(base, dict.fromkeys(self.at_l0, k)) for k in wanted if k > 0]
        if self.function["kind"] == "group_max":  # its groups are of one size
            recipes = [
                _set(recipe, {"wiring.n_features": n_features // k * k})
                for recipe, k in zip(recipes, wanted, strict=True)
            ]
        return recipes


INTEGER_K = {"topk", "abs_topk", "group_max", "variational", "pursuit"}


def _set(recipe: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    out = dict(recipe)
    for name, value in values.items():
        assign(out, name, value)
    return out


BASELINE = "BatchTopK"

METHODS = {
    "ReLU + L1": Method(
        {"kind": "relu"},
        SQUARED | {"sparsity": {"kind": "l1"}},
        weight="terms.sparsity.weight",
        weights={"W0": (0.7, 1.5, 3.0), "W1": (3.2, 4.0), "W3": (2.9, 3.7), "W5": (2.2, 3.4)},
    ),
    "Gated": Method(
        {"kind": "gated"},
        SQUARED | {"sparsity": {"kind": "gate_l1"}, "gate": {"kind": "gate_aux"}},
        weight="terms.sparsity.weight",
        weights={"W1": (4.4, 7.5)},
    ),
    "TopK": Method({"kind": "topk"}, at_l0=("function.k",), steps={"W0": (0, 1), "W2": (0, 1), "W3": (0, 1)}),
    "BatchTopK": Method({"kind": "batch_topk"}, at_l0=("function.k",), steps={"W0": (-0.1, 0.1), "W4": (0, 0.2)}),
    "Matryoshka BatchTopK": Method(
        {"kind": "batch_topk"},
        {"reconstruction": {"kind": "matryoshka"}, "revive": {"kind": "auxk"}},
        at_l0=("function.k",),
        worlds=("W1", "W1, a quarter", "W2", "W3", "W5", "W5, wide enough"),
    ),
    "JumpReLU, target L0": Method(
        {"kind": "jumprelu"},
        REVIVED | {"sparsity": {"kind": "target_l0", "weight": 4.0}},
        at_l0=("function.calibrate_l0", "terms.sparsity.target"),
        steps={"W0": (-0.3, 0), "W3": (0, 0.25), "W5": (-0.6, -0.3)},
        worlds=("W0", "W1", "W1, a quarter", "W3", "W5"),
    ),
    "JumpReLU, tanh": Method(
        {"kind": "jumprelu", "calibrate_l0": 6.0},
        SQUARED | {"sparsity": {"kind": "tanh"}},
        weight="terms.sparsity.weight",
        weights={"W1": (14.0, 50.0)},
    ),
    "GroupMax": Method({"kind": "group_max"}, at_l0=("function.k",), steps={"W1": (0, 1)}, worlds=("W1",)),
    "AbsTopK": Method(
        {"kind": "abs_topk"},
        at_l0=("function.k",),
        worlds=("W1", "W4"),
        training={"optimizer": {"kind": "adam", "lr": 2e-2}},
    ),
    "Matching pursuit": Method(
        {"kind": "pursuit"},
        REVIVED,
        {"kind": "matching_pursuit"},
        at_l0=("function.k",),
        steps={"W1": (0, 1), "W1, a quarter": (0, 1), "W3": (1, 2), "W6": (0, 1)},
        worlds=("W1", "W1, a quarter", "W3", "W6"),
    ),
    "ITDA": Method({"kind": "pursuit"}, {}, {"kind": "itda"}, at_l0=("function.k",), worlds=("W1", "W6")),
    "Variational": Method(
        {"kind": "variational"},
        SQUARED | {"divergence": {"kind": "kl"}},
        at_l0=("function.k",),
        steps={"W1": (1, 2)},
        worlds=("W1",),
    ),
    "BatchTopK, twice as wide": Method(
        {"kind": "batch_topk"}, at_l0=("function.k",), steps={"W4": (0, 0.3)}, width=2, worlds=("W4",)
    ),
    "frozen decoder": Method(
        {"kind": "batch_topk"},
        FVU,
        {"kind": "frozen_decoder"},
        at_l0=("function.k",),
        worlds=("W0", "W1", "W3", "W5"),
    ),
}
"""Rows, in the order they are shown. The last is a floor: BatchTopK that may not move its decoder."""
