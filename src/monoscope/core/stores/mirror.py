"""Outputs of a run in a store: written on this machine, and sent there as they come.

    with nearby("s3://bucket/run", resume=resume) as directory: ...

Every ``EVERY`` seconds, and at the end, however it comes, what changed in the directory is sent, and then what is gone
from it is removed. What is sent is a snapshot of hard links, so that a file that is replaced meanwhile is sent whole.
A run that was killed goes on, on any machine, from what had been sent.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event, Thread

from monoscope.core.errors import OutputError
from monoscope.core.io import LOCK, is_partial, refuse_existing
from monoscope.core.scratch import Scratch
from monoscope.core.stores.claims import Claim, claimed
from monoscope.core.stores.remote import CLAIM, Location, Remote, send

log = logging.getLogger("monoscope.mirror")

EVERY = 20.0
"""Seconds between two looks at what is new."""


class Mirror:
    """A directory on this machine, and its place in a store."""

    def __init__(self, directory: Path, place: Remote, claim: Claim) -> None:
        self.directory, self.place, self.claim = directory, place, claim
        self.sent: dict[str, tuple[int, int]] = {}

    def send(self) -> None:
        """Send what is new. Raises OutputError where the store does not take it, or another process took over."""
        with TemporaryDirectory(prefix=".snapshot-", dir=self.directory.parent) as place:
            snapshot = Path(place)
            while not self._link(snapshot):  # a file went meanwhile: another took its place
                pass
            found = states(snapshot)
            changed = [name for name, state in found.items() if self.sent.get(name) != state]
            if changed or self.sent.keys() - found.keys():
                self.claim.check()
                send(snapshot, self.place, changed)
                self.sent = found

    def keep_sending(self, stopped: Event) -> None:
        """Send what is new from time to time; what fails is tried again."""
        while not stopped.wait(EVERY):
            try:
                self.send()
            except OutputError as error:
                log.warning("%s; tried again in %d s", error, EVERY)

    def _link(self, snapshot: Path) -> bool:
        """Give every file a second name below ``snapshot``; whether none was gone when its turn came."""
        for name in states(self.directory):
            link = snapshot / name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.unlink(missing_ok=True)
            try:
                os.link(self.directory / name, link)
            except FileNotFoundError:
                return False
        return True


def states(directory: Path) -> dict[str, tuple[int, int]]:
    """When files below a directory that are a run's were written, and their bytes, by their paths from there."""
    found = {}
    for path in directory.rglob("*"):
        inside = path.relative_to(directory)
        if inside.name != LOCK and not any(is_partial(Path(part)) for part in inside.parts):
            try:
                if path.is_file():
                    stat = path.stat()
                    found[inside.as_posix()] = (stat.st_mtime_ns, stat.st_size)
            except FileNotFoundError:
                continue
    return found


def fetch_all(place: Remote, directory: Path) -> None:
    """Copy all files of a run in a store to a directory on this machine."""
    for name in place.sizes().keys() - {CLAIM}:
        (place / name).fetch(directory / name)


@contextmanager
def nearby(out: Location, *, resume: bool = False, force: bool = False) -> Iterator[Path]:
    """Where a run writes: the directory itself, or, for a place in a store, one on this machine that is sent there.

    With ``resume``, what is in the store is fetched first. Raises OutputError where something is there already, unless
    ``resume`` or ``force``, and where another process writes there.
    """
    if isinstance(out, Path):
        yield out
        return
    if not resume:
        refuse_existing(out, force=force)
    with claimed(out) as claim, Scratch() as place:
        directory = place / "run"
        directory.mkdir()
        mirror, stopped = Mirror(directory, out, claim), Event()
        if resume:
            fetch_all(out, directory)
            mirror.sent = states(directory)
        sender = Thread(target=mirror.keep_sending, args=(stopped,), daemon=True, name=f"mirror of {out}")
        sender.start()
        try:
            yield directory
        finally:
            stopped.set()
            sender.join()
            mirror.send()
