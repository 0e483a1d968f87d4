"""``monoscope train``: dictionaries of activations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from monoscope.cli.session import ConfigFile, Force, Json, Out, Overrides, Resume, session, show


def train(
    config: ConfigFile,
    out: Out,
    overrides: Overrides = None,
    force: Force = False,
    resume: Resume = False,
    as_json: Json = False,
) -> None:
    """Train a dictionary, or a sweep of them in one pass, on stored activations or on a model as it reads."""
    with session(as_json=as_json):
        from monoscope import training
        from monoscope.cli.configs import TrainConfig
        from monoscope.core.io import refuse_existing

        settings = TrainConfig.load(config, overrides or ())
        runs = settings.runs()
        if not resume:
            refuse_existing(out, force=force)
        source = settings.open()
        reads, writes = settings.sites()
        common: dict[str, Any] = {"out": out, "resume": resume, "force": force}
        common |= {"reads": reads or None, "writes": writes or None}
        if runs:
            recipes, trainings = zip(*runs.values(), strict=True)
            training.train(list(recipes), source, training=list(trainings), names=list(runs), **common)
        else:
            training.train(settings.recipe, source, training=settings.training, **common)
        show({"dictionaries": {str(out / name): summary(out / name) for name in runs or [""]}}, as_json=as_json)


def summary(directory: Path) -> dict[str, Any]:
    """How a finished run ended: the last row of its log."""
    from monoscope.training.log import METRICS, read_log

    rows = read_log(directory / METRICS)
    wanted = ("tokens", "fvu", "l0", "dead", "tokens_per_s")
    return {name: rows[-1][name] for name in wanted} if rows else {}
