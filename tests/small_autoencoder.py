"""A small autoencoder with random weights, for tests of single functions and terms."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from monoscope.core.site import Site
from monoscope.dictionaries import Autoencoder, Recipe
from monoscope.dictionaries.function import ActivationFunction
from monoscope.dictionaries.objective import Term

SITE, D, F, K, N = Site(0, "resid_post"), 8, 32, 4, 40


def function(kind: str, **settings: Any) -> Any:
    """An activation function of F features."""
    return ActivationFunction.Config.from_dict({"kind": kind} | settings).build(F)


def term(kind: str, **settings: Any) -> Term:
    """A term."""
    return Term.from_dict({"kind": kind} | settings)


def recipe(table: dict[str, Any], *terms: dict[str, Any], **wiring: Any) -> Recipe:
    """A recipe of an autoencoder, which reconstructs by squared error unless terms say otherwise."""
    losses = {str(i): loss for i, loss in enumerate(terms or ({"kind": "squared_error"},))}
    return Recipe.from_dict(
        {"wiring": {"kind": "autoencoder", "n_features": F} | wiring, "function": table, "terms": losses}
    )


def autoencoder(table: dict[str, Any], *terms: dict[str, Any], **wiring: Any) -> Autoencoder:
    """An autoencoder in training, whose weights are random and whose thresholds are positive."""
    dictionary = recipe(table, *terms, **wiring).build((SITE,), (SITE,), {SITE: D})
    assert isinstance(dictionary, Autoencoder)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in dictionary.named_parameters():
            parameter.normal_(generator=generator)
            if name == "activation.threshold":
                parameter.abs_()
        dictionary.project_()
    return dictionary.train()


def activations(n: int = N, dtype: torch.dtype = torch.float32) -> Tensor:
    """Activations to read."""
    return torch.randn(n, D, generator=torch.Generator().manual_seed(2), dtype=dtype)
