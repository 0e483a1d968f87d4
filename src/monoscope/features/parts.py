"""Surveys of the parts of one corpus, each read by a process of its own, kept until the bundle is written.

    OUT.partial/JOB-00000-of-00004/survey.safetensors

Where OUT is in a store, they are kept there, and sent when they are saved; no process needs what another has on its
machine.

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
from monoscope.core.stores.claims import held
from monoscope.core.stores.mirror import nearby
from monoscope.core.stores.remote import CLAIM, Location, Remote, fetched
from monoscope.features.survey import is_complete

SURVEY = "survey.safetensors"


def beside(out: Location) -> Location:
    """The directory of the parts of a bundle."""
    return out.with_name(f"{out.name}.partial") if isinstance(out, Path) else Remote(f"{out}.partial")


class Parts:
    """The parts of one job, ``of`` in number, in a directory."""

    def __init__(self, directory: Location, job: Mapping[str, Any], of: int) -> None:
        self.directory, self.of = directory, of
        self.job = fingerprint(job)[:16]

    def place(self, number: int) -> Location:
        """Where a part is kept."""
        return self.directory / f"{self.job}-{number:05d}-of-{self.of:05d}"

    @contextmanager
    def reading(self, number: int, *, force: bool) -> Iterator[Path]:
        """The file of a part on this machine, which no other process may write meanwhile.

        Raises OutputError where another job was left unfinished, unless ``force``; then it is removed.
        """
        if number == 0:
            self._clear(force=force)
        place = self.place(number)
        if isinstance(place, Remote):
            with nearby(place, resume=True) as here:
                yield here / SURVEY
            return
        try:
            with owned(place):
                yield place / SURVEY
        finally:
            if place.parent.is_dir() and not any(place.parent.iterdir()):
                place.parent.rmdir()

    @contextmanager
    def read(self, number: int) -> Iterator[Path]:
        """The file of a complete part, on this machine for as long as the block lasts."""
        place = self.place(number)
        if isinstance(place, Path):
            yield place / SURVEY
            return
        with fetched(place, [SURVEY]) as here:
            yield here / SURVEY

    def wait(self) -> None:
        """Wait until every part is complete."""
        wait_for(self.of, lambda number: is_complete(self.place(number) / SURVEY))

    def remove(self) -> None:
        """Remove what is of no use once the bundle is there."""
        if self.directory.exists():
            remove(self.directory)

    def _names(self) -> set[str]:
        if isinstance(self.directory, Remote):
            return {name.partition("/")[0] for name in self.directory.sizes() if name.rpartition("/")[2] != CLAIM}
        return {entry.name for entry in self.directory.iterdir()} if self.directory.is_dir() else set()

    def _clear(self, *, force: bool) -> None:
        names = sorted(self._names())
        others = [name for name in names if not (name.startswith(self.job) and name.endswith(f"-of-{self.of:05d}"))]
        if others and not force:
            raise OutputError(
                f"{self.directory} holds an unfinished analysis with another dictionary, source, settings or number of "
                "processes; go on with those, or start over with --force"
            )
        for name in others:
            with held(self.directory / name):
                remove(self.directory / name)
