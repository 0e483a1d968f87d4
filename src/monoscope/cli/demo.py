"""``monoscope demo``: from the bundled model to a page of its features."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from monoscope.cli.session import Force, Json, session, show


def demo(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Directory to write.")] = Path("runs/demo"),
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Train, measure and show a dictionary of the bundled model: no download, no GPU, a few minutes."""
    with session(as_json=as_json):
        from monoscope.demo.run import run

        show(run(out, force=force), as_json=as_json)
