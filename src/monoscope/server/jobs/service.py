"""Jobs: the queue, the runner that empties it, and the tables of results."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monoscope.server.jobs.kinds import analyze_body, compare_body, evaluate_body, handlers, sample_body
from monoscope.server.jobs.runner import Runner
from monoscope.server.jobs.tables import Tables
from monoscope.server.live.service import Live
from monoscope.server.live.stream import Event
from monoscope.server.wire.compare import CompareRequest
from monoscope.server.wire.jobs import AnalyzeJob, EvaluateJob, Job, JobEvent, Progress, SampleJob

if TYPE_CHECKING:
    from monoscope.features.workspace.job_records import Job as Row
    from monoscope.features.workspace.job_records import JobEvent as RowEvent
    from monoscope.features.workspace.jobs import JobQueue

ENDED = ("done", "failed", "cancelled")
EVERY = 0.5  # seconds between two looks for events; another server may be the one that writes them
MOST_EVENTS = 200
TITLES = {"compare": "Compare {}", "evaluate": "Evaluate {}", "analyze": "Analyze {}", "sample": "Make the sample"}


class Jobs:
    """What routes do with jobs."""

    def __init__(self, live: Live, queue: Callable[[], JobQueue], tables: Tables, sample: Path) -> None:
        self.live, self._open, self.tables, self.sample = live, queue, tables, sample
        self.runner = Runner(queue, live.worker, handlers(live, tables, sample))

    @property
    def queue(self) -> JobQueue:
        """The workspace's queue. Raises ProblemError where it cannot be opened."""
        return self._open()

    def start(self, asked: CompareRequest | EvaluateJob | AnalyzeJob | SampleJob) -> Job:
        """A new job. What is wrong with it is said at once."""
        from monoscope.features.workspace.job_records import JobDraft

        if isinstance(asked, CompareRequest):
            kind = "compare"
            compare_body(self.live, asked)
        elif isinstance(asked, EvaluateJob):
            kind = "evaluate"
            evaluate_body(self.live, asked)
        elif isinstance(asked, SampleJob):
            kind = "sample"
            sample_body(self.sample, asked)
        else:
            kind = "analyze"
            analyze_body(self.live, asked)
        return wire(self.queue.enqueue(JobDraft(kind=kind, config=asked.model_dump())))

    async def events(
        self, id: str, after: int, stopping: threading.Event, *, progress: bool = True
    ) -> AsyncGenerator[Event]:
        """Events of a job past a sequence number, until it has ended; with its progress, or its log alone."""
        while not stopping.is_set():
            row, found = await asyncio.to_thread(self._look, id, after, progress)
            for event in found:
                after = event.seq
                body = JobEvent(seq=event.seq, time=_time(event.time) or "", kind=event.level, body=event.body)
                yield Event(event.level, body, event.seq)
            if row.state in ENDED and len(found) < MOST_EVENTS:
                yield Event("end", wire(row))
                return
            if len(found) < MOST_EVENTS:
                await asyncio.sleep(EVERY)

    def _look(self, id: str, after: int, progress: bool) -> tuple[Row, list[RowEvent]]:
        row = self.queue.get(id)  # first: events of its end are then read after it
        return row, self.queue.events(id, after=after, limit=MOST_EVENTS, progress=progress)


def wire(row: Row) -> Job:
    """A job as it crosses the wire."""
    config = row.config
    what = ", ".join(config.get("dicts", ())) or config.get("dict") or config.get("path", "")
    return Job.model_validate(
        {
            "title": TITLES.get(row.kind, "{}").format(what),
            "progress": None if row.progress is None else Progress.model_validate(_known(row.progress)),
            **{name: getattr(row, name) for name in ("id", "kind", "config", "state", "cancelling", "error", "result")},
            **{name: _time(getattr(row, name)) for name in ("created", "started", "finished")},
        }
    )


def _known(progress: dict[str, Any]) -> dict[str, Any]:
    """The fields of progress, whoever wrote it."""
    defaults = {"task": "", "done": 0, "total": None, "unit": "", "rate": None, "seconds_left": None, "facts": {}}
    return {name: progress.get(name, default) for name, default in defaults.items()}


def _time(time: datetime | None) -> str | None:
    return None if time is None else time.isoformat(timespec="milliseconds")
