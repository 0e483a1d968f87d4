"""Sites as other libraries' files name them, with errors that say where the name stood."""

from __future__ import annotations

from monoscope.core.errors import DataError, SiteError
from monoscope.core.site import Site
from monoscope.dictionaries import Dictionary
from monoscope.formats.opened import About
from monoscope.models.names import translate


def site_named(name: str, model: str | None, where: str, port: str = "out") -> tuple[Site, tuple[str, ...]]:
    """The site of a name, and what to know about it. Raises DataError for a name that means no tensor.

    ``model`` is the language model's name, as far as known; ``port`` is meant by a module's name alone, "in" or "out".
    """
    try:
        translated = translate(name, model or None, port=port)
    except SiteError as error:
        raise DataError(f"{where}: {error}") from None
    return translated.site, translated.notes


def model_of(dictionary: Dictionary, about: About) -> str | None:
    """The language model a dictionary was trained on, by name, as far as anything says so."""
    source = dictionary.provenance.get("source")
    model = source.get("model") if isinstance(source, dict) else None
    return about.model or (model.get("name") if isinstance(model, dict) else None)
