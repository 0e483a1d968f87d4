"""What ``monoscope convert`` does with a dictionary, or with all of a set. Heavy to import."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monoscope.cli.activations import activations_for
from monoscope.cli.references import entries_of, parse_choices
from monoscope.core.errors import ConfigError, DataError, MismatchError
from monoscope.core.io import refuse_existing, write_json, write_text
from monoscope.core.progress import progress
from monoscope.core.scratch import Scratch
from monoscope.formats import Conversion, SetConversion, convert_set, find
from monoscope.formats import convert as convert_one
from monoscope.formats.card import model_card
from monoscope.formats.convert import RECEIPT
from monoscope.formats.hub_file import HubRef
from monoscope.formats.layouts import layout_of
from monoscope.formats.open import Found
from monoscope.formats.publish import CARD, check_publishable, publish


@dataclass
class Request:
    """A dictionary, or a set, and how it is to be written."""

    src: str
    to: str
    format: str | None = None
    choices: list[str] | None = None
    model: str | None = None
    reading: list[str] | None = None
    force: bool = False

    def written(self, dst: Path) -> dict[str, Any]:
        """Convert into a directory; of a set each entry, into a directory of its name. Entries that are there stay."""
        layout, found = layout_of(self.to), find(self.src, self.format)
        entries = entries_of(found)
        if entries is None:
            refuse_existing(dst, force=self.force)
            return {"wrote": str(dst), **self._convert(found, dst).to_dict()}
        if layout.takes_sets:
            done = self._convert_together(found, dst).to_dict()
            return {"wrote": str(dst), **{name: _shown(value) for name, value in done.items()}}
        if (dst / RECEIPT).is_file():
            refuse_existing(dst)
        wrote, kept = [], []
        with progress(f"convert to {self.to}", len(entries), "dictionaries") as bar:
            for entry in entries:
                place = (
                    dst / Path(entry).with_suffix("") if Path(entry).suffix in (".pt", ".safetensors") else dst / entry
                )
                if (place / RECEIPT).is_file() and not self.force:
                    kept.append(entry)
                else:
                    self._convert(found.at(entry), place)
                    wrote.append(entry)
                bar.advance(1)
        return {"wrote": str(dst), "dictionaries": len(wrote), "entries": wrote} | ({"kept": kept} if kept else {})

    def published(self, dst: str, evaluation: Path | None, *, public: bool | None) -> dict[str, Any]:
        """Convert, and publish with a model card."""
        if public is None:
            raise ConfigError(f"who may see {dst}? Publish with --public or with --private")
        ref, found = HubRef.parse(dst), find(self.src, self.format)
        is_set = entries_of(found) is not None
        if is_set and not layout_of(self.to).takes_sets:
            raise DataError(
                f"{self.src} is a set of dictionaries; publish them one by one, each under a path of its own"
            )
        measured = None if evaluation is None else _evaluation(evaluation, found)
        check_publishable(ref, private=not public)
        with Scratch() as temporary:
            place = temporary / "dictionary"
            done = self._convert_together(found, place) if is_set else self._convert(found, place)
            _forget_places(place / RECEIPT)
            each = done.each if isinstance(done, SetConversion) else (done,)
            write_text(place / CARD, model_card(each, ref, measured))
            wrote = publish(place, ref, private=not public, force=self.force)
        return {**wrote, **{name: _shown(value) for name, value in done.to_dict().items()}}

    def _convert(self, found: Found, place: Path) -> Conversion:
        settled = parse_choices(self.choices)
        activations = activations_for(found.open(**settled), self.model, self.reading)
        return convert_one(found, place, self.to, activations=activations, force=self.force, **settled)

    def _convert_together(self, found: Found, place: Path) -> SetConversion:
        if self.model is not None:
            raise ConfigError("a set is compared on random inputs: leave --model out, or convert its entries apart")
        return convert_set(found, place, self.to, force=self.force, **parse_choices(self.choices))


def _forget_places(receipt: Path) -> None:
    """Take the paths of this machine out of a receipt that others will read."""
    table = json.loads(receipt.read_text(encoding="utf-8"))
    if "from" in table:
        sources = [table["from"]]
    else:
        sources = [made["from"] for made in table["dictionaries"].values()]
        table["dictionaries"] = {str(n): made for n, made in enumerate(table["dictionaries"].values())}
    for source in sources:
        if not str(source.get("where", "")).startswith("hf://"):
            source.pop("where", None)
    write_json(receipt, table)


def _shown(value: Any) -> Any:
    """What is shown of a result: of each dictionary of a set the comparison alone; the receipt has the rest."""
    if not isinstance(value, dict) or not all(
        isinstance(made, dict) and "comparison" in made for made in value.values()
    ):
        return value
    return {name: {k: made[k] for k in ("comparison", "warnings") if k in made} for name, made in value.items()}


def _evaluation(path: Path, found: Found) -> dict[str, Any]:
    """What ``monoscope evaluate`` kept. Raises MismatchError where it is of another dictionary."""
    file = path / "evaluation.json" if path.is_dir() else path
    try:
        table = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{file} is not what evaluate keeps: {error}") from None
    if not isinstance(table, dict) or not {"fidelity", "firing", "losses", "dictionary"} <= table.keys():
        raise DataError(f"{file} is not the evaluation of one dictionary")
    if table["dictionary"] != found.open().dictionary().fingerprint():
        raise MismatchError(f"{file} is of another dictionary than {found.folder.name}")
    return table
