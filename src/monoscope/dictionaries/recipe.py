"""Recipe: what to train, as a product of independent choices: wiring x activation function x loss terms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field, model_validator

import monoscope.dictionaries.cross_layer
import monoscope.dictionaries.crosscoder
import monoscope.dictionaries.lorsa
import monoscope.dictionaries.variants  # noqa: F401  (makes the kinds known)
from monoscope.core.config import Config
from monoscope.core.errors import ConfigError
from monoscope.core.site import Site
from monoscope.dictionaries.autoencoder import Autoencoder
from monoscope.dictionaries.base import Dictionary, Wiring
from monoscope.dictionaries.function import ActivationFunction
from monoscope.dictionaries.initialize import Initialization, Origin
from monoscope.dictionaries.objective import FVU, Term
from monoscope.dictionaries.variants import AuxK, TopK


class Recipe(Config):
    """Wiring, function, terms, start and activation scale of a dictionary.

    The default is the recommended run: a TopK autoencoder whose dead features are revived by AuxK. A wiring may have
    defaults of its own for the function and the terms.
    """

    wiring: Wiring = Autoencoder.Config()
    function: ActivationFunction.Config = TopK.Config()
    terms: dict[str, Term] = Field(default_factory=lambda: {"reconstruction": FVU(), "revive": AuxK()})
    initialize: Initialization = Initialization()
    normalize: Literal["dataset", "none"] = Field(default="dataset", description="activation scale; folded at the end")

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_wiring(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        wiring = value.get("wiring")
        kind = (
            wiring.get("kind") if isinstance(wiring, Mapping) else _kind(wiring) if isinstance(wiring, Wiring) else None
        )
        known = Wiring.kinds().get(str(kind))
        return value if known is None else {**known.defaults(), **value}  # pyright: ignore[reportAttributeAccessIssue]

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        kinds = {_kind(term) for term in self.terms.values()}
        stand_for = kinds | {term.stands_for for term in self.terms.values()}
        self._check_wiring(kinds)
        for name, term in self.terms.items():
            if term.needs_function not in (None, _kind(self.function)):
                raise ValueError(
                    f"terms.{name} trains parameters of {term.needs_function!r}, not of {_kind(self.function)!r}"
                )
            if (reason := term.refuses.get(_kind(self.function))) is not None:
                raise ValueError(f"terms.{name} does not fit a function of kind {_kind(self.function)!r}: {reason}")
            term.check_size(self.wiring.n_features)
            if term.beside is not None and term.beside not in stand_for:
                raise ValueError(
                    f"terms.{name} is weighted for a reconstruction term of kind {term.beside!r}; "
                    f"found {', '.join(sorted(kinds))}"
                )
        needed = self.function.needs_terms
        if needed and not kinds & needed:
            raise ValueError(
                f"function {_kind(self.function)!r} is sparse only by a penalty; add a term of kind {_or(needed)}, "
                f"as in terms.sparsity = {{kind = '{min(needed)}'}}"
            )
        return self

    def _check_wiring(self, kinds: set[str]) -> None:
        wiring, function = self.wiring, _kind(self.function)
        if wiring.accepts_functions is not None and function not in wiring.accepts_functions:
            raise ValueError(
                f"wiring {_kind(wiring)!r} takes a function of kind {_or(wiring.accepts_functions)}, found {function!r}"
            )
        if self.function.across_layers and not wiring.has_layers:
            raise ValueError(
                f"function {function!r} chooses among the features of several layers, and wiring {_kind(wiring)!r} has "
                f"one layer; use {function.replace('layer_', '')!r}"
            )
        if self.function.accepts_wirings is not None and _kind(wiring) not in self.function.accepts_wirings:
            raise ValueError(
                f"function {function!r} belongs to a wiring of kind {_or(self.function.accepts_wirings)}, "
                f"found {_kind(wiring)!r}"
            )
        for kind in kinds & wiring.refuses_terms.keys():
            raise ValueError(f"wiring {_kind(wiring)!r} does not take a term {kind!r}: {wiring.refuses_terms[kind]}")
        if wiring.accepts_terms is not None:
            if unknown := kinds - wiring.accepts_terms:
                allowed = _or(wiring.accepts_terms) if wiring.accepts_terms else "none"
                raise ValueError(f"wiring {_kind(wiring)!r} takes terms of kind {allowed}, found {min(unknown)!r}")
        elif not any(term.reconstructs for term in self.terms.values()):
            known = frozenset(name for name, term in Term.kinds().items() if getattr(term, "reconstructs", False))
            raise ValueError(f"terms hold no reconstruction term; add one of kind {_or(known)}")

    @property
    def needs_model(self) -> bool:
        """Whether training asks the language model: for a term, a start from its weights, or the shape of its heads."""
        return (
            self.wiring.needs_model
            or self.initialize.directions == "model"
            or any(term.needs_model for term in self.terms.values())
        )

    def completed(self, origin: Origin) -> Self:
        """With what its wiring leaves open taken from the model's own weights."""
        return self.model_copy(update={"wiring": self.wiring.completed(origin)})

    def build(self, reads: tuple[Site, ...], writes: tuple[Site, ...], widths: Mapping[Site, int]) -> Dictionary:
        """An uninitialized dictionary between sites."""
        spliced = [name for name, term in self.terms.items() if term.needs_model]
        if spliced and len(writes) != 1:
            raise ConfigError(f"terms.{spliced[0]} splices one site into the model, found {len(writes)} to write")
        dictionary = self.wiring.build(self.function, reads, writes, widths)
        if dictionary.activation.owns_bias:
            for name, parameter in dictionary.named_parameters():
                if name.split(".")[0] == "b_enc":
                    parameter.requires_grad_(False)
        return dictionary


def _kind(config: Config) -> str:
    return str(config.to_dict()["kind"])


def _or(kinds: frozenset[str]) -> str:
    return " or ".join(repr(kind) for kind in sorted(kinds))
