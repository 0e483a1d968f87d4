"""``monoscope train`` on a configuration with a table ``[suite]``: train all of it, then measure. Heavy to import."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from monoscope.cli.configs import TrainConfig
from monoscope.cli.session import show
from monoscope.core.io import refuse_existing
from monoscope.core.stores.mirror import nearby
from monoscope.core.stores.remote import Location
from monoscope.evals.suite import COLUMNS, evaluate_suite, markdown
from monoscope.training.memory import Pass
from monoscope.training.suite import SUITE, train_suite


def train_and_measure(settings: TrainConfig, out: Location, *, resume: bool, force: bool, as_json: bool) -> None:
    """Every dictionary of a suite, and the table of what each is worth on held-out text."""
    suite = settings.suite
    assert suite is not None, "the verb asks for this where a suite is configured"
    held_out = settings.held_out()
    if not (resume and (out / SUITE).is_file()):
        refuse_existing(out, force=force)
    lm = settings.language_model()
    runs = suite.runs(settings.recipe, settings.training, lm)
    text = settings.mixed({"": lm}, settings.training.seed)
    measured = held_out.windows(lm, context=settings.context, bos=settings.bos, tokens=suite.held_out_tokens)
    with nearby(out, resume=resume, force=force) as directory:
        train_suite(
            runs,
            lambda sites: settings.reading().source({"": lm}, text, sites),
            lm,
            directory,
            memory=suite.memory,
            resume=resume,
            force=force,
            announce=_announce,
        )
        batch = settings.windows_per_batch
        table = evaluate_suite(directory, list(runs), lm, measured, batch=batch, skip=settings.skip)
    if as_json:
        show({"dictionaries": {str(out / name): row for name, row in table.items()}}, as_json=True)
    else:
        print(markdown(table, COLUMNS), end="")


def _announce(passes: Sequence[Pass], finished: int) -> None:
    """Say on standard error what is going to be trained."""
    total = sum(len(one.names) for one in passes)
    kept = f", {finished} finished" if finished else ""
    times = "1 pass" if len(passes) == 1 else f"{len(passes)} passes"
    print(f"{total} dictionaries to train in {times} over the model{kept}", file=sys.stderr)
    for number, one in enumerate(passes, start=1):
        names = ", ".join(one.names)
        print(f"  pass {number}, about {one.bytes / 1e9:.1f} GB of memory: {names}", file=sys.stderr)
