"""``/notes``, ``/filters``, ``/links``, ``/settings`` and ``/restore``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import Response

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
    read,
    remove,
)
from monoscope.server.rows import wire
from monoscope.server.state import State, StateDep
from monoscope.server.wire.workspace import (
    EditNote,
    Filter,
    Filters,
    Link,
    NewFilter,
    NewLink,
    NewNote,
    Note,
    Notes,
    Setting,
    Settings,
    Target,
)

if TYPE_CHECKING:
    from monoscope.features.workspace import Workspace

router = APIRouter(prefix=API, tags=["workspace"])
PageName = Annotated[str | None, Query(pattern=r"^[a-z][a-z0-9_/-]{0,63}$")]
Key = Annotated[str, Path(pattern=r"^[a-z][a-z0-9._-]{0,127}$")]
Short = Annotated[str, Path(pattern=r"^[0-9a-z]{1,32}$")]
Kind = Literal["labels", "explanations", "bookmarks", "tags", "lists", "items", "notes", "filters"]


@router.get("/notes", response_model=Notes)
async def notes(
    request: Request,
    state: StateDep,
    target_kind: Annotated[Target | None, Query()] = None,
    target_id: Annotated[str | None, Query(min_length=1, max_length=300)] = None,
    after: After = "",
    limit: Limit = 100,
) -> Response:
    """Notes, oldest first: about one thing, about a kind of things, or all."""
    equals: dict[str, Any] = {} if target_kind is None else {"target_kind": target_kind}
    if target_id is not None:
        if target_kind is None:
            raise ProblemError(422, "what a note is about is asked for with its kind", expected="target_kind=...")
        equals["target_id"] = _target(state, target_kind, target_id)
    return await read(
        request,
        state,
        lambda w: Notes(items=[wire(Note, row) for row in w.notes.page(after=after, limit=limit, **equals)]),
    )


@router.post("/notes", response_model=Note, status_code=201)
async def new_note(request: Request, state: StateDep, body: NewNote) -> Response:
    """Write a note."""
    target = _target(state, body.target_kind, body.target_id)

    def job(workspace: Workspace) -> Note:
        new = draft(workspace.notes, target_kind=body.target_kind, target_id=target, markdown=body.markdown)
        return wire(Note, workspace.notes.create(new))

    return await change(request, state, job, 201)


@router.put("/notes/{id}", response_model=Note)
async def edit_note(request: Request, state: StateDep, id: RowId, body: EditNote, if_match: IfMatch = None) -> Response:
    """Change a note."""
    etag = etag_of(if_match)
    return await change(request, state, lambda w: wire(Note, w.notes.update(id, etag=etag, markdown=body.markdown)))


@router.delete("/notes/{id}", status_code=204)
async def remove_note(request: Request, state: StateDep, id: RowId, if_match: IfMatch = None) -> Response:
    """Delete a note; it can be restored for 30 days."""
    return await remove(request, state, "notes", id, if_match)


@router.get("/filters", response_model=Filters)
async def filters(
    request: Request, state: StateDep, page: PageName = None, after: After = "", limit: Limit = 100
) -> Response:
    """Saved filters, of a page or all."""
    equals: dict[str, Any] = {} if page is None else {"page": page}
    return await read(
        request,
        state,
        lambda w: Filters(items=[wire(Filter, row) for row in w.filters.page(after=after, limit=limit, **equals)]),
    )


@router.post("/filters", response_model=Filter, status_code=201)
async def new_filter(request: Request, state: StateDep, body: NewFilter) -> Response:
    """Save a filter."""
    return await change(
        request, state, lambda w: wire(Filter, w.filters.create(draft(w.filters, **body.model_dump()))), 201
    )


@router.put("/filters/{id}", response_model=Filter)
async def edit_filter(
    request: Request, state: StateDep, id: RowId, body: NewFilter, if_match: IfMatch = None
) -> Response:
    """Change a saved filter."""
    etag = etag_of(if_match)
    return await change(request, state, lambda w: wire(Filter, w.filters.update(id, etag=etag, **body.model_dump())))


@router.delete("/filters/{id}", status_code=204)
async def remove_filter(request: Request, state: StateDep, id: RowId, if_match: IfMatch = None) -> Response:
    """Delete a saved filter; it can be restored for 30 days."""
    return await remove(request, state, "filters", id, if_match)


@router.post("/links", response_model=Link, status_code=201)
async def new_link(request: Request, state: StateDep, body: NewLink) -> Response:
    """Keep the state of a page under a short id."""

    def job(workspace: Workspace) -> Link:
        row = workspace.links.create(draft(workspace.links, state=body.state))
        return Link(id=row.short, state=row.state, created=row.created.isoformat(timespec="milliseconds"))

    return await change(request, state, job, 201)


@router.get("/links/{id}", response_model=Link)
async def link(request: Request, state: StateDep, id: Short) -> Response:
    """The state behind a short id."""

    def job(workspace: Workspace) -> Link:
        row = workspace.links.open(id)
        return Link(id=row.short, state=row.state, created=row.created.isoformat(timespec="milliseconds"))

    return await read(request, state, job)


@router.get("/settings", response_model=Settings)
async def settings(request: Request, state: StateDep) -> Response:
    """Settings of this author."""
    return await read(request, state, lambda w: Settings(values=w.settings.all()))


@router.put("/settings/{key}", response_model=Settings)
async def set_setting(request: Request, state: StateDep, key: Key, body: Setting) -> Response:
    """Set a setting; the last one to do so wins."""

    def job(workspace: Workspace) -> Settings:
        workspace.settings.put(draft(workspace.settings, key=key, value=body.value))
        return Settings(values=workspace.settings.all())

    return await change(request, state, job)


@router.post("/restore/{kind}/{id}", status_code=204)
async def restore(request: Request, state: StateDep, kind: Kind, id: RowId) -> Response:
    """Bring back what was deleted; the header ``ETag`` names the state it is in."""

    def run(stop: Any) -> Response:
        row = getattr(state.desk.workspace, kind).restore(id)
        return Response(status_code=204, headers={"ETag": f'"{row.etag}"'})

    return await state.pool.answer(request, run)


def _target(state: State, kind: str, id: str) -> str:
    """What a note is about, as the workspace names it: features and dictionaries by fingerprint."""
    if kind == "dictionary":
        return fingerprint(state, id)
    if kind != "feature":
        return id
    name, slash, number = id.rpartition("/")
    if not slash or not number.isascii() or not number.isdigit() or len(number) > 10:
        raise ProblemError(422, "a feature is named DICT/NUMBER", found=id)
    return f"{fingerprint(state, name, int(number))}/{int(number)}"
