"""Whole copies of a workspace: a file of a file, while others go on writing.

Source: sqlite.org/backup.html.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from monoscope.core.errors import DataError
from monoscope.core.io import atomic_path

PAGES = 4096  # copied at a time, so that writers wait little


def backup(path: Path, to: Path) -> int:
    """Copy a SQLite file as it is at one moment; returns the bytes written. Raises DataError if there is none."""
    if not path.is_file():
        raise DataError(f"there is no workspace at {path}")
    with atomic_path(to) as partial:
        partial.unlink(missing_ok=True)
        with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(partial)) as target:
            source.backup(target, pages=PAGES)
            found = target.execute("PRAGMA integrity_check").fetchone()[0]
            if found != "ok":
                raise DataError(f"the copy of {path} is not whole ({found}); nothing was written to {to}")
            target.execute("PRAGMA journal_mode=DELETE")  # one file, without a log beside it
    return to.stat().st_size
