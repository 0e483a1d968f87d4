"""``monoscope evaluate``: what a dictionary is worth."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from monoscope.cli.session import ConfigFile, Force, Json, Overrides, session, show


def evaluate(
    config: ConfigFile,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", show_default=False, help="Directory to keep the result in.")
    ] = None,
    overrides: Overrides = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Measure a dictionary or a suite on held-out text: fidelity, sparsity, and what splicing it in costs the model."""
    with session(as_json=as_json):
        from monoscope import evals
        from monoscope.cli.configs import EvaluateConfig, ReportConfig
        from monoscope.cli.references import suspicions
        from monoscope.core.config import override, read_toml
        from monoscope.core.io import output_directory, refuse_existing, write_json, write_text
        from monoscope.formats import load

        table = override(read_toml(config), overrides or ())
        if out is not None:
            refuse_existing(out, force=force)
        if "suite" in table:
            from monoscope.cli.report import report

            report(ReportConfig.from_dict(table), out, force=force, as_json=as_json)
            return
        settings = EvaluateConfig.from_dict(table)
        dictionary = load(settings.dictionary)
        settings = settings.as_trained(dictionary)
        lms = settings.language_models()
        settings.check_models(dictionary, lms)
        windows = settings.windows(next(iter(lms.values())))
        labels = dict.fromkeys(site.model for site in dictionary.writes)
        results = {
            label: evals.evaluate(
                lms, dictionary, windows, batch=settings.windows_per_batch, skip=settings.skip, model=label
            )
            for label in labels
        }
        tables = {label: result.to_dict() for label, result in results.items()}
        warnings = [words for result in results.values() for words in suspicions(dictionary, result)]
        table = next(iter(tables.values())) if len(tables) == 1 else {"models": tables}
        table |= {"warnings": warnings} if warnings else {}
        if out is not None:
            with output_directory(out, force=force) as partial:
                write_text(partial / "evaluate.toml", settings.to_toml())
                write_json(partial / "evaluation.json", table)
        if as_json:
            show(table, as_json=True)
        else:
            print(*results.values(), sep="\n")
            for words in warnings:
                print(f"warning: {words}", file=sys.stderr)
