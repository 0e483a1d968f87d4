"""One writer at a time in a store that knows no locks: a file that is renewed as long as its process lives.

    DIR/.claim    {"token": "...", "holder": "PID on HOST", "beat": 12}

It is put with the store's own "unless there is one". Who finds one watches it: renewed within ``2 BEAT`` seconds, it is
a living process's, and the second is refused; not renewed, its process is gone, and the second takes it over. On the
machine of the holder a look at its process settles it at once. No two machines' clocks are compared. A process that was
stopped for so long that another took over finds that out at its next renewal, and before each ``check``, and stops:
what it still sends in between are single files, whole, of the same job.
"""

from __future__ import annotations

import json
import os
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread

from monoscope.core.errors import DataError, OutputError
from monoscope.core.io import owned
from monoscope.core.progress import progress
from monoscope.core.stores.remote import CLAIM, Location, Remote

BEAT = 15.0
"""Seconds between two renewals."""
HELD: set[str] = set()
"""Tokens of the claims that this process holds."""


class Claim:
    """A directory of a store that this process writes to."""

    def __init__(self, directory: Remote) -> None:
        self.directory, self.file = directory, directory / CLAIM
        self.token, self.beats = uuid.uuid4().hex, 0

    def body(self) -> bytes:
        """The claim as it stands in the store."""
        holder = f"{os.getpid()} on {socket.gethostname()}"
        return json.dumps({"token": self.token, "holder": holder, "beat": self.beats}).encode()

    def check(self) -> None:
        """Raises OutputError where another process has taken over."""
        found = _read(self.file)
        if found.get("token") != self.token:
            raise OutputError(
                f"{self.directory} was taken over by process {found.get('holder', '?')} while this one stood still"
            )

    def renew(self, stopped: Event) -> None:
        """Renew until told to stop, or taken over."""
        while not stopped.wait(BEAT):
            try:
                self.check()
                self.beats += 1
                self.file.write_bytes(self.body())
            except DataError:  # out of reach for now
                continue
            except OutputError:
                return


@contextmanager
def claimed(directory: Remote) -> Iterator[Claim]:
    """Holds a directory of a store for this process alone. Raises OutputError, naming the holder, if another has it."""
    claim = Claim(directory)
    if not claim.file.create(claim.body()):
        found = _read(claim.file)
        if not _is_gone(found):
            _watch(claim, found)
        claim.file.write_bytes(claim.body())
    claim.check()
    HELD.add(claim.token)
    stopped = Event()
    thread = Thread(target=claim.renew, args=(stopped,), daemon=True, name=f"claim of {directory}")
    thread.start()
    try:
        yield claim
    finally:
        stopped.set()
        thread.join()
        HELD.discard(claim.token)
        if _read(claim.file).get("token") == claim.token:
            claim.file.remove()


@contextmanager
def held(directory: Location) -> Iterator[Claim | None]:
    """Holds a directory, wherever it is, for this process alone."""
    if isinstance(directory, Remote):
        with claimed(directory) as claim:
            yield claim
    else:
        with owned(directory):
            yield None


def _watch(claim: Claim, found: dict[str, str]) -> None:
    """Return once a claim has not been renewed for long enough. Raises OutputError as soon as it is."""
    with progress(f"is process {found.get('holder')} still writing {claim.directory}?", None, "looks") as bar:
        until = time.monotonic() + 2 * BEAT
        while time.monotonic() < until:
            time.sleep(BEAT / 10)
            bar.advance(1)
            now = _read(claim.file)
            if now and now != found:
                raise OutputError(f"{claim.directory} is in use by process {now.get('holder', '?')}")


def _is_gone(found: dict[str, str]) -> bool:
    """Whether a claim's process was on this machine, and is no more."""
    pid, _, host = found.get("holder", "").partition(" on ")
    if host != socket.gethostname() or not pid.isdigit():
        return not found
    if int(pid) == os.getpid():  # as in containers, where every process may be the first
        return found["token"] not in HELD
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def _read(file: Remote) -> dict[str, str]:
    try:
        return json.loads(file.read_bytes())
    except FileNotFoundError:
        return {}
    except ValueError:
        return {"holder": "?"}
