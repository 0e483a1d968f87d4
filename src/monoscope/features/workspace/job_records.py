"""Records of the queue of jobs."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from monoscope.features.workspace.fields import Draft, Json, Name, Row

JobState = Literal["queued", "running", "done", "failed", "cancelled"]


class JobDraft(Draft):
    """Work for the worker process."""

    kind: Name
    config: Json = Field(default_factory=dict)


class Job(JobDraft, Row):
    """A job's row.

    progress: the latest event of its progress bar: task, done, total, unit, rate, seconds_left
    claim: changes each time a worker takes the job, so that one that was given up cannot write; attempt counts them
    cancelling: somebody asked a running job to stop; n_events: sequence number of its latest event
    """

    state: JobState
    progress: dict[str, Any] | None = None
    result: dict[str, Any] | None = None
    error: str | None = None
    pid: int | None = None
    claim: str | None = None
    attempt: int = 0
    cancelling: bool = False
    heartbeat: datetime | None = None
    started: datetime | None = None
    finished: datetime | None = None
    n_events: int = 0


class JobEvent(BaseModel):
    """One event of a job; sequence numbers count from 1 without gaps."""

    model_config = ConfigDict(frozen=True, from_attributes=True)

    seq: int
    time: datetime
    level: Literal["info", "warning", "error", "progress", "state"]
    body: dict[str, Any]
