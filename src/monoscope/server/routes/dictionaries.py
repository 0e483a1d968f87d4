"""``/dictionaries``: one dictionary's aggregates, and the table of its features as pages, CSV or Arrow."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
from fastapi import APIRouter, Query, Request
from fastapi.responses import Response, StreamingResponse

from monoscope.features.drawn import digits
from monoscope.server.aggregates import curves, density_histogram, n_dead, norm_histogram, notable
from monoscope.server.cards import card_fields, cards
from monoscope.server.library.library import Entry
from monoscope.server.pool import Stop
from monoscope.server.problems import ProblemError, shown
from monoscope.server.routes import API
from monoscope.server.state import EntryDep, State, StateDep
from monoscope.server.table.columns import ADDED
from monoscope.server.table.export import arrow_stream, csv_stream
from monoscope.server.table.tables import FeatureTable
from monoscope.server.wire.base import MAX_FEATURE
from monoscope.server.wire.dictionary import Dictionary
from monoscope.server.wire.library import Card
from monoscope.server.wire.table import FeaturePage, Place

router = APIRouter(prefix=f"{API}/dictionaries", tags=["dictionaries"])

CSV, ARROW = "text/csv", "application/vnd.apache.arrow.stream"
DEFAULT_COLUMNS = "density,max_act,top_token,label,score,tags,bookmarked"
BESIDE = 8

Columns = Annotated[str, Query(max_length=2000, description="Names of columns, with commas between them.")]
Filter = Annotated[
    str, Query(max_length=20_000, description='JSON, such as [{"column": "density", "op": "<", "value": 0.001}].')
]
Sort = Annotated[str, Query(max_length=500, description="Columns, the first first; - before one that falls: -density.")]
Offset = Annotated[int, Query(ge=0, le=MAX_FEATURE)]
Limit = Annotated[int, Query(ge=1, le=1000)]

TABLE_TYPES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "A page; or, asked for by Accept, all rows as CSV or as an Arrow stream.",
        "content": {CSV: {"schema": {"type": "string"}}, ARROW: {"schema": {"type": "string", "format": "binary"}}},
    }
}


@router.get("", response_model=list[Card])
async def dictionaries(request: Request, state: StateDep) -> Response:
    """Cards of all dictionaries."""

    def job(stop: Stop) -> Response:
        rows = [card.model_dump_json() for card in cards(state, state.library.entries)]
        return Response(f"[{','.join(rows)}]", media_type="application/json")

    return await state.pool.answer(request, job)


@router.get("/{dict}", response_model=Dictionary)
async def dictionary(request: Request, state: StateDep, entry: EntryDep) -> Response:
    """A dictionary's card, manifest, columns and aggregates."""
    return await state.pool.answer(request, lambda stop: _dictionary(state, entry))


@router.get("/{dict}/features", response_model=FeaturePage, responses=TABLE_TYPES)
async def features(
    request: Request,
    state: StateDep,
    entry: EntryDep,
    columns: Columns = DEFAULT_COLUMNS,
    filter: Filter = "",
    sort: Sort = "",
    offset: Offset = 0,
    limit: Limit = 100,
) -> Response:
    """Rows of the table of features: a page of columns, or the whole as CSV or Arrow."""
    accept = request.headers.get("accept", "")
    form = next((form for form in (CSV, ARROW) if form in accept), None)

    def job(stop: Stop) -> FeaturePage | Response:
        began = time.perf_counter()
        table = state.database.table(entry.bundle)
        names = _names(table, columns)
        added = state.added(entry)
        order = table.order(table.question(filter, sort), added, stop)
        if form is not None:
            write = csv_stream if form == CSV else arrow_stream
            return _download(write(table.scalars.table, added, names, order), form, f"{entry.id}-features")
        rows = order[offset : offset + limit]
        ids = rows.tolist()
        picked = {name: table.column(name, rows) for name in names if name not in ADDED}
        page = {name: digits_of(picked[name]) if name in picked else added.column(name, ids) for name in names}
        ms = round((time.perf_counter() - began) * 1000, 2)
        return FeaturePage.model_construct(total=len(order), offset=offset, columns={"feature": ids, **page}, ms=ms)

    return await state.pool.answer(request, job)


@router.get("/{dict}/features/place", response_model=Place)
async def place(
    request: Request,
    state: StateDep,
    entry: EntryDep,
    feature: Annotated[int, Query(ge=0, le=MAX_FEATURE)],
    filter: Filter = "",
    sort: Sort = "",
) -> Response:
    """Where a feature stands among the rows of a filter and a sort order, and which stand beside it."""

    def job(stop: Stop) -> Place:
        table = state.database.table(entry.bundle)
        order = table.order(table.question(filter, sort), state.added(entry), stop)
        at = np.flatnonzero(order == feature)
        if not len(at):
            return Place(index=None, total=len(order), before=[], after=order[:BESIDE].tolist())
        i = int(at[0])
        before = order[max(0, i - BESIDE) : i][::-1].tolist()
        return Place(index=i, total=len(order), before=before, after=order[i + 1 : i + 1 + BESIDE].tolist())

    return await state.pool.answer(request, job)


def _dictionary(state: State, entry: Entry) -> Dictionary:
    bundle = entry.bundle
    path = state.library.dictionary_path(entry)
    return Dictionary(
        **card_fields(state, entry, sum(row.label is not None for row in state.added(entry).rows.values())),
        manifest=bundle.manifest,
        columns=state.database.table(bundle).scalars.describe(),
        n_dead=n_dead(bundle),
        density_histogram=density_histogram(bundle),
        norm_histogram=norm_histogram(bundle),
        interesting=notable(bundle),
        curves=None if path is None else curves(path / "metrics.jsonl"),
    )


def _names(table: FeatureTable, columns: str) -> list[str]:
    names = list(dict.fromkeys(name for name in columns.split(",") if name and name != "feature"))
    known = [*table.scalars.kinds, *ADDED]
    if unknown := [name for name in names if name not in known]:
        raise ProblemError(422, f"there is no column {shown(unknown[0])!r}", found=shown(unknown[0]), expected=known)
    return names


def digits_of(column: pa.ChunkedArray) -> list[Any]:
    """A column as JSON shows it."""
    if pa.types.is_floating(column.type):
        return digits(column.to_numpy())
    return column.to_pylist()


def _download(parts: Iterator[bytes], media_type: str, name: str) -> Response:
    ending = "csv" if media_type == CSV else "arrow"
    disposition = {"Content-Disposition": f'attachment; filename="{name}.{ending}"'}
    return StreamingResponse(parts, media_type=media_type, headers=disposition)
