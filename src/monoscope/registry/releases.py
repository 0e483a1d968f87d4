"""Releases: a table of public dictionaries in ``releases.toml``, and the user's own beside it.

[[release]]
name = "gemma-scope-{size}-pt-res"                    # what references call it
at = "hf://google/gemma-scope-{size}-pt-res"          # a repository of the hub, or a directory
model = "google/gemma-2-{size}"
layout = "gemma_scope"                                # "" leaves it to the files
rows = [{size = "2b"}, {size = "9b"}]                 # one release for each; every text above and below is filled in

[[release.sets]]
path = "layer_{layer}/width_{width}/average_l0_{l0}"  # where one dictionary is in it
reads = "{layer}.resid_post"                          # writes the same, unless it says otherwise
values = {layer = "0..25", width = ["16k", "65k"]}    # what stands for a name in braces; anything where nothing is said

The user's file is ``$MONOSCOPE_REGISTRY``, or ``registry.toml`` in ``$XDG_CONFIG_HOME/monoscope`` (``~/.config``). A
release of a name that is known takes its place.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from monoscope.core.config import Config, parse_toml, read_toml
from monoscope.core.errors import ConfigError, nearest

VARIABLE = "MONOSCOPE_REGISTRY"
NUMBERS = ("layer", "k")
"""Names in braces that stand for whole numbers."""


class Set(Config):
    """Dictionaries of one release that lie alike and read alike."""

    path: str = Field(default="", description="of one of them in the release; names in braces vary")
    kind: Literal["autoencoder", "transcoder", "cross_layer"] = "autoencoder"
    function: str = Field(default="", description="activation function; nothing where files say it")
    reads: str = ""
    writes: str = Field(default="", description="nothing: what is read")
    features: list[int] = Field(default=[], description="of each dictionary; nothing where they differ")
    width: int = Field(default=0, description="of what is read; 0 where it is not stated")
    values: dict[str, list[str] | str] = Field(default={}, description="what names in braces may be")
    choices: dict[str, str] = Field(default={}, description="rules that files leave open")
    neuronpedia: str = Field(default="", description="what Neuronpedia calls one of them: model/source")
    note: str = ""

    def pattern(self, path: str) -> re.Pattern[str]:
        """Matches what a path with names in braces may be."""
        pieces = re.split(r"\{(\w+)\}", path)
        for number in range(1, len(pieces), 2):
            pieces[number] = f"(?P<{pieces[number]}>{self._alternatives(pieces[number])})"
        pieces[::2] = map(re.escape, pieces[::2])
        return re.compile("".join(pieces), re.IGNORECASE)

    def _alternatives(self, name: str) -> str:
        allowed = self.values.get(name)
        if isinstance(allowed, list):
            return "|".join(map(re.escape, allowed))
        return r"\d+" if allowed is not None or name in NUMBERS else r"[\w.-]+"

    def wrong(self, found: Mapping[str, str]) -> str | None:
        """What is out of a range among values that were found, in words."""
        for name, value in found.items():
            allowed = self.values.get(name)
            if isinstance(allowed, str):
                low, high = map(int, allowed.split(".."))
                if not low <= int(value) <= high:
                    return f"{name} is {allowed}, found {value}"
        return None


class Release(Config):
    """A public release: one repository, or a part of one."""

    name: str
    at: str = Field(description="where it is: hf://owner/repository, or a directory")
    title: str = ""
    model: str = ""
    layout: str = ""
    source: str = ""
    license: str = ""
    note: str = ""
    is_pattern: bool = Field(default=False, description="its makers describe a pattern, of which not all need exist")
    sets: list[Set] = Field(default=[])

    def words(self) -> str:
        """All it says, for searching."""
        table = self.to_dict()
        sets = table.pop("sets", [])
        return " ".join(str(value) for one in (table, *sets) for value in one.values() if value).lower()


def releases() -> dict[str, Release]:
    """All known releases by name, the user's among them. Raises ConfigError for a file that cannot be meant."""
    known = {release.name: release for release in _own()}
    path = user_file()
    if path is not None:
        known |= {release.name: release for release in _expanded(read_toml(path), path)}
    return known


def user_file() -> Path | None:
    """The user's own table. Raises ConfigError where a variable names a file that is not there."""
    if named := os.environ.get(VARIABLE):
        if not Path(named).is_file():
            raise ConfigError(f"{VARIABLE} is {named}, and no file is there")
        return Path(named)
    home = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    path = Path(home) / "monoscope" / "registry.toml"
    return path if path.is_file() else None


def search(words: Iterable[str]) -> list[Release]:
    """Releases that say all the words somewhere, whatever their case."""
    wanted = [word.lower() for word in words]
    return [release for release in releases().values() if all(word in release.words() for word in wanted)]


@cache
def _own() -> tuple[Release, ...]:
    name = "releases.toml"
    text = (files("monoscope.registry") / name).read_text(encoding="utf-8")
    return tuple(_expanded(parse_toml(text, name), name))


def _expanded(table: Mapping[str, Any], where: Path | str) -> list[Release]:
    """The releases of a file: one for each row of each entry."""
    if unknown := sorted(table.keys() - {"release"}):
        raise ConfigError(f"{where}: unknown key {unknown[0]!r}; {nearest(unknown[0], ['release'])}")
    entries = table.get("release", [])
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ConfigError(f"{where}: releases are written as [[release]]")
    found: list[Release] = []
    for entry in entries:
        rows = entry.get("rows", [{}])
        plain = {key: value for key, value in entry.items() if key != "rows"}
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise ConfigError(f"{where}: rows of {entry.get('name')!r} are tables, as in [{{size = '2b'}}]")
        for row in rows:
            try:
                found.append(_checked(Release.from_dict(_filled(plain, row))))
            except ConfigError as error:
                raise ConfigError(f"{where}: release {entry.get('name')!r}: {error}") from None
    return found


def _checked(release: Release) -> Release:
    """Raises ConfigError for names that references could not hold, and ranges that are none."""
    if not re.fullmatch(r"[\w.-]+", release.name):
        raise ConfigError(f"a name is made of letters, digits and _ . -, found {release.name!r}")
    for one in release.sets:
        for name, allowed in one.values.items():
            if isinstance(allowed, str) and not re.fullmatch(r"\d+\.\.\d+", allowed):
                raise ConfigError(f"{name} is a list, or a range such as '0..27', found {allowed!r}")
    return release


def _filled(value: Any, row: Mapping[str, Any]) -> Any:
    """A table with the names of a row replaced in every text; a text that is just one becomes its value."""
    if isinstance(value, dict):
        return {key: _filled(item, row) for key, item in value.items()}
    if isinstance(value, list):
        return [_filled(item, row) for item in value]
    if isinstance(value, str):
        if (whole := re.fullmatch(r"\{(\w+)\}", value)) and whole[1] in row:
            return row[whole[1]]
        return re.sub(r"\{(\w+)\}", lambda name: str(row.get(name[1], name[0])), value)
    return value
