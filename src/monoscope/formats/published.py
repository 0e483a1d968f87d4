"""What readers of published sets share: their names say what their files do not."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch

from monoscope.core.errors import ConfigError, DataError, MismatchError
from monoscope.formats.folder import Folder
from monoscope.formats.lazy import Lazy
from monoscope.formats.opened import About, Opened, check_shape


def called(folder: Folder, entry: str = "") -> str:
    """All that the files are called, repository first, however they came to lie here; without a revision."""
    name = re.sub(r"@[^/@]*$", "", folder.name.replace("\\", "/").replace("--", "/"))
    parts = [name, folder.focus if not entry else "", entry]
    return "/".join(part.strip("/") for part in parts if part)


def named(pattern: str, text: str) -> re.Match[str] | None:
    """The last place where a name says something: what is further in is meant."""
    return next(reversed(list(re.finditer(pattern, text, re.IGNORECASE))), None)


def said(choices: Mapping[str, str] | None, name: str, found: str | None, missing: str) -> tuple[str, bool]:
    """What the user chose, or else what a name says, and whether the user did. Raises ConfigError if neither does."""
    if choices and name in choices:
        return choices[name], True
    if found is None:
        raise ConfigError(f"{missing}; say it, as in {name}=...")
    return found, False


def whole_number(text: str, name: str) -> int:
    """A number of a name or a choice."""
    if not re.fullmatch(r"\d{1,9}", text):
        raise ConfigError(f"{name} is a whole number, found {text!r}")
    return int(text)


def directories_of(folder: Folder, file: str) -> list[str]:
    """Directories that hold a file of a name (the rest of a path), as they sort with their numbers as numbers."""
    found = [name.removesuffix(file).rstrip("/") for name in folder.names() if f"/{name}".endswith(f"/{file}")]
    return sorted(found, key=by_numbers)


def by_numbers(name: str) -> list[tuple[int, str]]:
    """A key that sorts layer_2 before layer_10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def inside(entry: str, file: str) -> str:
    """A file of an entry."""
    return f"{entry}/{file}" if entry else file


def has_rounded(n_features: int, width: str) -> bool:
    """Whether a name such as 16k, 65k or 1m is that of a number of features: 16384, 65536, 1048576."""
    thousand = 1_000_000 if width.lower().endswith("m") else 1000
    return n_features // thousand == int(width[:-1])


def check_width(n_features: int, width: str, fits: Callable[[int, str], bool], where: str) -> None:
    """Raises MismatchError where a file has another number of features than its name says."""
    if not fits(n_features, width):
        raise MismatchError(f"{where} has {n_features:,} features, and its name says {width}: one of them is wrong")


def matrix(tensors: Mapping[str, Lazy], name: str, where: str) -> Lazy:
    """A tensor with two axes and something in it. Raises DataError for another."""
    lazy = tensors[name]
    if lazy.ndim != 2 or 0 in lazy.shape:
        raise DataError(f"{name} in {where} is {list(lazy.shape)}, expected a matrix")
    return lazy


def above_zero(threshold: Lazy) -> Lazy:
    """Thresholds behind a ReLU, in fp32: what is below 0 there never decides, so 0 is the same."""
    return threshold.elementwise(lambda part: part.float().clamp_min(0), torch.float32)


def autoencoder(
    layout: str,
    sites: tuple[str, str],
    tensors: Mapping[str, Lazy],
    function: Mapping[str, Any],
    about: About,
    *,
    where: str,
    wiring: Mapping[str, Any] | None = None,
    acts_scale: float = 1.0,
) -> Opened:
    """An autoencoder or transcoder of canonical tensors; ``threshold`` among them is the function's.

    Biases and thresholds are kept in fp32. Raises DataError for shapes that do not fit each other.
    """
    d, n_features = matrix(tensors, "W_enc", where).shape
    d_out = matrix(tensors, "W_dec", where).shape[1]
    shapes: dict[str, tuple[int | None, ...]] = {
        "b_enc": (n_features,),
        "W_dec": (n_features, d_out),
        "b_dec": (d_out,),
    }
    shapes |= {"W_skip": (d, d_out), "threshold": (n_features,)}
    canonical: dict[str, Lazy] = {}
    for name, lazy in tensors.items():
        check_shape(lazy, shapes.get(name, (d, n_features)), name, where)
        key = "activation.threshold" if name == "threshold" else name
        canonical[key] = lazy.cast(torch.float32) if name in ("b_enc", "b_dec", "threshold") else lazy
    read, written = sites
    if read == written and d != d_out:
        raise MismatchError(f"{where} reads {d} numbers and writes {d_out}, so not both at {read}")
    table = {
        "reads": [read],
        "writes": [written],
        "widths": {read: d, written: d_out},
        "wiring": {
            "kind": "autoencoder",
            "n_features": n_features,
            "center": False,
            "unit_norm": False,
            "skip": "W_skip" in tensors,
            **(wiring or {}),
        },
        "function": dict(function),
        "acts_scale": acts_scale,
    }
    return Opened(layout, table, canonical, about)
