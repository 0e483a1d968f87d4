"""Surveys of the parts of one corpus, each read by a process of its own, on disk until the bundle is written.

    OUT.partial/JOB-00000-of-00004/survey.safetensors

JOB stands for dictionary, source and settings, so that what another job left there is never taken for this one's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from monoscope.core.errors import OutputError
from monoscope.core.io import fingerprint, owned, remove
from monoscope.core.ranks import wait_for
from monoscope.features.survey import is_complete


def beside(out: Path) -> Path:
    """The directory of the parts of a bundle."""
    return out.with_name(f"{out.name}.partial")


class Parts:
    """The parts of one job, ``of`` in number, in a directory."""

    def __init__(self, directory: Path, job: Mapping[str, Any], of: int) -> None:
        self.directory, self.of = directory, of
        self.job = fingerprint(job)[:16]

    def path(self, number: int) -> Path:
        """File of the survey of a part."""
        return self.directory / f"{self.job}-{number:05d}-of-{self.of:05d}" / "survey.safetensors"

    @contextmanager
    def reading(self, number: int, *, force: bool) -> Iterator[Path]:
        """The file of a part, which no other process may write meanwhile.

        Raises OutputError where another job was left unfinished, unless ``force``; then it is removed.
        """
        if number == 0:
            self._clear(force=force)
        try:
            with owned(self.path(number).parent):
                yield self.path(number)
        finally:
            if self.directory.is_dir() and not any(self.directory.iterdir()):
                self.directory.rmdir()

    def wait(self) -> None:
        """Wait until every part is complete."""
        wait_for(self.of, lambda number: is_complete(self.path(number)))

    def remove(self) -> None:
        """Remove what is of no use once the bundle is there."""
        if self.directory.exists():
            remove(self.directory)

    def _clear(self, *, force: bool) -> None:
        names = [entry.name for entry in self.directory.iterdir()] if self.directory.is_dir() else []
        others = [name for name in names if not (name.startswith(self.job) and name.endswith(f"-of-{self.of:05d}"))]
        if others and not force:
            raise OutputError(
                f"{self.directory} holds an unfinished analysis with another dictionary, source, settings or number of "
                "processes; go on with those, or start over with --force"
            )
        for name in others:
            with owned(self.directory / name):
                remove(self.directory / name)
