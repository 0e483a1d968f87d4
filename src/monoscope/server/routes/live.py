"""``/activate``, ``/steer``, ``/worker``: one's own text, steering, and the process that runs models."""

from __future__ import annotations

from fastapi import APIRouter, Request

from monoscope.server.live.connected import while_connected
from monoscope.server.live.stream import EventStream
from monoscope.server.routes import API
from monoscope.server.state import StateDep
from monoscope.server.wire.activate import (
    ActivateRequest,
    ActivateResponse,
    DiffRequest,
    DiffResponse,
    FeatureRequest,
    FeatureResponse,
)
from monoscope.server.wire.steer import SteerEvent, SteerRequest
from monoscope.server.wire.worker import WarmRequest, WorkerStatus

router = APIRouter(prefix=API, tags=["live"])


@router.post("/activate")
async def activate(request: Request, state: StateDep, asked: ActivateRequest) -> ActivateResponse:
    """Features of some dictionaries that fire on a text, per token and as a whole, and a heat map of both."""
    return await while_connected(request, state.live.activate(asked))


@router.post("/activate/feature")
async def activate_feature(request: Request, state: StateDep, asked: FeatureRequest) -> FeatureResponse:
    """Activations of one feature on a text."""
    return await while_connected(request, state.live.feature(asked))


@router.post("/activate/diff")
async def activate_diff(request: Request, state: StateDep, asked: DiffRequest) -> DiffResponse:
    """Two texts aligned by token, and the features in which they differ most."""
    return await while_connected(request, state.live.diff(asked))


@router.post("/steer", status_code=200, response_class=EventStream, responses={200: {"model": SteerEvent}})
async def steer(state: StateDep, asked: SteerRequest) -> EventStream:
    """Baseline and steered continuation side by side, token by token; closing the connection stops them.

    Events: start, then steered.token, trace and baseline.token again and again, guard, done; or error, a problem.
    """
    return EventStream(state.live.steer(asked), state.stopping)


@router.get("/worker")
async def worker_status(state: StateDep) -> WorkerStatus:
    """What the process that runs models is doing."""
    return state.live.status()


@router.get("/worker/events", status_code=200, response_class=EventStream, responses={200: {"model": WorkerStatus}})
async def worker_events(state: StateDep) -> EventStream:
    """Event ``status``: the worker's status now, and whenever it changes."""
    return EventStream(state.live.statuses(), state.stopping)


@router.post("/worker/warm")
async def warm(request: Request, state: StateDep, asked: WarmRequest) -> WorkerStatus:
    """Start the worker and load what is about to be asked for; answers when that is done."""
    await while_connected(request, state.live.warm(asked.dicts))
    return state.live.status()
