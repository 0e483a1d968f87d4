"""``monoscope registry``: known public releases of dictionaries."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from monoscope.cli.session import Json, session, show
from monoscope.core.errors import ConfigError

if TYPE_CHECKING:
    from monoscope.registry import Release, Resolved, Set

registry = typer.Typer(
    name="registry",
    help="Find public dictionaries: where they are, what they read, how they are opened.",
    no_args_is_help=True,
)


@registry.command(name="search")
def search_(
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="[WORD]...", show_default=False, help="All of them; none: all there is."),
    ] = None,
    as_json: Json = False,
) -> None:
    """List releases that say all the words, in their names, models, sites or notes."""
    with session(as_json=as_json):
        from monoscope.registry import search

        found = search(words or [])
        if not found:
            raise ConfigError(f"no release says {' '.join(words or [])}; monoscope registry search lists all")
        if as_json:
            show({"releases": [release.to_dict() for release in found]}, as_json=True)
        else:
            print("\n".join(_table(found)))


@registry.command(name="show")
def show_(
    name: Annotated[
        str, typer.Argument(metavar="NAME", show_default=False, help="A release, registry:NAME/PATH, or Neuronpedia's.")
    ],
    as_json: Json = False,
) -> None:
    """Describe a release, or what a reference means."""
    with session(as_json=as_json):
        from monoscope.registry import is_reference, releases, resolve
        from monoscope.registry.references import PREFIX

        known = releases()
        if name in known:
            result = _release(known[name])
        else:
            own = name.partition("/")[0] in known or not is_reference(name)
            found = resolve(f"{PREFIX}{name.removeprefix(PREFIX)}" if own else name)
            result = _reference(found) if found.values else _release(found.release)
        show(result, as_json=as_json)


def _release(release: Release) -> dict[str, Any]:
    from monoscope.registry.references import PREFIX
    from monoscope.registry.releases import user_file

    table: dict[str, Any] = {"name": release.name} | _known(release)
    table |= {f"set {number}": _set(one) for number, one in enumerate(release.sets, 1)}
    example = next((one.path for one in release.sets if one.path), "")
    if "://" not in release.at or release.at.startswith("hf://"):
        table["open with"] = f"monoscope info {PREFIX}{release.name}{'/' if example else ''}{example}"
    path = user_file()
    return table | ({"your registry": str(path)} if path else {})


def _known(release: Release) -> dict[str, Any]:
    table = {name: value for name, value in release.to_dict().items() if value and name not in ("name", "sets")}
    if table.pop("is_pattern", False):
        table["pattern"] = "its makers describe a pattern of names; not every one need exist"
    return table


def _set(one: Set) -> dict[str, Any]:
    return {name: value for name, value in one.to_dict().items() if value}


def _reference(found: Resolved) -> dict[str, Any]:
    one = found.part
    said = {} if one is None else {name: value.format(**found.values) for name, value in _sites(one)}
    return {
        "reference": found.ref,
        "release": found.release.name,
        **({} if found.feature is None else {"feature": found.feature}),
        **said,
        **dict(found.values),
        **_known(found.release),
        **({} if one is None else {"note": one.note or None, "function": one.function or None}),
    }


def _sites(one: Set) -> Iterator[tuple[str, str]]:
    yield "reads", one.reads
    yield "writes", one.writes or one.reads


def _table(found: list[Release]) -> Iterator[str]:
    """Names, models and sites in columns."""
    rows = [(r.name, r.model, ", ".join(dict.fromkeys(_site(one) for one in r.sets)), r.layout) for r in found]
    rows.insert(0, ("NAME", "MODEL", "SITES", "LAYOUT"))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    for row in rows:
        yield "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()


def _site(one: Set) -> str:
    return one.reads + (f" -> {one.writes}" if one.writes and one.writes != one.reads else "")
