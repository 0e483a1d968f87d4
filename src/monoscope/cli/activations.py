"""Activations at the sites of somebody's dictionary, from a language model that is at hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from monoscope.cli.reading import BUNDLED, Reading
from monoscope.core.config import override
from monoscope.core.errors import MismatchError
from monoscope.core.site import Site
from monoscope.formats.check import TOKENS
from monoscope.formats.opened import Opened
from monoscope.harvest import ActivationSource

BATCHES = 4  # windows enough that a few documents are read


def activations_for(opened: Opened, model: str | None, settings: Sequence[str] | None) -> ActivationSource | None:
    """Activations to look at a dictionary with: of a model that is named, or of the bundled one if it is meant.

    Text is read as the dictionary's files say, unless ``settings`` say otherwise. None where no model is at hand.
    """
    about = opened.about
    if model is None and about.model != BUNDLED:
        if settings:
            raise MismatchError("--set says how a model reads; name one with --model")
        return None
    table: dict[str, Any] = {"model": model or BUNDLED}
    if about.context_length is not None:
        table["context"] = min(about.context_length, 512)
    if about.prepend_bos is not None:
        table["bos"] = "window" if about.prepend_bos else "none"
    if about.skip_first is not None:
        table["skip"] = {"first": about.skip_first}
    reading = Reading.from_dict(override(table, settings or ()))
    if reading.text_tokens is None:
        reading = reading.model_copy(update={"text_tokens": TOKENS + BATCHES * reading.context})
    lms = reading.language_models()
    sites = dict.fromkeys(map(Site.parse, (*opened.table["reads"], *opened.table["writes"])))
    widths = {Site.parse(name): width for name, width in opened.table["widths"].items()}
    for site in sites:
        found = lms[""].width(site)
        if found != widths[site]:
            raise MismatchError(
                f"the dictionary has {widths[site]} values at {site}, and {reading.model} has {found}: another model"
            )
    return reading.source(lms, reading.windows(lms[""]), sites)
