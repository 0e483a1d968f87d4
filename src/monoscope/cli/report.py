"""``monoscope evaluate`` on a configuration that names a suite: how its dictionaries generalize and split."""

from __future__ import annotations

from pathlib import Path

from monoscope.cli.configs import ReportConfig
from monoscope.cli.session import show
from monoscope.core.config import read_toml
from monoscope.core.errors import DataError
from monoscope.core.io import output_directory, write_json, write_text
from monoscope.dictionaries import load
from monoscope.evals.suite_report import suite_report
from monoscope.training.suite import SUITE
from monoscope.training.train import is_complete


def report(settings: ReportConfig, out: Path | None, *, force: bool, as_json: bool) -> None:
    """Measure a finished suite, and write or print the tables."""
    directory = Path(settings.suite)
    if not (directory / SUITE).is_file():
        raise DataError(f"{directory} is no suite: no {SUITE} in it; name what monoscope train wrote for one")
    names = list(read_toml(directory / SUITE)["runs"])
    if missing := [name for name in names if not is_complete(directory / name)]:
        raise DataError(f"{directory} is not finished, {missing[0]} is missing; go on with monoscope train --resume")
    dictionaries = {name: load(directory / name) for name in names}
    settings = settings.as_trained(dictionaries[names[0]])
    lm = settings.language_model()
    settings.check_models(dictionaries[names[0]], {"": lm})
    trained_context = settings.context
    longer = settings.model_copy(update={"context": settings.longer or lm.context_length})
    result = suite_report(
        lm,
        dictionaries,
        longer.windows(lm),
        trained_context=trained_context,
        tuned=settings.tuned_model(),
        threshold=settings.threshold,
        batch=settings.windows_per_batch,
        skip=settings.skip,
    )
    if out is not None:
        with output_directory(out, force=force) as partial:
            write_text(partial / "evaluate.toml", settings.to_toml())
            write_json(partial / "report.json", result.to_dict())
            write_text(partial / "report.md", result.to_markdown())
    if as_json:
        show(result.to_dict(), as_json=True)
    else:
        print(result.to_markdown(), end="")
