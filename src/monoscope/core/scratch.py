"""Directories for a while, in the system's place for such (``TMPDIR`` says where).

A process that is killed leaves its own behind; the next that needs one removes it. Each lies beside a file whose lock
is held as long as its process lives, and only what has such a file is ever removed.
"""

from __future__ import annotations

import os
import shutil
import time
import weakref
from contextlib import ExitStack, suppress
from pathlib import Path
from tempfile import gettempdir, mkdtemp

from monoscope.core.locks import locked

PREFIX, MARK = "monoscope-", ".scratch"
SETTLING = 60.0  # seconds in which a new one may not hold its lock yet


class Scratch:
    """An empty directory, ``path``, that is removed when the block ends, or with this object.

    with Scratch() as path: ...
    """

    def __init__(self) -> None:
        remove_left_behind()
        place = Path(mkdtemp(prefix=PREFIX))
        self.path = place / "files"
        self.path.mkdir()
        (place / MARK).touch()
        held = ExitStack()
        held.enter_context(locked(place / MARK))
        self._remove = weakref.finalize(self, _remove, place, held)

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, *exc: object) -> None:
        self._remove()


def _remove(place: Path, held: ExitStack) -> None:
    with held:
        shutil.rmtree(place, ignore_errors=True)


def remove_left_behind() -> None:
    """Remove directories of processes of this user that are no more."""
    for mark in Path(gettempdir()).glob(f"{PREFIX}*/{MARK}"):
        with suppress(OSError):
            stat = mark.lstat()
            if stat.st_uid != os.geteuid() or time.time() - stat.st_mtime < SETTLING:
                continue
            with locked(mark) as is_free:
                if is_free:
                    shutil.rmtree(mark.parent, ignore_errors=True)
