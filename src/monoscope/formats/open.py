"""Opening a dictionary, whoever wrote it: exactly one layout must recognize its files.

    opened = open("path/to/sae")                    headers and configuration alone
    opened.describe()                               what it is, and where each number comes from
    opened.direction(17)                            one feature's direction, read alone
    dictionary = opened.dictionary()                all of it, ready to use

A set, such as a run of many sites or a repository of layers, is opened entry by entry; an entry is a directory or a
file in it, and is named by its path.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import torch

from monoscope.core.errors import ConfigError, DataError, nearest
from monoscope.core.stores.remote import Remote, is_url
from monoscope.dictionaries import Dictionary
from monoscope.dictionaries import load as load_native
from monoscope.dictionaries.saved import CONFIG
from monoscope.formats.check import Activations, best, check, sample
from monoscope.formats.folder import Folder, LocalFolder
from monoscope.formats.hub_file import SCHEME
from monoscope.formats.layout import Layout
from monoscope.formats.layouts import LAYOUTS, layout_of
from monoscope.formats.native import Native
from monoscope.formats.opened import Opened, understood
from monoscope.registry import is_reference, resolve


@dataclass(frozen=True)
class Found:
    """A reference whose layout was recognized, or was given; ``evidence`` says why it is this one.

    entry: which of a set is meant; "" where that is up to the reference
    choices: rules that the registry settles
    """

    folder: Folder
    layout: Layout
    evidence: str
    entry: str = ""
    choices: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def entries(self) -> list[str]:
        """What there is to open, as the rest of a path: ``[""]``, or the entries of a set."""
        with understood(self.folder.name):
            return self.layout.entries(self.folder)

    def at(self, entry: str) -> Found:
        """The same, of one entry of a set."""
        return dataclasses.replace(self, entry=entry)

    def open(self, **choices: str) -> Opened:
        """The one dictionary there is. Raises DataError where a set leaves open which one is meant."""
        choices = {**self.choices, **choices}
        for name, value in choices.items():
            if name not in self.layout.choices:
                known = nearest(name, self.layout.choices) if self.layout.choices else "its files leave no rule open"
                raise ConfigError(f"{self.layout.name} has no choice {name!r}; {known}")
            if self.layout.choices[name] and value not in self.layout.choices[name]:
                allowed = " or ".join(map(repr, self.layout.choices[name]))
                raise ConfigError(f"{name} is {allowed}, found {value!r}")
        entry = self._which()
        with understood(self.folder.where(entry) if entry else self.folder.name):
            opened = self.layout.read(self.folder, entry, choices)
        about = dataclasses.replace(
            opened.about,
            where=self.folder.origin,
            entry=opened.about.entry or entry,
            license=opened.about.license or self.folder.license,
        )
        return dataclasses.replace(opened, about=about, evidence=opened.evidence or self.evidence)

    def fitted(self, activations: Activations, **choices: str) -> Opened:
        """``open``, with the rules that its files leave open settled by what fits activations best, on the record."""
        opened = self.open(**choices)
        rules = [name for name in opened.about.chosen if name not in choices and self.layout.choices.get(name)]
        if not rules:
            return opened
        batches, fvu, candidates = sample(activations), {}, {}
        for values in product(*(self.layout.choices[name] for name in rules)):
            words = ", ".join(f"{name} = {value}" for name, value in zip(rules, values, strict=True))
            candidates[words] = self.open(**choices, **dict(zip(rules, values, strict=True)))
            fvu[words] = check(candidates[words].dictionary(), batches).fvu
        choice = best(fvu)
        chosen = candidates[choice.name]
        about = dataclasses.replace(chosen.about, inferred=(*chosen.about.inferred, choice.words))
        return dataclasses.replace(chosen, about=about)

    def _which(self) -> str:
        """The entry that is meant. Raises DataError where a set holds several."""
        entries, folder = self.entries(), self.folder
        if self.entry:
            if self.entry not in entries:
                raise DataError(f"{folder.name} has no entry {self.entry}; {nearest(self.entry, entries)}")
            return self.entry
        if folder.focus in entries:
            return folder.focus
        if len(entries) == 1:
            return entries[0]
        if not entries:
            raise DataError(f"{folder.name} holds no dictionary")
        if folder.focus:
            raise DataError(f"{folder.where(folder.focus)} is not a dictionary by itself; name {folder.name}")
        listed = ", ".join(entries[:20]) + (f" and {len(entries) - 20:,} more" if len(entries) > 20 else "")
        raise DataError(
            f"{folder.name} is a set of {len(entries):,} dictionaries ({self.layout.name}); name one, as in "
            f"{folder.where(entries[0])}. It holds {listed}"
        )


def find(ref: str | Path, format: str | None = None) -> Found:
    """The layout of a reference's files. Raises DataError where none, or several, recognize them."""
    if isinstance(ref, str) and is_reference(ref) and not Path(ref).exists():
        known = resolve(ref)
        found = find(known.ref, format or known.layout)
        return dataclasses.replace(found, choices=known.choices)
    folder = folder_of(ref)
    with understood(folder.name):
        if format is not None:
            layout = layout_of(format)
            return Found(folder, layout, layout.evidence(folder) or f"said to be {format}")
        found = {layout: words for layout in LAYOUTS if (words := layout.evidence(folder)) is not None}
    if not found:
        raise DataError(
            f"{ref} is no dictionary of a known layout; found {_listed(folder)}; known layouts: "
            f"{', '.join(layout.name for layout in LAYOUTS)}"
        )
    if len(found) > 1:
        each = "; ".join(f"{layout.name} ({words})" for layout, words in found.items())
        raise DataError(f"{ref} could be of several layouts: {each}. Say which with --format, or format=")
    ((layout, words),) = found.items()
    return Found(folder, layout, words)


def folder_of(ref: str | Path) -> Folder:
    """The folder of a reference. Raises DataError where there is none."""
    if str(ref).startswith(SCHEME):
        from monoscope.formats.hub import open_hub

        return open_hub(str(ref))
    if is_url(ref):
        from monoscope.formats.remote import RemoteFolder

        return RemoteFolder(Remote(str(ref)))
    path = Path(str(ref))
    if path.exists():
        return LocalFolder(path)
    near = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    raise DataError(f"there is nothing at {ref}" + (f"; {nearest(path.name, near)}" if near else ""))


def _listed(folder: Folder) -> str:
    if folder.focus:
        return f"a file, {folder.focus}"
    names = folder.names()
    more = f" and {len(names) - 10:,} more" if len(names) > 10 else ""
    return (", ".join(names[:10]) + more) or "an empty directory"


def open(ref: str | Path, format: str | None = None, **choices: str) -> Opened:
    """A dictionary in anybody's files, without reading its weights.

    ``format`` names the layout where files do not tell; ``choices`` settle rules that they leave open. Raises DataError
    for what is not one dictionary of one layout.
    """
    return find(ref, format).open(**choices)


def load(
    ref: str | Path,
    format: str | None = None,
    dtype: torch.dtype = torch.float32,
    choices: Mapping[str, str] | None = None,
) -> Dictionary:
    """A dictionary, whoever wrote it, ready for inference: a path, and whatever else ``open`` takes."""
    if format in (None, Native.name) and not choices and not is_url(ref) and (Path(ref) / CONFIG).is_file():
        return load_native(ref).to(dtype)
    return open(ref, format, **(choices or {})).dictionary(dtype)
