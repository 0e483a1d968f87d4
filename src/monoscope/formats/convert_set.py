"""Converting dictionaries of all layers together, into a layout that takes them as one set.

The sources are the entries of a set, or references one by one; they are ordered by the layer they write. Each is read
back by itself and compared with what went in, as ``convert`` does.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monoscope.core.errors import CannotHold, DataError
from monoscope.core.io import output_directory, write_json
from monoscope.core.site import Site
from monoscope.formats.check import random_inputs, sample
from monoscope.formats.convert import RANDOM_TOKENS, RECEIPT, Conversion, compare
from monoscope.formats.layout import Receipt
from monoscope.formats.layouts import layout_of
from monoscope.formats.open import Found, find
from monoscope.formats.opened import Opened


@dataclass(frozen=True, slots=True)
class SetConversion:
    """What became of the dictionaries of a set: one receipt for all, and how each compares."""

    receipt: Receipt
    each: tuple[Conversion, ...]

    def to_dict(self) -> dict[str, Any]:
        """The whole story, as it lies beside the result."""
        return {
            "to": {name: value for name, value in dataclasses.asdict(self.receipt).items() if value},
            "dictionaries": {
                _name(conversion.source): {key: value for key, value in conversion.to_dict().items() if key != "to"}
                for conversion in self.each
            },
        }


def convert_set(
    sources: Found | Sequence[str | Path],
    directory: Path | str,
    to: str,
    *,
    force: bool = False,
    **choices: str,
) -> SetConversion:
    """Write dictionaries as one set, in a new directory with a ``receipt.json``.

    sources: a set that was found, or references to one dictionary each
    Raises CannotHold where the layout takes no sets or these do not make one, OutputError where something stands at
    ``directory``, DataError where what was written is not read back as the same dictionaries; nothing is left then.
    """
    layout = layout_of(to)
    opened = sorted(_opened(sources, choices), key=_layer)
    dictionaries = [each.dictionary() for each in opened]
    with output_directory(Path(directory), force=force) as partial:
        receipt = layout.write_set(dictionaries, partial, opened[0].about)
        back = find(partial, to)
        entries = back.entries()
        if len(entries) != len(opened):
            raise DataError(f"{len(opened)} dictionaries went into a set of {to}, and {len(entries)} came out")
        done = []
        for source, dictionary, entry in zip(opened, dictionaries, entries, strict=True):
            batches = sample(random_inputs(dictionary, RANDOM_TOKENS))
            comparison = compare(dictionary, back.at(entry).open().dictionary(), batches, "random inputs")
            done.append(Conversion(source, receipt, comparison))
            if not comparison.is_same and not receipt.lost:
                raise DataError(
                    f"what {to} wrote of {_name(source)} is not read back as the same dictionary: features differ by "
                    f"{comparison.acts_error:.2g}, reconstructions by {comparison.recon_error:.2g}"
                )
        conversion = SetConversion(receipt, tuple(done))
        write_json(partial / RECEIPT, conversion.to_dict())
    return conversion


def _opened(sources: Found | Sequence[str | Path], choices: dict[str, str]) -> list[Opened]:
    if isinstance(sources, Found):
        return [sources.at(entry).open(**choices) for entry in sources.entries()]
    if not sources:
        raise DataError("a set needs at least one dictionary")
    return [find(source).open(**choices) for source in sources]


def _layer(opened: Opened) -> int:
    """The layer that is written. Raises CannotHold for dictionaries that write several."""
    writes = [Site.parse(site) for site in opened.table["writes"]]
    if len(writes) != 1 or writes[0].layer is None:
        raise CannotHold(f"{_name(opened)} writes {', '.join(map(str, writes))}, and a set has one layer for each")
    return writes[0].layer


def _name(opened: Opened) -> str:
    return "/".join(part for part in (opened.about.where, opened.about.entry) if part)
