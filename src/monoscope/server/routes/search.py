"""``/search``: one box over all dictionaries."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from pydantic import StringConstraints

from monoscope.server.pool import Stop
from monoscope.server.routes import API
from monoscope.server.state import StateDep
from monoscope.server.wire.base import SLUG
from monoscope.server.wire.search import Mode, SearchHit, SearchResult

router = APIRouter(prefix=API, tags=["search"])
Names = Annotated[
    list[Annotated[str, StringConstraints(pattern=SLUG)]] | None,
    Query(alias="dict", max_length=100, description="The dictionaries to search; all by default."),
]


@router.get("/search", response_model=SearchResult)
async def search(
    request: Request,
    state: StateDep,
    q: Annotated[str, Query(max_length=1000, description="What to find.")],
    mode: Mode = "auto",
    dict: Names = None,
    labeled: Annotated[bool | None, Query(description="Features with a label only, or without one only.")] = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
) -> Response:
    """Features by label, explanation, token, logit effect, context, meaning or direction, with what matched."""
    names = None if not dict else [state.entry(name).id for name in dict]

    def job(stop: Stop) -> SearchResult:
        found = state.finder.query(q, mode=mode, names=names, labeled=labeled, limit=limit)
        return SearchResult(
            hits=[SearchHit(**{**asdict(hit), "ranges": list(hit.ranges)}) for hit in found.hits],
            more=found.more,
            mode=found.mode,
            modes_available=list(found.modes),
            notes=list(found.notes),
            ms=found.ms,
        )

    return await state.finder.pool.answer(request, job)
