"""``monoscope convert``: a dictionary, or a feature bundle, in another layout."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from monoscope.cli.session import Force, Json, session, show

Ref = Annotated[
    str,
    typer.Argument(
        metavar="REF",
        show_default=False,
        help="A path, hf://org/repo/path@revision, registry:NAME/PATH, or s3://bucket/path.",
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
    dst: Annotated[
        str,
        typer.Argument(metavar="DST", show_default=False, help="Directory to write, or hf://org/repo/path to publish."),
    ],
    to: Annotated[str, typer.Option("--to", metavar="LAYOUT", show_default=False, help="What to write.")],
    format: Format = None,
    choices: Choose = None,
    model: Model = None,
    reading: Reading = None,
    evaluation: Annotated[
        Path | None,
        typer.Option("--evaluation", metavar="DIR", show_default=False, help="What evaluate kept, for the model card."),
    ] = None,
    public: Annotated[
        bool | None,
        typer.Option("--public/--private", show_default=False, help="Who may see what is published."),
    ] = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Write a dictionary in another library's layout and compare the two, or features in another tool's format.

    All dictionaries of a set are written, each to a directory of its own, or together where the layout takes sets. To
    hf://org/repo, a dictionary is published with a model card.
    """
    with session(as_json=as_json):
        from monoscope.cli.bundles import adopt_bundle, convert_bundle, is_bundle, is_foreign
        from monoscope.cli.references import parse_choices

        if is_bundle(src):
            show(convert_bundle(Path(src), Path(dst), to, parse_choices(choices), force=force), as_json=as_json)
            return
        if is_foreign(src):
            show(adopt_bundle(Path(src), Path(dst), to, force=force), as_json=as_json)
            return
        from monoscope.cli.conversion import Request

        request = Request(src, to, format, choices, model, reading, force=force)
        if dst.startswith("hf://"):
            show(request.published(dst, evaluation, public=public), as_json=as_json)
        else:
            show(request.written(Path(dst)), as_json=as_json)
