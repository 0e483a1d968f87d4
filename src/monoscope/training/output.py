"""Where a run writes: a directory that all its processes see, or one on each machine, which is sent to a store.

A single process sends what is new as it goes (``mirror``). Several send with every checkpoint, and at the end: each
machine what its processes wrote; once all are done, the first process the files that say what is whole (``MARKS``);
then it removes what is needed no more. Killed at any moment, they leave a whole checkpoint, the new one or the one
before.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from monoscope.core.errors import DataError
from monoscope.core.io import LOCK, owned, refuse_existing, remove
from monoscope.core.mesh import Mesh
from monoscope.core.ranks import local_rank_and_ranks
from monoscope.core.scratch import Scratch
from monoscope.core.stores.claims import Claim, claimed
from monoscope.core.stores.mirror import fetch_all, nearby, states
from monoscope.core.stores.remote import CLAIM, MARKS, Location, Remote, location
from monoscope.dictionaries.saved import FILES
from monoscope.parallel.mesh import collect, together

CONFIG = "training.toml"


@dataclass
class Output:
    """The directory of a run.

    keeps: whether this process makes and removes what is in it, for all that see it
    place: where in a store several processes send it
    claim: the first process's, on that place
    """

    directory: Path
    mesh: Mesh
    keeps: bool
    place: Remote | None = None
    claim: Claim | None = None
    sent: dict[str, tuple[int, int]] = field(default_factory=dict)

    def send(self) -> None:
        """Send what several processes wrote since the last time. Raises on all of them what fails on one."""
        if self.place is None:
            return
        found = states(self.directory) if self.keeps else {}
        changed = sorted(name for name, state in found.items() if self.sent.get(name) != state)
        with together(self.mesh):
            if self.claim is not None:
                self.claim.check()
        with together(self.mesh):
            for name in changed:
                if Path(name).name not in MARKS:
                    (self.place / name).put(self.directory / name)
        kept = {name for own in collect(self.mesh, list(found)) for name in own}
        with together(self.mesh):
            if self.mesh.is_first:
                for name in changed:
                    if Path(name).name in MARKS:
                        (self.place / name).put(self.directory / name)
                gone = self.place.sizes().keys() - kept - {CLAIM}
                for name in sorted(gone, key=lambda name: Path(name).name not in MARKS):
                    (self.place / name).remove()
        self.sent = found


@contextmanager
def opened(out: Location | str, mesh: Mesh, *, resume: bool, force: bool) -> Iterator[Output]:
    """Where the processes of a run write, which no other run may meanwhile; with ``resume``, what was written is there.

    Raises OutputError where something is there already, unless ``resume`` or ``force``, and where another run writes;
    DataError where there is nothing to resume.
    """
    place = location(out)
    with ExitStack() as stack:
        if isinstance(place, Path) or mesh.every.size == 1:
            directory = place if isinstance(place, Path) else None
            with together(mesh):
                if mesh.is_first:
                    directory = stack.enter_context(nearby(place, resume=resume, force=force))
                    _open(directory, place, stack, resume=resume, force=force)
            assert directory is not None, "a path is where it is"
            yield Output(directory, mesh, mesh.is_first)
        else:
            yield _on_each_machine(place, mesh, stack, resume=resume, force=force)


def _on_each_machine(place: Remote, mesh: Mesh, stack: ExitStack, *, resume: bool, force: bool) -> Output:
    claim, own, place_on_machine = None, None, local_rank_and_ranks()[0]
    with together(mesh):
        if mesh.is_first:
            if not resume:
                refuse_existing(place, force=force)
            claim = stack.enter_context(claimed(place))
    with together(mesh):
        if place_on_machine == 0:
            own = stack.enter_context(Scratch()) / "run"
            own.mkdir()
            if resume:
                fetch_all(place, own)
    directory = Path(collect(mesh, str(own))[mesh.every.number - place_on_machine])
    sent = states(directory) if own is not None else {}
    with together(mesh):
        if mesh.is_first:
            _open(directory, place, stack, resume=resume, force=force)
    return Output(directory, mesh, own is not None, place, claim, sent)


def _open(directory: Path, place: Location, stack: ExitStack, *, resume: bool, force: bool) -> None:
    if resume and not any((directory / name).exists() for name in (LOCK, CONFIG, *FILES)):
        raise DataError(f"nothing to resume: no run was begun in {place}")
    open_output(directory, stack, resume=resume, force=force)


def open_output(directory: Path, stack: ExitStack, *, resume: bool, force: bool) -> None:
    """Make a directory this process's alone, until the stack is closed; without ``resume`` it is empty then.

    What a killed process had begun to write there is removed.
    """
    if not resume:
        refuse_existing(directory, force=force)
    stack.enter_context(owned(directory))
    if force and not resume:
        for entry in directory.iterdir():
            if entry.name != LOCK:
                remove(entry)
    for entry in directory.rglob(".*.partial"):
        remove(entry)
