"""``/dictionaries/{dict}/features/{i}``: one feature, its contexts and neighbors, and where it is used."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from monoscope.server.readings import contexts_of, feature_of, neighbors_of, other_neighbors
from monoscope.server.routes import API
from monoscope.server.state import FeatureId, StateDep
from monoscope.server.texts import uses_of
from monoscope.server.wire.base import SLUG
from monoscope.server.wire.feature import Contexts, Feature, Neighbors, Uses

router = APIRouter(prefix=f"{API}/dictionaries/{{dict}}/features/{{feature}}", tags=["feature"])

By = Annotated[
    str,
    Query(
        pattern=rf"^(decoder|encoder|coactivation|other:{SLUG[1:-1]})$",
        description="decoder, encoder, coactivation, or other:DICT for the nearest directions of another dictionary.",
    ),
]


@router.get("", response_model=Feature)
async def feature(request: Request, state: StateDep, dict: str, feature: FeatureId) -> Response:
    """Everything about a feature but its contexts."""
    entry = state.feature_of(dict, feature)
    return await state.pool.answer(request, lambda stop: feature_of(state, entry, feature))


@router.get("/contexts", response_model=Contexts, responses={304: {"description": "Nothing has changed."}})
async def contexts(
    request: Request,
    state: StateDep,
    dict: str,
    feature: FeatureId,
    interval: Annotated[int | None, Query(ge=-2, le=1000, description="One interval; all of them by default.")] = None,
    limit: Annotated[int, Query(ge=1, le=1000, description="Contexts of each interval.")] = 100,
    window: Annotated[int | None, Query(ge=1, le=4096, description="Tokens around the strongest one.")] = None,
) -> Response:
    """Token windows in which the feature fires, by interval; look-alikes in which it does not."""
    entry = state.feature_of(dict, feature)
    headers = {"ETag": f'"{entry.manifest.fingerprint[:32]}"', "Cache-Control": "private, no-cache"}
    if headers["ETag"] in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return await state.pool.answer(
        request, lambda stop: contexts_of(entry, feature, interval, limit, window), headers=headers
    )


@router.get("/neighbors", response_model=Neighbors)
async def neighbors(request: Request, state: StateDep, dict: str, feature: FeatureId, by: By = "decoder") -> Response:
    """The features nearest to one."""
    entry = state.feature_of(dict, feature)
    if by.startswith("other:"):
        other = state.entry(by.removeprefix("other:"))
        return await state.pool.answer(request, lambda stop: other_neighbors(state, entry, feature, other))
    return await state.pool.answer(request, lambda stop: neighbors_of(state, entry, feature, by))


@router.get("/uses", response_model=Uses)
async def uses(request: Request, state: StateDep, dict: str, feature: FeatureId) -> Response:
    """Lists and notes that hold the feature."""
    entry = state.feature_of(dict, feature)
    return await state.pool.answer(request, lambda stop: uses_of(state, entry, feature))
