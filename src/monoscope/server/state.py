"""What all routes share: settings, library, tables, workspace, threads, and whether the end has come."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated

from fastapi import Depends, Request
from fastapi import Path as PathOf

from monoscope.core.errors import UserError
from monoscope.server.desk import Desk
from monoscope.server.finder import Finder, index_directory
from monoscope.server.jobs.sample import sample_of
from monoscope.server.jobs.service import Jobs
from monoscope.server.jobs.tables import Tables, directory_of
from monoscope.server.library.library import Entry, Library
from monoscope.server.live.service import Live
from monoscope.server.pool import Pool, Stop
from monoscope.server.problems import ProblemError, shown
from monoscope.server.settings import Settings
from monoscope.server.shipped import labels_of
from monoscope.server.table.added import Added, AddedRow
from monoscope.server.table.tables import Database
from monoscope.server.wire.base import SLUG
from monoscope.server.worker.client import Worker

WARM = 3  # dictionaries read before anybody asks
PATIENCE = 1.0  # seconds after the start in which a first page comes before getting ready for the next


@dataclass
class State:
    """See above.

    stopping: set when the server is asked to end: streams then finish with a last event
    shown: set when the library was shown for the first time
    """

    settings: Settings
    library: Library
    database: Database
    pool: Pool
    worker: Worker
    desk: Desk
    stopping: threading.Event = field(default_factory=threading.Event)
    shown: threading.Event = field(default_factory=threading.Event)
    _shipped: dict[str, dict[int, AddedRow]] = field(default_factory=dict)
    _added: dict[str, tuple[Added, Added]] = field(default_factory=dict)

    @cached_property
    def live(self) -> Live:
        """Requests that run a model while somebody waits."""
        return Live(self.library, self.worker, labels=self.labels, most_characters=self.settings.max_prompt)

    @cached_property
    def jobs(self) -> Jobs:
        """Long work, of the workspace's queue."""
        tables = Tables(directory_of(self.desk.where))
        return Jobs(self.live, lambda: self.desk.workspace.jobs, tables, self.sample)

    @cached_property
    def sample(self) -> Path:
        """Where the sample is kept."""
        return sample_of(self.desk.where)

    @cached_property
    def finder(self) -> Finder:
        """Search over the library."""
        return Finder(self.library, self.desk, self.settings.embedder, index_directory(self.desk.where))

    def entry(self, id: str) -> Entry:
        """The bundle of an id. Raises ProblemError: 404 if there is none, 409 if it cannot be read."""
        found = self.library.entry(id)
        if found is None:
            known = [entry.id for entry in self.library.entries]
            raise ProblemError(
                404, f"the library has no dictionary {shown(id)!r}", found=shown(id), expected=known[:20]
            )
        if not isinstance(found, Entry):
            raise ProblemError(409, found.problem, found=id)
        return found

    def feature_of(self, id: str, feature: int) -> Entry:
        """The bundle of an id, which has this feature. Raises ProblemError."""
        entry = self.entry(id)
        if not 0 <= feature < entry.n_features:
            last = entry.n_features - 1
            raise ProblemError(404, f"{id} has no feature {feature}", found=feature, expected=f"0 to {last}")
        return entry

    def warm(self) -> None:
        """Do once what later requests would wait for: load libraries, read columns. The first page comes first."""
        self.shown.wait(PATIENCE)
        if self.stopping.is_set():
            return
        with suppress(ProblemError):
            _ = self.desk.workspace
        for entry in self.library.entries[:WARM]:
            if self.stopping.is_set():
                return
            with suppress(UserError, ProblemError):
                self.added(entry)
                table = self.database.table(entry.bundle)
                table.order(table.question("", "-density"), Added(), Stop())

    def added(self, entry: Entry) -> Added:
        """What people added to the features of a bundle, over what came with it."""
        now = self.desk.added(entry.dictionary_fp)
        if entry.id not in self._shipped:
            self._shipped[entry.id] = labels_of(entry.bundle)
        shipped = self._shipped[entry.id]
        if not shipped:
            return now
        kept = self._added.get(entry.id)
        if kept is None or kept[0] is not now:
            kept = self._added[entry.id] = (now, now.over(shipped))
        return kept[1]

    def labels(self, id: str, features: Sequence[int]) -> dict[int, str]:
        """The lines shown for some features."""
        rows = self.added(self.entry(id)).rows
        return {feature: label for feature in features if (row := rows.get(feature)) and (label := row.label)}

    def id_of(self, dictionary_fp: str) -> str | None:
        """The library's first bundle of a dictionary."""
        return next((entry.id for entry in self.library.entries_of(dictionary_fp)), None)


def state_of(request: Request) -> State:
    """The state of the application that answers a request."""
    return request.app.state.monoscope


StateDep = Annotated[State, Depends(state_of)]
DictId = Annotated[str, PathOf(pattern=SLUG, description="A dictionary of the library.")]
FeatureId = Annotated[int, PathOf(ge=0, le=2**31 - 1, description="Number of the feature.")]


def entry_of(state: StateDep, dict: DictId) -> Entry:
    """The bundle that an address names."""
    return state.entry(dict)


EntryDep = Annotated[Entry, Depends(entry_of)]
