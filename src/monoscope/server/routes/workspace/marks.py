"""``/bookmarks``, ``/tags`` and ``/feature-tags``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

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
from monoscope.server.wire.base import SLUG
from monoscope.server.wire.workspace import (
    Bookmark,
    Bookmarks,
    FeatureTag,
    NewBookmark,
    NewFeatureTag,
    NewTag,
    Tag,
    Tags,
)

if TYPE_CHECKING:
    from monoscope.features.workspace import Workspace

router = APIRouter(prefix=API, tags=["workspace"])
OfDict = Annotated[str | None, Query(alias="dict", pattern=SLUG)]
Dict = Annotated[str, Query(alias="dict", pattern=SLUG)]
Feature = Annotated[int, Query(ge=0, le=2**31 - 1)]


@router.get("/bookmarks", response_model=Bookmarks)
async def bookmarks(
    request: Request, state: StateDep, dict: OfDict = None, after: After = "", limit: Limit = 100
) -> Response:
    """Bookmarks of this author, oldest first."""
    fp = None if dict is None else fingerprint(state, dict)

    def job(workspace: Workspace) -> Bookmarks:
        equals: dict[str, Any] = {"author": workspace.database.author} | ({} if fp is None else {"dictionary_fp": fp})
        rows = workspace.bookmarks.page(after=after, limit=limit, **equals)
        return Bookmarks(items=[of_feature(Bookmark, state, row) for row in rows])

    return await read(request, state, job)


@router.post("/bookmarks", response_model=Bookmark, status_code=201)
async def bookmark(request: Request, state: StateDep, body: NewBookmark) -> Response:
    """Bookmark a feature; once is enough."""
    fp = fingerprint(state, body.dictionary, body.feature)
    return await change(request, state, lambda w: of_feature(Bookmark, state, w.bookmarks.set(fp, body.feature)), 201)


@router.delete("/bookmarks", status_code=204)
async def forget(request: Request, state: StateDep, dict: Dict, feature: Feature) -> Response:
    """Take this author's bookmark from a feature."""
    fp = fingerprint(state, dict, feature)

    def job(workspace: Workspace) -> None:
        author = workspace.database.author
        for row in workspace.bookmarks.page(dictionary_fp=fp, feature=feature, author=author):
            workspace.bookmarks.delete(row.id)

    return await change(request, state, job)


@router.get("/tags", response_model=Tags)
async def tags(request: Request, state: StateDep) -> Response:
    """All tags, with the number of features that carry them."""

    def job(workspace: Workspace) -> Tags:
        counts = workspace.feature_tags.counts()
        rows = sorted(workspace.tags.page(limit=1000), key=lambda row: row.name.lower())
        return Tags(items=[wire(Tag, row, n_features=counts.get(row.id, 0)) for row in rows])

    return await read(request, state, job)


@router.post("/tags", response_model=Tag, status_code=201)
async def new_tag(request: Request, state: StateDep, body: NewTag) -> Response:
    """Make a tag. 409 brings the one that has the name."""
    return await change(
        request,
        state,
        lambda w: wire(Tag, w.tags.create(draft(w.tags, name=body.name, color=body.color)), n_features=0),
        201,
    )


@router.put("/tags/{id}", response_model=Tag)
async def edit_tag(request: Request, state: StateDep, id: RowId, body: NewTag, if_match: IfMatch = None) -> Response:
    """Rename or recolor a tag."""
    etag = etag_of(if_match)

    def job(workspace: Workspace) -> Tag:
        row = workspace.tags.update(id, etag=etag, name=body.name, color=body.color)
        return wire(Tag, row, n_features=workspace.feature_tags.counts().get(id, 0))

    return await change(request, state, job)


@router.delete("/tags/{id}", status_code=204)
async def remove_tag(request: Request, state: StateDep, id: RowId, if_match: IfMatch = None) -> Response:
    """Delete a tag from all features; it can be restored for 30 days."""
    return await remove(request, state, "tags", id, if_match)


@router.post("/feature-tags", response_model=FeatureTag, status_code=201)
async def put_tag(request: Request, state: StateDep, body: NewFeatureTag) -> Response:
    """Put a tag on a feature."""
    fp = fingerprint(state, body.dictionary, body.feature)
    return await change(
        request,
        state,
        lambda w: of_feature(FeatureTag, state, w.feature_tags.mark(fp, body.feature, body.tag)),
        201,
    )


@router.delete("/feature-tags", status_code=204)
async def take_tag(
    request: Request,
    state: StateDep,
    dict: Dict,
    feature: Feature,
    tag: Annotated[str, Query(min_length=1, max_length=200)],
) -> Response:
    """Take a tag from a feature."""
    fp = fingerprint(state, dict, feature)

    def job(workspace: Workspace) -> None:
        for named in workspace.tags.page(name=tag):
            for row in workspace.feature_tags.page(dictionary_fp=fp, feature=feature, tag_id=named.id):
                workspace.feature_tags.delete(row.id)

    return await change(request, state, job)
