"""The queue of jobs: what the server asks for, and one or more workers do.

    queued -> running -> done | failed | cancelled          running -> queued where a worker's heartbeat stops

A worker takes the oldest queued job by ``UPDATE ... WHERE state = 'queued'``, so that two never take the same, and
gets a ``claim``. Whatever it writes names that claim: a worker that was given up for dead and comes back writes
nothing, and learns of it by LostError. Events are numbered 1, 2, 3 ... in the order they become visible.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

from sqlalchemy import Update, or_, select, update
from sqlalchemy.orm import Session

from monoscope.core.errors import DataError, UserError
from monoscope.features.workspace.errors import MissingError
from monoscope.features.workspace.job_records import Job, JobDraft, JobEvent
from monoscope.features.workspace.store import Database, now
from monoscope.features.workspace.tables import JobEventRow, JobRow
from monoscope.features.workspace.ulid import ulid

STALE = timedelta(seconds=30)
ATTEMPTS = 3
ENDED = frozenset({"done", "failed", "cancelled"})


class LostError(UserError):
    """A job that is no longer this worker's."""


class JobQueue:
    """Jobs of a workspace."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def enqueue(self, draft: JobDraft) -> Job:
        """A new job, at the end of the queue."""
        time = now()
        row = JobRow(
            id=ulid(), version=1, created=time, updated=time, author=self.database.author,
            kind=draft.kind, config=draft.config, state="queued", attempt=0, cancelling=False, n_events=0,
        )  # fmt: skip
        with self.database.writing() as session:
            session.add(row)
            session.flush()
            self._event(session, row.id, "state", {"state": "queued"})
            return self._job(session, row.id)

    def get(self, id: str) -> Job:
        """The job of an id. Raises MissingError."""
        with self.database.reading() as session:
            return self._job(session, id)

    def page(self, *, state: str | None = None, kind: str | None = None, limit: int = 100) -> list[Job]:
        """The latest jobs, newest first; at most 1,000."""
        statement = select(JobRow).where(JobRow.deleted.is_(None)).order_by(JobRow.id.desc())
        if state is not None:
            statement = statement.where(JobRow.state == state)
        if kind is not None:
            statement = statement.where(JobRow.kind == kind)
        with self.database.reading() as session:
            return [Job.model_validate(row) for row in session.scalars(statement.limit(max(1, min(limit, 1000))))]

    def cancel(self, id: str) -> Job:
        """Take a job out of the queue; a running one is asked to stop, and is cancelled when its worker says so."""
        with self.database.writing() as session:
            job = self._job(session, id)
            if job.state in ENDED:
                return job
            time = now()
            mine = update(JobRow).where(JobRow.id == id)
            waiting = mine.where(JobRow.state == "queued").values(state="cancelled", finished=time, updated=time)
            if self._change(session, waiting):
                self._event(session, id, "state", {"state": "cancelled"})
            elif self._change(session, mine.where(JobRow.state == "running").values(cancelling=True, updated=time)):
                self._event(session, id, "state", {"state": "running", "cancelling": True})
            return self._job(session, id)

    def claim(self, kinds: Iterable[str] | None = None) -> Job | None:
        """Take the oldest queued job, of these kinds, for this process; None when none waits."""
        wanted = None if kinds is None else sorted(kinds)
        oldest = select(JobRow.id).where(JobRow.state == "queued", JobRow.deleted.is_(None)).order_by(JobRow.id)
        if wanted is not None:
            oldest = oldest.where(JobRow.kind.in_(wanted))
        with self.database.reading() as session:
            if session.scalar(oldest.limit(1)) is None:  # asked often: a look costs no lock
                return None
        while True:
            with self.database.writing() as session:
                id = session.scalar(oldest.limit(1))
                if id is None:
                    return None
                time = now()
                taken = (
                    update(JobRow)
                    .where(JobRow.id == id, JobRow.state == "queued")
                    .values(
                        state="running", claim=ulid(), pid=os.getpid(), attempt=JobRow.attempt + 1,
                        heartbeat=time, started=time, updated=time, progress=None,
                    )
                )  # fmt: skip
                if self._change(session, taken):
                    self._event(session, id, "state", {"state": "running", "pid": os.getpid()})
                    return self._job(session, id)

    def beat(self, job: Job, progress: dict[str, Any] | None = None) -> bool:
        """Say that a claimed job goes on; returns whether it was asked to stop. Raises LostError if it is another's."""
        with self.database.writing() as session:
            values: dict[str, Any] = {"heartbeat": now()} | ({} if progress is None else {"progress": progress})
            self._held(session, job, values)
            return bool(session.scalar(select(JobRow.cancelling).where(JobRow.id == job.id)))

    def log(self, job: Job, level: str, body: dict[str, Any]) -> int:
        """Add an event to a claimed job; returns its sequence number. Raises LostError if it is another's."""
        with self.database.writing() as session:
            self._held(session, job, {"heartbeat": now()})
            return self._event(session, job.id, level, body)

    def finish(
        self, job: Job, state: str = "done", *, result: dict[str, Any] | None = None, error: str | None = None
    ) -> Job:
        """End a claimed job: done, failed or cancelled. Raises LostError if it is another's."""
        if state not in ENDED:
            raise DataError(f"a job ends as one of {', '.join(sorted(ENDED))}; found {state!r}")
        with self.database.writing() as session:
            time = now()
            ended = {"state": state, "result": result, "error": error, "finished": time, "heartbeat": time}
            self._held(session, job, {**ended, "cancelling": False})
            self._event(session, job.id, "state", {"state": state} | ({} if error is None else {"error": error}))
            return self._job(session, job.id)

    def give_back(self, job: Job) -> None:
        """Put a claimed job back in the queue, as when its worker stops in an orderly way."""
        with self.database.writing() as session:
            self._held(session, job, {"state": "queued", "claim": None, "pid": None, "attempt": JobRow.attempt - 1})
            self._event(session, job.id, "state", {"state": "queued"})

    def recover(self, stale: timedelta = STALE) -> list[Job]:
        """Return jobs whose worker has been silent for ``stale`` to the queue; at the third time they have failed."""
        recovered = []
        with self.database.writing() as session:
            silent = or_(JobRow.heartbeat < now() - stale, JobRow.heartbeat.is_(None))
            rows = session.execute(
                select(JobRow.id, JobRow.claim, JobRow.attempt, JobRow.cancelling)
                .where(JobRow.state == "running", silent)
                .order_by(JobRow.id)
            ).all()
            for id, claim, attempt, cancelling in rows:
                state = "cancelled" if cancelling else "queued" if attempt < ATTEMPTS else "failed"
                values: dict[str, Any] = {"state": state, "claim": None, "pid": None, "updated": now()}
                if state != "queued":
                    values |= {"finished": now(), "cancelling": False}
                if state == "failed":
                    values["error"] = f"its worker stopped without a word, {attempt} times"
                lost = update(JobRow).where(JobRow.id == id, JobRow.claim == claim, JobRow.state == "running", silent)
                if self._change(session, lost.values(values)):
                    self._event(session, id, "state", {"state": state, "lost": True})
                    recovered.append(self._job(session, id))
        return recovered

    def events(self, id: str, *, after: int = 0, limit: int = 1000, progress: bool = True) -> list[JobEvent]:
        """Events of a job past the sequence number ``after``, in order, with or without progress; at most 1,000."""
        statement = select(JobEventRow).where(JobEventRow.job_id == id, JobEventRow.seq > after)
        if not progress:
            statement = statement.where(JobEventRow.level != "progress")
        statement = statement.order_by(JobEventRow.seq).limit(max(1, min(limit, 1000)))
        with self.database.reading() as session:
            return [JobEvent.model_validate(row) for row in session.scalars(statement)]

    def delete(self, id: str) -> None:
        """Delete a job that has ended. Raises DataError for one that has not."""
        with self.database.writing() as session:
            job = self._job(session, id)
            gone = update(JobRow).where(JobRow.id == id, JobRow.state.in_(ENDED)).values(deleted=now(), updated=now())
            if not self._change(session, gone):
                raise DataError(f"job {id} is {job.state}: cancel it first")

    def _held(self, session: Session, job: Job, values: dict[str, Any]) -> None:
        mine = update(JobRow).where(JobRow.id == job.id, JobRow.claim == job.claim, JobRow.state == "running")
        if not self._change(session, mine.values(updated=now(), **values)):
            raise LostError(f"job {job.id} was taken from this worker, or has ended")

    def _change(self, session: Session, statement: Update) -> bool:
        statement = statement.values(version=JobRow.version + 1)
        done = session.execute(statement.execution_options(synchronize_session=False))
        return done.rowcount == 1  # type: ignore[attr-defined]

    def _event(self, session: Session, id: str, level: str, body: dict[str, Any]) -> int:
        """Number and write an event; the job's row stays locked until the transaction ends, so none overtakes."""
        seq = session.scalar(
            update(JobRow)
            .where(JobRow.id == id)
            .values(n_events=JobRow.n_events + 1)
            .returning(JobRow.n_events)
            .execution_options(synchronize_session=False)
        )
        assert seq is not None, "the job is there: it was changed in this transaction"
        session.add(JobEventRow(job_id=id, seq=seq, time=now(), level=level, body=body))
        session.flush()
        return seq

    def _job(self, session: Session, id: str) -> Job:
        row = session.get(JobRow, id, populate_existing=True)
        if row is None or row.deleted is not None:
            raise MissingError(f"there is no job {id!r}")
        return Job.model_validate(row)
