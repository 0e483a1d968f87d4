"""What every verb shares: its options, where progress and results go, and how errors become exit codes.

Results go to standard output, progress and errors to standard error; with ``--json`` both are JSON, one object a line.

    0    done
    1    failed: something given is missing, broken, or does not fit
    2    usage, or a configuration that cannot be meant
    130  interrupted
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from monoscope.core.errors import ConfigError, ElsewhereError, UserError
from monoscope.core.progress import Lines, reporting, silent
from monoscope.core.ranks import rank_and_ranks
from monoscope.core.stores.remote import location

ConfigFile = Annotated[Path, typer.Argument(metavar="CONFIG.toml", show_default=False, help="What to do.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", show_default=False, help="Override a key, as in recipe.function.k=32."),
]
Out = Annotated[
    Any,  # a Location: Typer takes no unions
    typer.Option(
        "--out", metavar="DIR", parser=location, show_default=False, help="Directory to write, or s3://bucket/dir."
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Replace what stands at --out.")]
Resume = Annotated[bool, typer.Option("--resume", help="Continue an interrupted run.")]
Json = Annotated[bool, typer.Option("--json", help="Results and progress as JSON, one object a line.")]


@contextmanager
def session(*, as_json: bool) -> Iterator[None]:
    """Runs the body of a verb: progress in the chosen form, and errors of the user's as a message and an exit code.

    Of several processes the first alone shows progress.
    """
    try:
        with silent() if _rank() else reporting(Lines(as_json=True)) if as_json else nullcontext():
            yield
    except UserError as error:
        if _is_ours_to_say(error):
            _complain(error, as_json=as_json)
        raise typer.Exit(2 if isinstance(error, ConfigError) else 1) from None
    except KeyboardInterrupt as error:
        where = f": {error}; --resume goes on" if str(error) else ""
        if _is_ours_to_say(error):
            _say(f"interrupted{where}")
        raise typer.Exit(130) from None


def _rank() -> int:
    """Number of this process, of those that torchrun started, which share one terminal."""
    try:
        return rank_and_ranks()[0]
    except ConfigError:  # which is for the verb to say
        return 0


def _is_ours_to_say(error: BaseException) -> bool:
    """Whether no other process says it: all are told the same and stop together, of which the first alone speaks."""
    if isinstance(error, ElsewhereError):
        return False
    return _rank() == 0 or not isinstance(error, (ConfigError, KeyboardInterrupt))


def _complain(error: UserError, *, as_json: bool) -> None:
    if as_json:
        _say(json.dumps({"error": type(error).__name__, "message": str(error)}))
    else:
        _say(f"error: {error}")


def _say(line: str) -> None:
    with suppress(OSError):  # nobody sees a terminal that was closed
        print(line, file=sys.stderr)


def show(result: Mapping[str, Any], *, as_json: bool) -> None:
    """Print a result: a line for each entry that is known, tables indented under their name; or one JSON object."""
    print(json.dumps(_finite(result), ensure_ascii=False) if as_json else "\n".join(_lines(result)))


def _lines(table: Mapping[str, Any], indent: str = "") -> Iterator[str]:
    known = {str(key): value for key, value in table.items() if value is not None}
    width = max(map(len, known), default=0)
    for key, value in known.items():
        if isinstance(value, Mapping):
            yield f"{indent}{key}"
            yield from _lines(value, indent + "  ")
        else:
            yield f"{indent}{key:<{width}}  {_text(value)}"


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_text, value))
    return str(value)


def _finite(value: Any) -> Any:
    """The value as JSON may hold it: NaN and infinity become null."""
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)
