"""A dictionary on disk: a directory with ``config.toml`` and ``weights.safetensors``.

Weights have their canonical names and orientation, ``W_enc [d, F]`` and ``W_dec [F, d]``, row-major, in the units of
the raw site: the activation scale is folded in, and the activation function is the one inference uses. ``config.toml``
holds what rebuilds the dictionary, and where it came from.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import tomli_w
import torch
from torch import Tensor

import monoscope
from monoscope.core.config import read_toml
from monoscope.core.errors import ConfigError, DataError
from monoscope.core.io import output_directory, read_tensors, write_tensors, write_text
from monoscope.core.site import Site
from monoscope.core.stores.remote import Location, Remote, fetched, location
from monoscope.dictionaries.base import Dictionary, Wiring
from monoscope.dictionaries.function import ActivationFunction

CONFIG, WEIGHTS = "config.toml", "weights.safetensors"
SCHEMA, VERSION = "monoscope.dictionary", 1
FILES = (CONFIG, WEIGHTS)


def save(dictionary: Dictionary, path: Location, *, force: bool = False) -> None:
    """Write a dictionary as a new directory. Raises OutputError if something stands there, unless ``force``."""
    with output_directory(path, force=force) as partial:
        write_files(dictionary, partial)


def write_files(dictionary: Dictionary, directory: Path) -> None:
    """Write the two files into an existing directory; the config comes last, and marks them complete."""
    frozen = dictionary.frozen()
    widths = {str(site): width for site, width in frozen.widths.items()}
    table: dict[str, Any] = {
        "schema": SCHEMA,
        "schema_version": VERSION,
        "generator": f"monoscope {monoscope.__version__}",
        "reads": [str(site) for site in frozen.reads],
        "writes": [str(site) for site in frozen.writes],
        "widths": widths,
        **frozen.config_dict(),
    }
    if frozen.acts_scale is not None:
        scale = frozen.acts_scale
        table["acts_scale"] = list(scale) if isinstance(scale, tuple) else scale
    if frozen.provenance:
        table["provenance"] = frozen.provenance
    write_tensors(directory / WEIGHTS, frozen.state_dict())
    write_text(directory / CONFIG, tomli_w.dumps(table))


def load(path: Location | str) -> Dictionary:
    """The dictionary of a directory, ready for inference. Raises DataError or ConfigError for anything incomplete."""
    path = location(path)
    if isinstance(path, Remote):
        with fetched(path, FILES) as nearby:
            return load(nearby)
    if not path.is_dir():
        raise DataError(f"no dictionary at {path}: a directory with {CONFIG} and {WEIGHTS} is expected")
    missing = [name for name in FILES if not (path / name).is_file()]
    if missing:
        found = ", ".join(sorted(os.listdir(path))[:10]) or "nothing"
        raise DataError(f"{path} is not a dictionary: {' and '.join(missing)} missing, found {found}")
    table = check_table(read_toml(path / CONFIG), path / CONFIG)
    return assemble(table, read_tensors(path / WEIGHTS), path / WEIGHTS)


def check_table(table: dict[str, Any], where: Path | str) -> dict[str, Any]:
    """The table of a ``config.toml``. Raises DataError for another schema or a newer version, ConfigError for gaps."""
    if table.get("schema") != SCHEMA:
        raise DataError(f"{where} has schema {table.get('schema')!r}, not {SCHEMA!r}")
    version = table.get("schema_version")
    if not isinstance(version, int) or version > VERSION:
        raise DataError(
            f"{where} has version {version} of {SCHEMA}, and this monoscope reads up to {VERSION}; "
            f"it was written by {table.get('generator')}"
        )
    kinds = {"reads": list, "writes": list, "widths": dict, "wiring": dict, "function": dict}
    for key, kind in kinds.items():
        if key not in table:
            raise ConfigError(f"{where} lacks {key!r}")
        if not isinstance(table[key], kind):
            raise ConfigError(f"{where}: {key} is {table[key]!r}")
    return table


@runtime_checkable
class Readable(Protocol):
    """A tensor that is read when asked."""

    def read(self) -> Tensor:
        """All of it."""
        ...


def assemble(
    table: Mapping[str, Any],
    tensors: Mapping[str, Tensor] | Mapping[str, Readable],
    where: Path | str,
    dtype: torch.dtype = torch.float32,
) -> Dictionary:
    """The dictionary of a table and its tensors, ready for inference; ``where`` is what errors call their origin.

    Raises DataError or ConfigError before any tensor is read where names or shapes do not fit, and DataError for
    numbers that are not finite.
    """
    with torch.device("meta"):
        expected = {name: tensor.shape for name, tensor in _build(table, where).state_dict().items()}
    _check(expected, tensors, where)
    dictionary = _build(table, where).to(dtype)
    own = dictionary.state_dict()
    with torch.no_grad():
        for name, tensor in tensors.items():
            values = tensor if isinstance(tensor, Tensor) else tensor.read()
            own[name].copy_(values)  # in place: the memory layout of the parameters stays
            if not own[name].isfinite().all():
                raise DataError(f"{name} in {where} holds numbers that are not finite")
    return dictionary.eval().requires_grad_(False)


def _build(table: Mapping[str, Any], where: Path | str) -> Dictionary:
    import monoscope.dictionaries.recipe  # noqa: F401  (makes the kinds known)

    try:
        reads, writes = (tuple(map(Site.parse, table[key])) for key in ("reads", "writes"))
        widths = {Site.parse(name): width for name, width in table["widths"].items()}
        wiring = Wiring.from_dict(table["wiring"])
        function = ActivationFunction.Config.from_dict(table["function"])
        dictionary = wiring.build(function, reads, writes, widths)
    except KeyError as error:
        raise ConfigError(f"{where} lacks {str(error.args[0])!r}") from None
    scale = table.get("acts_scale")
    dictionary.acts_scale = tuple(scale) if isinstance(scale, list) else scale
    dictionary.provenance = table.get("provenance", {})
    return dictionary


def _check(expected: Mapping[str, torch.Size], tensors: Mapping[str, Any], where: Path | str) -> None:
    if unknown := sorted(tensors.keys() - expected.keys()):
        raise DataError(f"{where} holds {', '.join(unknown)}, which this dictionary does not have")
    if absent := sorted(expected.keys() - tensors.keys()):
        raise DataError(f"{where} lacks {', '.join(absent)}")
    for name, tensor in tensors.items():
        if tuple(tensor.shape) != tuple(expected[name]):
            raise DataError(f"{name} in {where} is {list(tensor.shape)}, expected {list(expected[name])}")
