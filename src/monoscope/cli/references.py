"""References to dictionaries on the command line, and what is said of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from monoscope.core.errors import ConfigError, DataError
from monoscope.dictionaries import Dictionary
from monoscope.evals import Evaluation
from monoscope.formats import Check, check
from monoscope.formats.check import POOR, is_foreign, verdict
from monoscope.formats.open import Found, find


def parse_choices(assignments: Sequence[str] | None) -> dict[str, str]:
    """Choices written as ``rule=value``."""
    found = {}
    for assignment in assignments or ():
        name, equals, value = assignment.partition("=")
        if not equals or not name:
            raise ConfigError(f"a choice reads RULE=VALUE, found {assignment!r}")
        found[name] = value
    return found


def describe(
    ref: str,
    format: str | None = None,
    choices: Sequence[str] | None = None,
    model: str | None = None,
    reading: Sequence[str] | None = None,
) -> dict[str, Any]:
    """What a dictionary is, or what a set of them holds, without reading its numbers; how it fits, where asked."""
    found = find(ref, format)
    if (summary := found.layout.summary(found.folder)) is not None:
        return summary | {"layout": found.layout.name, "evidence": found.evidence}
    if (entries := entries_of(found)) is not None:
        return {
            "kind": "set of dictionaries",
            "layout": found.layout.name,
            "evidence": found.evidence,
            "entries": len(entries),
            "names": entries,
        }
    settled = parse_choices(choices)
    opened = found.open(**settled)
    if model is None:
        return opened.describe()
    from monoscope.cli.activations import activations_for, where_it_fits

    activations = activations_for(opened, model, reading)
    assert activations is not None, "a model was named"
    fitted = found.fitted(activations, **settled)
    dictionary, table = fitted.dictionary(), fitted.describe()
    seen = check(dictionary, activations)
    warnings = [*table.pop("warnings", ()), *seen.warnings]
    if seen.fvu > POOR and (words := where_it_fits(opened, dictionary, model, reading)) is not None:
        warnings.append(words)
    return table | {"fit": seen.to_dict()} | ({"warnings": warnings} if warnings else {})


def verify(ref: str, format: str | None = None) -> None:
    """Read all of a dictionary. Raises DataError for what is not whole."""
    found = find(ref, format)
    if entries_of(found) is not None:
        raise DataError(f"{ref} is a set of dictionaries; verify one of its entries")
    found.open().dictionary()


def suspicions(dictionary: Dictionary, evaluation: Evaluation) -> tuple[str, ...]:
    """What an evaluation shows to be wrong with a dictionary from another library's files; nothing of our own."""
    if not is_foreign(dictionary):
        return ()
    fit, firing = evaluation.fidelity, evaluation.firing
    found = Check(", ".join(evaluation.writes), fit.n_tokens, fit.fvu, firing.l0, firing.dead_share)
    return verdict(dictionary, found).warnings


def entries_of(found: Found) -> list[str] | None:
    """Entries of a set, unless one of them is meant."""
    entries = found.entries()
    return None if len(entries) == 1 or found.folder.focus else entries
