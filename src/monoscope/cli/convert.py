"""``monoscope convert``: a dictionary, or a feature bundle, in another layout."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from monoscope.cli.session import Force, Json, session, show

Ref = Annotated[
    str,
    typer.Argument(
        metavar="REF", show_default=False, help="A path, hf://org/repo/path@revision, or registry:NAME/PATH."
    ),
]
Format = Annotated[
    str | None,
    typer.Option("--format", metavar="LAYOUT", show_default=False, help="The layout, where files do not tell."),
]
Choose = Annotated[
    list[str] | None,
    typer.Option("--choose", metavar="RULE=VALUE", show_default=False, help="Settle a rule that the files leave open."),
]
Model = Annotated[
    str | None,
    typer.Option("--model", metavar="ID", show_default=False, help="Language model to read activations from."),
]
Reading = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", show_default=False, help="How the model reads, as in context=128."),
]


def convert(
    src: Ref,
    dst: Annotated[str, typer.Argument(metavar="DST", show_default=False, help="Directory to write.")],
    to: Annotated[str, typer.Option("--to", metavar="LAYOUT", show_default=False, help="What to write.")],
    format: Format = None,
    choices: Choose = None,
    model: Model = None,
    reading: Reading = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Write a dictionary in another library's layout and compare the two, or features in another tool's format."""
    with session(as_json=as_json):
        from monoscope.cli.bundles import adopt_bundle, convert_bundle, is_bundle, is_foreign
        from monoscope.cli.references import parse_choices

        if is_bundle(src):
            show(convert_bundle(Path(src), Path(dst), to, parse_choices(choices), force=force), as_json=as_json)
            return
        if is_foreign(src):
            show(adopt_bundle(Path(src), Path(dst), to, force=force), as_json=as_json)
            return
        show(_dictionaries(src, Path(dst), to, format, choices, model, reading, force=force), as_json=as_json)


def _dictionaries(
    src: str,
    dst: Path,
    to: str,
    format: str | None,
    choices: list[str] | None,
    model: str | None,
    reading: list[str] | None,
    *,
    force: bool,
) -> dict[str, Any]:
    from monoscope.cli.activations import activations_for
    from monoscope.cli.references import parse_choices
    from monoscope.core.errors import ConfigError
    from monoscope.core.io import refuse_existing
    from monoscope.formats import convert, convert_set, find
    from monoscope.formats.layouts import layout_of

    layout = layout_of(to)
    refuse_existing(dst, force=force)
    found, settled = find(src, format), parse_choices(choices)
    if layout.takes_sets and len(found.entries()) > 1 and not found.folder.focus:
        if model is not None:
            raise ConfigError(
                "a set is compared on random inputs; leave --model out, or convert its entries one by one"
            )
        table = convert_set(found, dst, to, force=force, **settled).to_dict()
        each = {name: {key: made[key] for key in ("comparison", "warnings") if key in made} for name, made in
                table["dictionaries"].items()}  # fmt: skip
        return {"wrote": str(dst), "to": table["to"], "dictionaries": each}
    activations = activations_for(found.open(**settled), model, reading)
    done = convert(found, dst, to, activations=activations, force=force, **settled)
    return {"wrote": str(dst), **done.to_dict()}
