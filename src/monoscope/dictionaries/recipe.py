"""Recipe: what to train, as a product of independent choices: wiring x activation function x loss terms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Self

from pydantic import Field, model_validator

import monoscope.dictionaries.variants  # noqa: F401  (makes the kinds known)
from monoscope.core.config import Config
from monoscope.core.site import Site
from monoscope.dictionaries.autoencoder import Autoencoder
from monoscope.dictionaries.base import ActivationFunction, Dictionary, Wiring
from monoscope.dictionaries.initialize import Initialization
from monoscope.dictionaries.objective import FVU, Term
from monoscope.dictionaries.variants import AuxK, TopK


class Recipe(Config):
    """Wiring, function, terms, start and activation scale of a dictionary.

    The default is the recommended run: a TopK autoencoder whose dead features are revived by AuxK.
    """

    wiring: Wiring = Autoencoder.Config()
    function: ActivationFunction.Config = TopK.Config()
    terms: dict[str, Term] = Field(default_factory=lambda: {"reconstruction": FVU(), "revive": AuxK()})
    initialize: Initialization = Initialization()
    normalize: Literal["dataset", "none"] = Field(default="dataset", description="activation scale; folded at the end")

    @model_validator(mode="after")
    def _terms_fit(self) -> Self:
        kinds = {term.to_dict()["kind"] for term in self.terms.values()}
        if not kinds & {"fvu", "squared_error"}:
            raise ValueError("terms hold no reconstruction term; add one of kind 'fvu' or 'squared_error'")
        function = self.function.to_dict()["kind"]
        for name, term in self.terms.items():
            if term.needs_function not in (None, function):
                raise ValueError(f"terms.{name} trains thresholds of {term.needs_function!r}, not of {function!r}")
            if term.beside is not None and term.beside not in kinds:
                raise ValueError(
                    f"terms.{name} is weighted for a reconstruction term of kind {term.beside!r}; "
                    f"found {', '.join(sorted(kinds))}"
                )
        if function == "relu" and "l1" not in kinds:
            raise ValueError("function 'relu' is sparse only by a penalty; add terms.sparsity = {kind = 'l1'}")
        if function == "jumprelu" and not kinds & {"l0", "target_l0"}:
            raise ValueError("function 'jumprelu' needs a penalty on its thresholds: a term 'l0' or 'target_l0'")
        return self

    def build(self, reads: tuple[Site, ...], writes: tuple[Site, ...], widths: Mapping[Site, int]) -> Dictionary:
        """An uninitialized dictionary between sites."""
        return self.wiring.build(self.function, reads, writes, widths)
