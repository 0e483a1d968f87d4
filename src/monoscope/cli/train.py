"""``monoscope train``: dictionaries of activations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from monoscope.cli.session import ConfigFile, Force, Json, Out, Overrides, Resume, session, show
from monoscope.core.stores.remote import Location


def train(
    config: ConfigFile,
    out: Out,
    overrides: Overrides = None,
    force: Force = False,
    resume: Resume = False,
    as_json: Json = False,
) -> None:
    """Train a dictionary, a sweep, or a suite of them, on stored activations or on a model as it reads.

    Under torchrun all processes train together: set parallel.features for how many share a dictionary's features.
    Restarted by it, they go on from the last checkpoint.
    """
    with session(as_json=as_json):
        from monoscope import training
        from monoscope.cli import memory
        from monoscope.cli.configs import TrainConfig
        from monoscope.core.errors import ConfigError
        from monoscope.core.io import refuse_existing
        from monoscope.core.ranks import is_restarted, rank_and_ranks

        resume = resume or (is_restarted() and _was_begun(out))
        settings = TrainConfig.load(config, overrides or ())
        rank, ranks = rank_and_ranks()
        if settings.suite is not None:
            if ranks > 1:
                raise ConfigError("a suite is trained and measured by one process; start it without torchrun")
            from monoscope.cli.suite import train_and_measure

            train_and_measure(settings, out, resume=resume, force=force, as_json=as_json)
            return
        runs = settings.runs()
        if not resume and rank == 0:
            refuse_existing(out, force=force)
        source, lm = settings.open()
        memory.check(settings, lambda s: memory.of_training(s, lm, source), memory.TRAIN, as_json=as_json)
        with settings.sharing(lm, source.sites):
            training.train(
                [run.recipe for run in runs.values()],
                source,
                reads=[run.reads for run in runs.values()],
                writes=[run.writes for run in runs.values()],
                training=[run.training for run in runs.values()],
                names=list(runs),
                lm=lm,
                out=out,
                resume=resume,
                force=force,
                parallel=settings.parallel,
            )
        if rank == 0:
            show({"dictionaries": {str(out / name): summary(out / name) for name in runs}}, as_json=as_json)


def _was_begun(out: Location) -> bool:
    from monoscope.core.io import LOCK
    from monoscope.core.stores.remote import CLAIM

    return (out / LOCK).exists() if isinstance(out, Path) else bool(out.sizes().keys() - {CLAIM})


def summary(directory: Location) -> dict[str, Any]:
    """How a finished run ended: the last row of its log, and how many steps were left out, where any were."""
    from monoscope.training.log import METRICS, read_log

    rows = read_log(directory / METRICS)
    wanted = ("tokens", "fvu", "l0", "dead", "tokens_per_s")
    measured = [row for row in rows if "fvu" in row]
    skipped = [row["skipped"] for row in rows if "skipped" in row]
    ended = {name: measured[-1][name] for name in wanted} if measured else {}
    return ended | ({"skipped": skipped[-1]} if skipped else {})
