"""Activations at the sites of somebody's dictionary, from a language model that is at hand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Any

from monoscope.cli.reading import BUNDLED, Reading
from monoscope.core.config import override
from monoscope.core.errors import MismatchError, SiteError
from monoscope.core.site import Site
from monoscope.dictionaries import Dictionary
from monoscope.formats.check import POOR, TOKENS, elsewhere
from monoscope.formats.opened import Opened
from monoscope.harvest import ActivationSource, TokenWindows
from monoscope.models import LanguageModel

BATCHES = 4  # windows enough that a few documents are read


NEAR = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_in", "mlp_out")


def activations_for(opened: Opened, model: str | None, settings: Sequence[str] | None) -> ActivationSource | None:
    """Activations to look at a dictionary with: of a model that is named, or of the bundled one if it is meant.

    Text is read as the dictionary's files say, unless ``settings`` say otherwise. None where no model is at hand.
    """
    if model is None and opened.about.model != BUNDLED:
        if settings:
            raise MismatchError("--set says how a model reads; name one with --model")
        return None
    reading, lms, windows = _read_by(_table(opened, model, settings))
    sites = dict.fromkeys(map(Site.parse, (*opened.table["reads"], *opened.table["writes"])))
    widths = {Site.parse(name): width for name, width in opened.table["widths"].items()}
    for site in sites:
        found = lms[""].width(site)
        if found != widths[site]:
            raise MismatchError(
                f"the dictionary has {widths[site]} values at {site}, and {reading.model} has {found}: another model"
            )
    return reading.source(lms, windows, sites)


def where_it_fits(
    opened: Opened, dictionary: Dictionary, model: str | None, settings: Sequence[str] | None
) -> str | None:
    """Words for the site nearby at which a dictionary of one site fits, where it does not at its own; None if none."""
    own = dictionary.reads[0]
    if dictionary.reads != dictionary.writes or len(dictionary.reads) > 1 or own.layer is None:
        return None
    reading, lms, windows = _read_by(_table(opened, model, settings))
    others: list[Site] = []
    for layer in (own.layer, own.layer - 1, own.layer + 1):
        for kind in NEAR:
            with suppress(SiteError):  # a place that this model does not have
                site = Site(layer, kind)
                if site != own and lms[""].width(site) == dictionary.widths[own]:
                    others.append(site)
    fvu = elsewhere(dictionary, reading.source(lms, windows, others), others) if others else {}
    best = min(fvu, key=lambda site: fvu[site], default=None)
    return f"at {best} its FVU is {fvu[best]:.2g}" if best is not None and fvu[best] < POOR else None


def _table(opened: Opened, model: str | None, settings: Sequence[str] | None) -> str:
    """How a model reads for a dictionary, as JSON."""
    about = opened.about
    table: dict[str, Any] = {"model": model or BUNDLED}
    if about.context_length is not None:
        table["context"] = min(about.context_length, 512)
    if about.prepend_bos is not None:
        table["bos"] = "window" if about.prepend_bos else "none"
    if about.skip_first is not None:
        table["skip"] = {"first": about.skip_first}
    return json.dumps(override(table, settings or ()), sort_keys=True)


@lru_cache(maxsize=1)
def _read_by(table: str) -> tuple[Reading, dict[str, LanguageModel], TokenWindows]:
    """The model, loaded, and the text it reads: once for all dictionaries of a set."""
    reading = Reading.from_dict(json.loads(table))
    if reading.text_tokens is None:
        reading = reading.model_copy(update={"text_tokens": TOKENS + BATCHES * reading.context})
    lms = reading.language_models()
    return reading, lms, reading.windows(lms[""])
