"""monoscope's own layout: ``config.toml`` and ``weights.safetensors``, canonical as they lie.

``acts = phi(x @ W_enc + b_enc)`` as the wiring in the configuration says; the activation scale is folded in. See
``dictionaries.saved``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from monoscope.core.config import parse_toml
from monoscope.dictionaries import Dictionary
from monoscope.dictionaries.saved import CONFIG, WEIGHTS, check_table, write_files
from monoscope.formats.folder import Folder
from monoscope.formats.layout import Layout, Receipt
from monoscope.formats.opened import About, Opened


class Native(Layout):
    """A directory as ``Dictionary.save`` writes it."""

    name: ClassVar[str] = "native"

    def evidence(self, folder: Folder) -> str | None:
        """Both files are there, or in directories below."""
        return f"{CONFIG} and {WEIGHTS}" if self.entries(folder) else None

    def entries(self, folder: Folder) -> list[str]:
        """The directory itself; or those of a sweep or a suite, by their paths."""
        names = set(folder.names())
        if {CONFIG, WEIGHTS} <= names:
            return [""]
        found = (name.removesuffix(f"/{CONFIG}") for name in names if name.endswith(f"/{CONFIG}"))
        return sorted(entry for entry in found if f"{entry}/{WEIGHTS}" in names)

    def read(self, folder: Folder, entry: str = "", choices: Mapping[str, str] | None = None) -> Opened:
        """The dictionary."""
        folder = folder.within(entry) if entry else folder
        where = folder.where(CONFIG)
        table = check_table(parse_toml(folder.text(CONFIG), where), where)
        provenance = table.get("provenance", {})
        source = provenance.get("source", {}) if isinstance(provenance, dict) else {}
        about = About(
            where=folder.name,
            files=(CONFIG, WEIGHTS),
            model=source.get("model", {}).get("name"),
            library=str(table.get("generator", "")) or None,
            prepend_bos={"window": True, "none": False}.get(str(source.get("bos"))),
            context_length=source.get("context"),
            skip_first=source.get("skip", {}).get("first"),
        )
        return Opened(self.name, table, folder.tensors(WEIGHTS), about)

    def write(self, dictionary: Dictionary, directory: Path, about: About) -> Receipt:
        """Everything a dictionary says is kept."""
        write_files(dictionary, directory)
        steps = [] if dictionary.frozen().activation.config == dictionary.activation.config else ["function frozen"]
        return Receipt(self.name, [CONFIG, WEIGHTS], steps)
