"""``/lists`` and their items."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, Response

from monoscope.core.progress import silent
from monoscope.server.pool import Stop
from monoscope.server.problems import ProblemError
from monoscope.server.routes import API
from monoscope.server.routes.workspace.rows import (
    After,
    IfMatch,
    Limit,
    RowId,
    change,
    draft,
    etag_of,
    fingerprint,
    of_feature,
    read,
    remove,
)
from monoscope.server.rows import wire
from monoscope.server.state import StateDep
from monoscope.server.wire.base import Slug
from monoscope.server.wire.workspace import (
    EditItem,
    FeatureList,
    FeatureLists,
    ListItem,
    ListItems,
    Move,
    NewItems,
    NewList,
)

if TYPE_CHECKING:
    from monoscope.features.workspace import Workspace

router = APIRouter(prefix=f"{API}/lists", tags=["workspace"])

MOST_ON_PAGE = 500


@router.get("", response_model=FeatureLists)
async def lists(request: Request, state: StateDep, after: After = "", limit: Limit = 100) -> Response:
    """Lists, oldest first."""

    def job(workspace: Workspace) -> FeatureLists:
        counts = workspace.items.counts()
        rows = workspace.lists.page(after=after, limit=limit)
        return FeatureLists(items=[wire(FeatureList, row, n_items=counts.get(row.id, 0)) for row in rows])

    return await read(request, state, job)


@router.post("", response_model=FeatureList, status_code=201)
async def new_list(request: Request, state: StateDep, body: NewList) -> Response:
    """Make a list."""
    return await change(
        request,
        state,
        lambda w: wire(
            FeatureList, w.lists.create(draft(w.lists, name=body.name, description=body.description)), n_items=0
        ),
        201,
    )


@router.get("/{id}", response_model=FeatureList)
async def one_list(request: Request, state: StateDep, id: RowId) -> Response:
    """A list."""
    return await read(request, state, lambda w: _list(w, w.lists.get(id)))


@router.put("/{id}", response_model=FeatureList)
async def edit_list(request: Request, state: StateDep, id: RowId, body: NewList, if_match: IfMatch = None) -> Response:
    """Rename or describe a list."""
    etag = etag_of(if_match)
    return await change(
        request,
        state,
        lambda w: _list(w, w.lists.update(id, etag=etag, name=body.name, description=body.description)),
    )


@router.delete("/{id}", status_code=204)
async def remove_list(request: Request, state: StateDep, id: RowId, if_match: IfMatch = None) -> Response:
    """Delete a list; it can be restored for 30 days."""
    return await remove(request, state, "lists", id, if_match)


@router.get("/{id}/items", response_model=ListItems)
async def items(request: Request, state: StateDep, id: RowId) -> Response:
    """The features of a list, in order."""
    return await read(
        request, state, lambda w: ListItems(items=[of_feature(ListItem, state, row) for row in w.items.of(id)])
    )


@router.get("/{id}/page", response_class=HTMLResponse)
async def page(request: Request, state: StateDep, id: RowId, dict: Slug) -> Response:
    """The features of a list that are of one dictionary, as a page that stands alone and asks for nothing."""

    def job(stop: Stop) -> Response:
        from monoscope.features.page import render_page
        from monoscope.features.page.listed import of_list

        entry = state.entry(dict)
        chosen = state.desk.workspace.lists.get(id)
        shown = of_list(state.desk.workspace, chosen, entry.dictionary_fp)
        features = shown["features"]
        if not 0 < len(features) <= MOST_ON_PAGE:
            found = f"{len(features)} features of {entry.id}"
            raise ProblemError(409, f"this list has {found}", found=found, expected=f"1 to {MOST_ON_PAGE}")
        with silent():
            text = render_page(entry.bundle, **shown, labels=state.labels(entry.id, features))
        name = re.sub(r"[^A-Za-z0-9_.-]+", "-", chosen.name).strip("-.")[:80] or "list"
        return HTMLResponse(text, headers={"Content-Disposition": f'attachment; filename="{name}.html"'})

    return await state.pool.answer(request, job)


@router.post("/{id}/items", response_model=ListItems, status_code=201)
async def add_items(request: Request, state: StateDep, id: RowId, body: NewItems) -> Response:
    """Put features at the end of a list; those it has already stay where they are."""
    wanted = [(fingerprint(state, item.dictionary, item.feature), item.feature, item.note) for item in body.items]

    def job(workspace: Workspace) -> ListItems:
        from monoscope.features.workspace.records import FeatureRef

        rows = []
        for start in _runs([note for _, _, note in wanted]):
            refs = [FeatureRef(dictionary_fp=fp, feature=feature) for fp, feature, _ in wanted[start]]
            rows += workspace.items.add(id, refs, note=wanted[start.start][2])
        return ListItems(items=[of_feature(ListItem, state, row) for row in rows])

    return await change(request, state, job, 201)


@router.put("/{id}/items/{item}", response_model=ListItem)
async def edit_item(
    request: Request, state: StateDep, id: RowId, item: RowId, body: EditItem, if_match: IfMatch = None
) -> Response:
    """Change the note beside a feature of a list."""
    etag = etag_of(if_match)

    def job(workspace: Workspace) -> ListItem:
        _of_list(workspace, id, item)
        return of_feature(ListItem, state, workspace.items.update(item, etag=etag, note=body.note))

    return await change(request, state, job)


@router.post("/{id}/items/{item}/move", response_model=ListItem)
async def move_item(
    request: Request, state: StateDep, id: RowId, item: RowId, body: Move, if_match: IfMatch = None
) -> Response:
    """Move a feature in front of another of the list, or to its end."""
    etag = etag_of(if_match)

    def job(workspace: Workspace) -> ListItem:
        _of_list(workspace, id, item)
        return of_feature(ListItem, state, workspace.items.move(item, body.before, etag=etag))

    return await change(request, state, job)


@router.delete("/{id}/items/{item}", status_code=204)
async def remove_item(request: Request, state: StateDep, id: RowId, item: RowId, if_match: IfMatch = None) -> Response:
    """Take a feature out of a list."""
    etag = etag_of(if_match, needed=False)

    def job(workspace: Workspace) -> None:
        _of_list(workspace, id, item)
        workspace.items.delete(item, etag=etag)

    return await change(request, state, job)


def _list(workspace: Workspace, row: object) -> FeatureList:
    return wire(FeatureList, row, n_items=workspace.items.counts().get(getattr(row, "id", ""), 0))


def _of_list(workspace: Workspace, id: str, item: str) -> None:
    if workspace.items.get(item).list_id != id:
        raise ProblemError(404, "this list has no such item", found=item)


def _runs(notes: list[str]) -> list[slice]:
    """Stretches of equal notes."""
    starts = [i for i, note in enumerate(notes) if i == 0 or note != notes[i - 1]]
    return [slice(a, b) for a, b in zip(starts, [*starts[1:], len(notes)], strict=True)]
