"""References to releases: ``registry:NAME/PATH``, and what Neuronpedia calls a dictionary.

registry:SAE-Res-Qwen3-1.7B-Base-W32K-L0_50/layer12.sae.pt
registry:gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71
gemma-2-2b/20-gemmascope-res-16k/4232              with the feature's number, or without; or its address on the web

A part of a path is a reference too: of all that lies behind it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from monoscope.core.errors import ConfigError, nearest
from monoscope.registry.releases import Release, Set, releases

PREFIX = "registry:"
NEURONPEDIA = r"(?:https?://(?:www\.)?neuronpedia\.org/)?([\w.-]+/\d+-[\w.-]+)(?:/(\d+))?/?"


@dataclass(frozen=True)
class Resolved:
    """What a reference means.

    ref: where it is, ``hf://...`` or a path; layout and choices: how it is opened
    part: the set of the release; values: what its path says, by name; feature: the number at the end of Neuronpedia's
    """

    ref: str
    release: Release
    part: Set | None = None
    values: Mapping[str, str] = field(default_factory=dict)
    feature: int | None = None

    @property
    def layout(self) -> str | None:
        """The layout, where it is known."""
        return self.release.layout or None

    @property
    def choices(self) -> Mapping[str, str]:
        """Rules that files leave open."""
        return {} if self.part is None else self.part.choices


def is_reference(ref: str) -> bool:
    """Whether a reference is written as one to the registry, or to Neuronpedia."""
    return ref.startswith(PREFIX) or re.fullmatch(NEURONPEDIA, ref) is not None


def resolve(ref: str) -> Resolved:
    """What a reference means. Raises ConfigError for a release or a path there is not, with what there is."""
    if not ref.startswith(PREFIX) and (found := re.fullmatch(NEURONPEDIA, ref)):
        return _from_neuronpedia(found[1], None if found[2] is None else int(found[2]))
    release, path = _release(ref.removeprefix(PREFIX).strip("/"))
    if not path:
        only = release.sets[0] if len(release.sets) == 1 else None
        return Resolved(_within(release, ""), release, only)
    parts = [_match(one, path) for one in release.sets]
    for one, values in zip(release.sets, parts, strict=True):
        if values is not None and one.wrong(values) is None:
            return Resolved(_within(release, path), release, one, values)
    if not release.sets:
        return Resolved(_within(release, path), release)
    why = next((f"; {one.wrong(v)}" for one, v in zip(release.sets, parts, strict=True) if v and one.wrong(v)), "")
    paths = " or ".join(dict.fromkeys(_described(one) for one in release.sets))
    raise ConfigError(f"{release.name} has nothing at {path}{why}; its paths are {paths}")


def _release(ref: str) -> tuple[Release, str]:
    """The release whose name a reference begins with, and the rest."""
    known = releases()
    name, _, path = ref.partition("/")
    found = next((release for own, release in known.items() if own.lower() == name.lower()), None)
    if found is None:
        raise ConfigError(
            f"no release is called {name!r}; {nearest(name, known)}; monoscope registry search finds them"
        )
    return found, path.strip("/")


def _match(one: Set, path: str) -> dict[str, str] | None:
    """Values of a path, or of a part of one, from its beginning; None if it is not of the set."""
    parts = one.path.split("/")
    given = path.split("/")
    if len(given) > len(parts):
        return None
    found = one.pattern("/".join(parts[: len(given)])).fullmatch(path)
    return None if found is None else found.groupdict()


def _within(release: Release, path: str) -> str:
    """A path in a release, before the revision where one is named."""
    at, mark, revision = release.at.partition("@")
    if "://" in at and not at.startswith("hf://"):
        place = "/".join(part for part in (at, path) if part)
        raise ConfigError(
            f"{release.name} is not on the hub: fetch {place}, keep the names of its directories, and open that"
        )
    return "/".join(part for part in (at.rstrip("/"), path) if part) + mark + revision


def _from_neuronpedia(source: str, feature: int | None) -> Resolved:
    """The dictionary of Neuronpedia's name for it, as far as that says which."""
    templates: list[str] = []
    for release in releases().values():
        for one in release.sets:
            if not one.neuronpedia:
                continue
            templates.append(one.neuronpedia)
            found = one.pattern(one.neuronpedia).fullmatch(source)
            if found and one.wrong(found.groupdict()) is None:
                values = found.groupdict()
                path = "/".join(_known_parts(one.path, values))
                return Resolved(_within(release, path), release, one, values, feature)
    raise ConfigError(f"no release is known that Neuronpedia calls {source!r}; {nearest(source, templates)}")


def _known_parts(path: str, values: Mapping[str, str]) -> list[str]:
    """The first parts of a path, as far as values say what stands in them."""
    known: list[str] = []
    for part in path.split("/"):
        filled = re.sub(r"\{(\w+)\}", lambda name: values.get(name[1], name[0]), part)
        if "{" in filled:
            break
        known.append(filled)
    return known


def _described(one: Set) -> str:
    """A path with what may stand in it."""
    said = [f"{name} {_allowed(allowed)}" for name, allowed in one.values.items() if f"{{{name}}}" in one.path]
    return one.path + (f" ({', '.join(said)})" if said else "")


def _allowed(allowed: list[str] | str) -> str:
    return allowed if isinstance(allowed, str) else " | ".join(allowed)
