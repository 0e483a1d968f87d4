"""What job routes take and give. A job is long work of the worker; it goes on when the browser is closed."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from monoscope.server.wire.base import Dict, Id, Number, Slug, Wire

JobState = Literal["queued", "running", "done", "failed", "cancelled"]
JobKind = Literal["compare", "evaluate", "analyze", "sample"]


class EvaluateJob(Wire):
    """Measure a dictionary on held-out text."""

    kind: Literal["evaluate"]
    dictionary: Dict
    tokens: int = Field(default=50_000, ge=1_000, le=10_000_000)


class AnalyzeJob(Wire):
    """Make a feature bundle of a dictionary, beside it.

    path: directory of the dictionary, inside the allowed roots; name: of the new bundle
    """

    kind: Literal["analyze"]
    path: str = Field(min_length=1, max_length=4096)
    name: Slug = "features"
    tokens: int = Field(default=400_000, ge=1_000, le=1_000_000_000)


class SampleJob(Wire):
    """Make a dictionary of the bundled model, and describe its features, as ``monoscope demo`` does."""

    kind: Literal["sample"]
    scale: float = Field(default=1.0, gt=0, le=1, description="of all numbers of tokens")


StartJob = Annotated[EvaluateJob | AnalyzeJob | SampleJob, Field(discriminator="kind")]


class Progress(Wire):
    """How far a task of a job is. ``total`` is null where it is not known; ``rate`` counts units a second."""

    task: str
    done: int
    total: int | None
    unit: str
    rate: Number
    seconds_left: Number
    facts: dict[str, Any] = Field(default_factory=dict)


class Job(Wire):
    """A job. Times are UTC. ``cancelling``: it was called off, and stops at its next step."""

    id: Id
    kind: JobKind
    title: str
    config: dict[str, Any]
    state: JobState
    cancelling: bool
    progress: Progress | None
    created: str
    started: str | None
    finished: str | None
    error: str | None
    result: dict[str, Any] | None


class JobList(Wire):
    """Jobs, the newest first."""

    jobs: list[Job]


class JobEvent(Wire):
    """One event of a job. ``seq``, its id in the stream, counts from 1, and is where a broken connection goes on.

    kind: state, with the state and perhaps an error; progress; or a line of the log by its level, with its text
    """

    seq: int
    time: str
    kind: Literal["state", "progress", "info", "warning", "error"]
    body: dict[str, Any]
