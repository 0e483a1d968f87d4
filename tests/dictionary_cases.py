"""Every wiring x activation function, small: the cases that the conformance tests of dictionaries run over.

A new activation function is found by its kind. A new wiring adds a row to ``WIRINGS``, a new term one to ``MOVES``.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from monoscope.core.site import Site
from monoscope.dictionaries import ActivationFunction, Dictionary, Recipe, Wiring
from monoscope.dictionaries.base import stacked
from monoscope.dictionaries.crosscoder import GATED_PER_SITE
from monoscope.dictionaries.initialize import Sample
from monoscope.dictionaries.objective import Term

IN, OUT = Site(1, "mlp_in"), Site(1, "mlp_out")
D_IN, D_OUT, F, K = 12, 10, 40, 4
SIZES: dict[str, Any] = {"k": K, "calibrate_l0": float(K), "target": float(K), "learn_sigma": True, "sigma": 0.5}
"""Settings of functions and terms that suit the toy, for those that have them."""


@dataclass(frozen=True)
class Case:
    """One wiring, small.

    roles: what its parameters are for, by what ``MOVES`` calls them; those of the activation function are "function"
    is_centered: whether b_dec takes part in encoding
    spread: of its data; less where strong features add up over sites, since penalties saturate
    functions: kinds of the only activation functions it takes with these settings; None: those its wiring takes
    refused: kinds of activation functions that it does not take
    """

    wiring: dict[str, Any]
    reads: tuple[Site, ...] = (IN,)
    writes: tuple[Site, ...] = (IN,)
    batch: tuple[int, ...] = (64,)
    roles: dict[str, str] = field(
        default_factory=lambda: {
            "W_enc": "encoder",
            "b_enc": "encoder",
            "W_glu": "encoder",
            "b_glu": "encoder",
            "W_dec": "decoder",
            "A": "decoder",
            "B": "decoder",
            "b_dec": "bias",
            "W_skip": "skip",
            **dict.fromkeys(("W_Q", "W_K", "b_Q", "b_K", "q_norm", "k_norm"), "attention"),
        }
    )
    is_centered: bool = False
    spread: float = 2.0
    functions: frozenset[str] | None = None
    refused: frozenset[str] = frozenset()

    @property
    def widths(self) -> dict[Site, int]:
        """Width of every site."""
        return {site: D_OUT if site.kind == "mlp_out" else D_IN for site in {*self.reads, *self.writes}}


AUTOENCODER = {"kind": "autoencoder", "n_features": F}
CROSSCODER = {"kind": "crosscoder", "n_features": F}
CLT = {"kind": "cross_layer", "n_features": 20}
MLPS = {
    "reads": tuple(Site(layer, "mlp_in") for layer in range(3)),
    "writes": tuple(Site(layer, "mlp_out") for layer in range(3)),
    "spread": 0.5,
    "refused": frozenset({"variational"}),
}
SOME = frozenset({"relu", "topk", "batch_topk", "jumprelu", "gated"})
LAYERS = tuple(Site(layer, "resid_post") for layer in range(3))
ATTENTION = {"d_head": 5, "scale": 1.5, "bias": True, "norm": "rms", "rotary": {"frequencies": [1.0, 0.3]}}
LORSA = {"kind": "lorsa", "n_features": F, "n_heads": 2, "attention": ATTENTION}

WIRINGS: dict[str, Case] = {
    "sae": Case(AUTOENCODER, is_centered=True),
    "scaled": Case(AUTOENCODER | {"scale_by_decoder_norm": True, "unit_norm": False}, is_centered=True),
    "transcoder": Case(AUTOENCODER, writes=(OUT,)),
    "skip": Case(AUTOENCODER | {"skip": True}, writes=(OUT,)),
    "glu": Case(AUTOENCODER | {"glu": True}, is_centered=True, refused=frozenset({"gated"})),
    "layer_norm": Case(AUTOENCODER | {"normalizer": "layer_norm"}, is_centered=True, functions=SOME),
    "token_norm": Case(
        AUTOENCODER | {"normalizer": "token_norm", "scale_by_decoder_norm": True}, is_centered=True, functions=SOME
    ),
    "mean_centered": Case(
        AUTOENCODER | {"normalizer": "center", "glu": True}, is_centered=True, functions=SOME - {"gated"}
    ),
    "normalized_skip": Case(AUTOENCODER | {"normalizer": "layer_norm", "skip": True}, writes=(OUT,), functions=SOME),
    "molt": Case({"kind": "molt", "n_features": 60, "groups": 2, "rank": 2}, writes=(OUT,)),
    "matching_pursuit": Case({"kind": "matching_pursuit", "n_features": F}),
    "pursuit_centered": Case({"kind": "matching_pursuit", "n_features": F, "center": True}, is_centered=True),
    "crosscoder": Case(CROSSCODER, LAYERS, LAYERS, spread=0.5),
    "crosscoder_l1": Case(CROSSCODER | {"norm": "l1"}, LAYERS[:2], LAYERS[2:]),
    "crosscoder_gated": Case(CROSSCODER | {"gate": "per_site"}, LAYERS, LAYERS, functions=GATED_PER_SITE),
    "lorsa": Case(LORSA, (Site(1, "attn_in"),), (Site(1, "attn_out"),), batch=(8, 8)),
    "clt": Case(CLT, **MLPS),
    "clt_skip": Case(CLT | {"skip": True, "scale_by_decoder_norm": False}, **MLPS),
}

ALL = {"encoder", "decoder", "bias", "skip", "attention", "function"}
PENALTY = {"encoder", "decoder", "centering", "attention", "function"}
MOVES: dict[str, set[str]] = {
    "squared_error": ALL,
    "fvu": ALL,
    "matryoshka": ALL,
    "multi_topk": ALL,
    "end_to_end": ALL,
    "l1": PENALTY,
    "lp": PENALTY,
    "tanh": PENALTY,
    "tanh_quad": PENALTY,
    "preact": PENALTY,
    "gate_l1": {"encoder", "decoder", "centering", "attention", "gate"},
    "gate_aux": {"encoder", "centering", "attention", "gate"},
    "kl": {"encoder", "centering", "attention", "function"},
    "auxk": {"encoder", "decoder"},
    "l0": {"function"},
    "target_l0": {"function"},
}
"""Parameters that each term may move, by their role; "centering" is the bias, where it takes part in encoding."""

GATES = {"activation.b_gate"}
"""Parameters of activation functions that decide what fires, and that no reconstruction moves."""

FUNCTIONS = sorted(ActivationFunction.Config.kinds())


def accepts(case: Case, function: str) -> bool:
    """Whether a wiring takes an activation function, and the function the wiring."""
    wiring = Wiring.from_dict(case.wiring)
    accepted = case.functions or wiring.accepts_functions
    if accepted is not None:
        return function in accepted
    config: Any = ActivationFunction.Config.kinds()[function]
    if config.accepts_wirings is not None:
        return case.wiring["kind"] in config.accepts_wirings
    return (wiring.has_layers or not config.across_layers) and function not in case.refused


def pairs(*functions: str) -> list[Any]:
    """Parameters (function, wiring) of a test over every case; over some functions alone, where they are named."""
    return [
        pytest.param(function, wiring, id=f"{function}-{wiring}")
        for wiring, case in WIRINGS.items()
        for function in functions or FUNCTIONS
        if accepts(case, function)
    ]


def sized(kinds: dict[str, type], kind: str) -> dict[str, Any]:
    """The table of a kind, with the sizes of the toy."""
    return {"kind": kind} | {name: value for name, value in SIZES.items() if name in kinds[kind].model_fields}


def companions(kind: str) -> dict[str, dict[str, Any]]:
    """Terms beside which a kind of term has its meaning: the reconstruction's last."""
    beside: str | None = Term.kinds()[kind].beside  # type: ignore[attr-defined]
    if beside is None:
        return {}
    rest = companions(beside)
    return {beside if rest else "reconstruction": {"kind": beside}} | rest


def recipe(function: str, wiring: str, **terms: dict[str, Any]) -> Recipe:
    """The smallest valid recipe of a case."""
    case, config = WIRINGS[wiring], ActivationFunction.Config.kinds()[function]
    losses: dict[str, dict[str, Any]] = {"reconstruction": {"kind": "fvu"}}
    needed: frozenset[str] = config.needs_terms  # type: ignore[attr-defined]
    if needed:
        kind = max(needed)
        losses["sparsity"] = sized(Term.kinds(), kind)
        losses |= companions(kind)
    if Wiring.from_dict(case.wiring).accepts_terms is not None:
        losses = {}
    return Recipe.from_dict(
        {
            "wiring": case.wiring,
            "function": sized(ActivationFunction.Config.kinds(), function),
            "terms": losses | terms,
        }
    )


def build(function: str, wiring: str = "sae", *, seed: int = 0, dtype: torch.dtype = torch.float32) -> Dictionary:
    """A dictionary in training, with no parameter at a special value."""
    return copy.deepcopy(_built(function, wiring, seed)).to(dtype)


@cache
def _built(function: str, wiring: str, seed: int) -> Dictionary:
    case, chosen = WIRINGS[wiring], recipe(function, wiring)
    generator = torch.Generator().manual_seed(seed)
    dictionary = chosen.build(case.reads, case.writes, case.widths).train()
    x, target = inputs(wiring, seed)
    dictionary.initialize_(chosen.initialize, Sample.of(x, target, len(case.reads), len(case.writes)), generator)
    with torch.no_grad():
        for name, parameter in dictionary.named_parameters():
            if not name.startswith("activation."):
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
        dictionary.project_()
    dictionary(x, target)
    return dictionary


def inputs(wiring: str, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Activations read, and their targets."""
    case = WIRINGS[wiring]
    generator = torch.Generator().manual_seed(seed + 1)
    values = {
        site: torch.randn(*case.batch, width, generator=generator) * case.spread + 0.3
        for site, width in sorted(case.widths.items(), key=lambda item: str(item[0]))
    }
    x = stacked(values, case.reads)
    return x, x if case.reads == case.writes else stacked(values, case.writes)


def data(wiring: str, dictionary: Dictionary, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Activations in the dtype of a dictionary."""
    dtype = next(dictionary.parameters()).dtype
    x, target = (t.to(dtype) for t in inputs(wiring, seed))
    return x, x if dictionary.reads == dictionary.writes else target


def role(wiring: str, parameter: str) -> str:
    """What a parameter is for."""
    if parameter.startswith("activation."):
        return "gate" if parameter in GATES else "function"
    return WIRINGS[wiring].roles[parameter.split(".")[0]]


def moved(module: nn.Module) -> set[str]:
    """Names of the parameters that have a gradient other than 0."""
    return {name for name, p in module.named_parameters() if p.grad is not None and p.grad.any()}
