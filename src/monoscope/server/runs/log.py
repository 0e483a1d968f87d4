"""The log of a run, ``metrics.jsonl``, read in whole lines from any place on, and thinned into curves.

A run of several dictionaries has a log for each, in a directory of its name.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monoscope.server.wire.runs import Curve

METRICS = "metrics.jsonl"
MOST_LOGS, MOST_BYTES, MOST_LINE = 256, 2**27, 2**20
AXES = ("step", "tokens")  # columns that are no curves

Row = dict[str, float | None]


@dataclass(frozen=True, slots=True)
class Part:
    """Rows of a log, and the byte behind the last of them. ``is_new``: the log is not the one that was read before."""

    rows: list[Row]
    end: int
    is_new: bool = False


def logs_of(run: Path) -> dict[str, Path]:
    """The logs of a run by the name of their dictionary; a single one has the name ""."""
    if (run / METRICS).is_file():
        return {"": run / METRICS}
    found = sorted(path for path in run.glob(f"*/{METRICS}") if path.is_file() and not path.is_symlink())
    return {path.parent.name: path for path in found[:MOST_LOGS]}


def read(path: Path, start: int = 0) -> Part:
    """Rows behind a byte; at most 128 MB of them. A start that is no line's is taken for another log's."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            is_new = start > size or (start > 0 and not _is_boundary(file, start))
            start = 0 if is_new else start
            file.seek(start)
            data = file.read(min(size - start, MOST_BYTES))
    except OSError:
        return Part([], 0, is_new=start > 0)
    whole = data.rfind(b"\n") + 1
    rows = [row for line in data[:whole].splitlines() if (row := _row(line)) is not None]
    return Part(rows, start + whole, is_new)


def curves(rows: Sequence[Row], most: int) -> dict[str, Curve]:
    """Every column by step, at most ``most`` points each: of each bucket of rows the lowest and the highest value."""
    names = dict.fromkeys(name for row in rows for name in row if name not in AXES)
    return {name: _thinned([(row.get("step"), row.get(name)) for row in rows if name in row], most) for name in names}


def _thinned(points: list[tuple[Any, float | None]], most: int) -> Curve:
    points = [(step, value) for step, value in points if isinstance(step, (int, float)) and math.isfinite(step)]
    if len(points) > most:
        size = math.ceil(len(points) / max(1, most // 2))
        kept: list[tuple[Any, float | None]] = []
        for first in range(0, len(points), size):
            bucket = points[first : first + size]
            known = [i for i, (_, value) in enumerate(bucket) if value is not None]
            if known:
                ends = {min(known, key=lambda i: bucket[i][1] or 0.0), max(known, key=lambda i: bucket[i][1] or 0.0)}
                kept += [bucket[i] for i in sorted(ends)]
        points = kept
    return Curve(step=[int(step) for step, _ in points], value=[value for _, value in points])


def _row(line: bytes) -> Row | None:
    """A row's numbers; None for a line that is none, such as one that a kill cut short."""
    if len(line) > MOST_LINE:
        return None
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict):
        return None
    return {
        str(name): float(value) if math.isfinite(value) else None
        for name, value in row.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool)
    }


def _is_boundary(file: Any, place: int) -> bool:
    file.seek(place - 1)
    return file.read(1) == b"\n"
