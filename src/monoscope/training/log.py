"""The log of a run: one JSON object per line, in ``metrics.jsonl`` beside the dictionary."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from monoscope.core.io import sync, write_text, writing
from monoscope.core.stores.remote import Location

METRICS = "metrics.jsonl"


class Log:
    """Appends rows; after a resume, rows later than the checkpoint are dropped, since their steps are run again."""

    def __init__(self, directory: Path | None, *, after_step: int = 0) -> None:
        self.path = None if directory is None else directory / METRICS
        if self.path is not None and self.path.exists():
            kept = [row for row in read_log(self.path) if row["step"] <= after_step]
            write_text(self.path, "".join(json.dumps(row) + "\n" for row in kept))

    def write(self, row: dict[str, Any]) -> None:
        """Append one row."""
        if self.path is not None:
            with writing(self.path), self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")


def sync_log(directory: Path) -> None:
    """Put the log in a directory on disk: a checkpoint must not outlast the rows before it."""
    if (path := directory / METRICS).exists():
        sync(path)


def read_log(path: Location) -> list[dict[str, Any]]:
    """Rows of a log; a last line cut short by a kill is left out."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows
