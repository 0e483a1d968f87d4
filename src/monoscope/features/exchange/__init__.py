"""Feature bundles in the formats of other tools, and theirs as bundles.

export(bundle, "out", "neuronpedia")
bundle = adopt("somebody's dashboards", "features.mono")
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monoscope.core.errors import ConfigError, DataError, nearest
from monoscope.core.io import output_directory
from monoscope.features.bundle import FeatureBundle
from monoscope.features.exchange import feature_json, neuronpedia, saedashboard
from monoscope.features.exchange.assemble import assemble
from monoscope.features.exchange.described import Described, Said
from monoscope.features.exchange.explanations import read_explanations

__all__ = ["Said", "adopt", "export", "read_explanations", "recognize", "told"]

Told = Mapping[int, Sequence[Said]]


@dataclass(frozen=True, slots=True)
class _Reader:
    name: str
    recognizes: Callable[[Path], bool]
    about: Callable[[Path], dict[str, Any]]
    read: Callable[[Path], Iterator[Described]]


_READERS = tuple(
    _Reader(module.__name__.rsplit(".", 1)[-1], module.recognizes, module.about, module.read)
    for module in (saedashboard, neuronpedia, feature_json)
)


def recognize(path: Path | str) -> str | None:
    """Which tool's features stand in a directory; None for none that is known. Raises DataError where several might."""
    found = [reader.name for reader in _READERS if reader.recognizes(Path(path))]
    if len(found) > 1:
        raise DataError(f"{path} looks like {' and like '.join(found)}; convert a directory of one of them")
    return found[0] if found else None


def adopt(path: Path | str, out: Path | str, *, force: bool = False) -> FeatureBundle:
    """A feature bundle of what another tool's files say; what they do not say stays unknown.

    Raises DataError, naming the file, for what cannot be read, and OutputError if ``out`` exists, unless ``force``.
    """
    path = Path(path)
    name = recognize(path)
    if name is None:
        known = ", ".join(reader.name for reader in _READERS)
        raise DataError(f"{path} holds no features that can be read; known: {known}")
    reader = next(reader for reader in _READERS if reader.name == name)
    return assemble(Path(out), reader.read(path), reader.about(path), force=force)


def told(bundle: FeatureBundle) -> dict[int, tuple[Said, ...]]:
    """The explanations that are handed on with a bundle."""
    every = ((index, bundle.explanations(index)) for index in range(len(bundle)))
    return {index: tuple(Said(e.text, e.method, e.judge, e.scores) for e in own) for index, own in every if own}


def export(
    bundle: FeatureBundle,
    out: Path | str,
    to: str,
    features: Sequence[int] | None = None,
    said: Told | None = None,
    *,
    force: bool = False,
) -> tuple[str, ...]:
    """Write features of a bundle as a new directory for another tool; what that tool cannot be told.

    to: saedashboard, neuronpedia, neuronpedia_upload, feature_json, or feature_binary
    features: which, in that order; all by default
    said: explanations of features, where the format has a place for them

    Raises ConfigError for another ``to``, DataError for features that are not there.
    """
    chosen = list(range(len(bundle)) if features is None else features)
    if missing := [index for index in chosen if not 0 <= index < len(bundle)]:
        raise DataError(f"there is no feature {missing[0]}; this bundle has 0 to {len(bundle) - 1}")
    writers: dict[str, tuple[Callable[[Path], object], tuple[str, ...]]] = {
        "saedashboard": (lambda path: saedashboard.write(bundle, path, chosen), saedashboard.LOST),
        "neuronpedia": (lambda path: neuronpedia.write(bundle, path, chosen, said), neuronpedia.LOST),
        "neuronpedia_upload": (lambda path: neuronpedia.write_upload(bundle, path, chosen, said), neuronpedia.LOST),
        "feature_json": (lambda path: feature_json.write(bundle, path, chosen), feature_json.LOST),
        "feature_binary": (lambda path: feature_json.write_binary(bundle, path, chosen), feature_json.LOST),
    }
    if to not in writers:
        raise ConfigError(f"features are not written as {to!r}; {nearest(to, writers)}")
    write, lost = writers[to]
    with output_directory(Path(out), force=force) as partial:
        write(partial)
    return lost
