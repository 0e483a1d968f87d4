"""The command line: one verb, one file. Verbs import what is heavy when they run, so that help answers at once."""

from __future__ import annotations

from typing import Annotated

import typer

import monoscope
from monoscope.cli.analyze import analyze
from monoscope.cli.convert import convert
from monoscope.cli.db import db
from monoscope.cli.demo import demo
from monoscope.cli.evaluate import evaluate
from monoscope.cli.harvest import harvest
from monoscope.cli.info import info
from monoscope.cli.registry import registry
from monoscope.cli.serve import serve
from monoscope.cli.train import train

app = typer.Typer(
    name="monoscope",
    help="Takes a language model apart into features people can read.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for verb in (harvest, train, analyze, evaluate, convert, demo, serve, info):
    app.command()(verb)
app.add_typer(db)
app.add_typer(registry)


def _version(wanted: bool) -> bool:
    if wanted:
        print(f"monoscope {monoscope.__version__}")
        raise typer.Exit
    return wanted


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Takes a language model apart into features people can read."""


def main() -> None:
    """Entry point of the command ``monoscope``."""
    app()
