"""The settings a run was started with, and in what two runs differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from monoscope.core.config import read_toml
from monoscope.core.errors import UserError
from monoscope.server.wire.runs import Difference

TRAINING, SUITE = "training.toml", "suite.toml"
MOST_BYTES, MOST_DIFFERENCES = 4_000_000, 2000
ABSENT = object()


def settings_of(run: Path) -> dict[str, Any]:
    """The table of a run: its own, or its part of those of the pass or suite that it belongs to; {} without one."""
    own = _table(run / TRAINING) or _table(run / SUITE)
    if own:
        return _only(own)
    for parent in (_table(run.parent / TRAINING), _table(run.parent / SUITE)):
        runs = parent.get("runs", {})
        if isinstance(runs, Mapping) and isinstance(runs.get(run.name), Mapping):
            return {"source": parent.get("source", {}), **runs[run.name]}
    return {}


def differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> tuple[list[Difference], int]:
    """Settings that differ, by dotted key, and the number of those that do not."""
    left, right = dict(_flat(a)), dict(_flat(b))
    keys = sorted({*left, *right})
    differing = [key for key in keys if left.get(key, ABSENT) != right.get(key, ABSENT)]
    found = [Difference(key=key, a=left.get(key), b=right.get(key)) for key in differing[:MOST_DIFFERENCES]]
    return found, len(keys) - len(differing)


def _only(table: dict[str, Any]) -> dict[str, Any]:
    """The table of a single run without the name it does not have."""
    runs = table.get("runs")
    if isinstance(runs, Mapping) and len(runs) == 1 and isinstance(one := next(iter(runs.values())), Mapping):
        return {**{key: value for key, value in table.items() if key != "runs"}, **one}
    return table


def _table(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MOST_BYTES:
            return {}
        return _plain(read_toml(path))
    except (UserError, OSError, RecursionError):
        return {}


def _plain(value: Any) -> Any:
    """As JSON can hold it: TOML also knows dates, and numbers that are not finite."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, float) and value - value != 0:
        return str(value)
    return value if isinstance(value, (bool, int, float, str)) else str(value)


def _flat(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
