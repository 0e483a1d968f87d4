"""``/jobs`` and ``/compare``: long work, and the comparison of dictionaries."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Body, Header, Path, Query, Request
from fastapi.responses import Response

from monoscope.server.jobs.comparison import comparison, rows_of
from monoscope.server.jobs.service import wire
from monoscope.server.live.stream import EventStream, last_seen
from monoscope.server.routes import API
from monoscope.server.state import StateDep
from monoscope.server.wire.compare import CompareRequest, CompareRows, Comparison, RowKind
from monoscope.server.wire.jobs import Job, JobEvent, JobKind, JobList, JobState, StartJob

router = APIRouter(prefix=API, tags=["jobs"])

JobId = Annotated[str, Path(pattern=r"^[0-9A-HJKMNP-TV-Z]{26}$", description="A job.")]
LastEventId = Annotated[str | None, Header(max_length=32)]


@router.get("/jobs", response_model=JobList)
async def jobs(
    request: Request,
    state: StateDep,
    job_state: Annotated[JobState | None, Query(alias="state")] = None,
    kind: JobKind | None = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> Response:
    """The latest jobs, the newest first."""

    def job(stop: object) -> JobList:
        return JobList(jobs=[wire(row) for row in state.jobs.queue.page(state=job_state, kind=kind, limit=limit)])

    return await state.pool.answer(request, job)


@router.post("/jobs", response_model=Job, status_code=201)
async def start_job(request: Request, state: StateDep, asked: Annotated[StartJob, Body()]) -> Response:
    """Put a job into the queue."""
    answer = await state.pool.answer(request, lambda stop: state.jobs.start(asked), status=201)
    state.jobs.runner.wake()
    return answer


@router.get("/jobs/{job}", response_model=Job)
async def job_of(request: Request, state: StateDep, job: JobId) -> Response:
    """One job."""
    return await state.pool.answer(request, lambda stop: wire(state.jobs.queue.get(job)))


@router.delete("/jobs/{job}", response_model=Job)
async def cancel_job(request: Request, state: StateDep, job: JobId) -> Response:
    """Call a job off; a running one stops at its next step. One that has ended is left as it is."""
    answer = await state.pool.answer(request, lambda stop: wire(state.jobs.queue.cancel(job)))
    state.jobs.runner.wake()
    return answer


@router.get(
    "/jobs/{job}/events", status_code=200, response_class=EventStream, responses={200: {"model": JobEvent | Job}}
)
async def job_events(
    state: StateDep,
    job: JobId,
    after: Annotated[int, Query(ge=0, lt=2**53)] = 0,
    progress: Annotated[bool, Query(description="Whether progress is among them.")] = True,
    last_event_id: LastEventId = None,
) -> EventStream:
    """Events of a job past ``Last-Event-ID``: state, progress, lines of its log; and ``end``, with the job."""
    await asyncio.to_thread(lambda: state.jobs.queue.get(job))
    events = state.jobs.events(job, last_seen(last_event_id) or after, state.stopping, progress=progress)
    return EventStream(events, state.stopping)


@router.post("/compare", response_model=Job, status_code=201)
async def compare(request: Request, state: StateDep, asked: CompareRequest) -> Response:
    """Put the comparison of two to six dictionaries into the queue."""
    answer = await state.pool.answer(request, lambda stop: state.jobs.start(asked), status=201)
    state.jobs.runner.wake()
    return answer


@router.get("/compare/{job}", response_model=Comparison)
async def compared(request: Request, state: StateDep, job: JobId) -> Response:
    """The numbers of a comparison that is done."""
    return await state.pool.answer(request, lambda stop: comparison(state.jobs, job))


@router.get("/compare/{job}/rows", response_model=CompareRows)
async def compared_rows(
    request: Request,
    state: StateDep,
    job: JobId,
    pair: Annotated[int, Query(ge=0, le=14, description="Number of the pair in the comparison, from 0.")] = 0,
    kind: RowKind = "matched",
    offset: Annotated[int, Query(ge=0, lt=2**31)] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> Response:
    """Features of one pair of dictionaries that belong together, or have no partner."""
    return await state.pool.answer(
        request, lambda stop: rows_of(state.jobs, job, pair, kind, offset, limit, state.labels)
    )
