"""``/labels`` and ``/explanations``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Query, Request
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
    of_feature,
    read,
    remove,
)
from monoscope.server.state import State, StateDep
from monoscope.server.texts import explanation_of
from monoscope.server.wire.base import SLUG
from monoscope.server.wire.workspace import (
    EditExplanation,
    EditLabel,
    Explanation,
    Explanations,
    Label,
    Labels,
    NewExplanation,
    NewLabel,
)

if TYPE_CHECKING:
    from monoscope.features.workspace import Workspace

router = APIRouter(prefix=API, tags=["workspace"])
OfDict = Annotated[str | None, Query(alias="dict", pattern=SLUG)]
OfFeature = Annotated[int | None, Query(ge=0, le=2**31 - 1)]


@router.get("/labels", response_model=Labels)
async def labels(
    request: Request,
    state: StateDep,
    dict: OfDict = None,
    feature: OfFeature = None,
    after: After = "",
    limit: Limit = 100,
) -> Response:
    """Labels of everybody, oldest first: of a dictionary, of a feature, or all."""
    equals = _equals(state, dict, feature)
    return await read(
        request,
        state,
        lambda w: Labels(
            items=[of_feature(Label, state, r) for r in w.labels.page(after=after, limit=limit, **equals)]
        ),
    )


@router.post("/labels", response_model=Label, status_code=201)
async def label(request: Request, state: StateDep, body: NewLabel) -> Response:
    """Label a feature. 409 brings the label that this author has given it before."""
    fp = fingerprint(state, body.dictionary, body.feature)

    def job(workspace: Workspace) -> Label:
        store = workspace.labels
        source = "user" if body.explanation_id is None else "explanation"
        new = draft(
            store,
            dictionary_fp=fp,
            feature=body.feature,
            text=body.text,
            source=source,
            explanation_id=body.explanation_id,
        )
        return of_feature(Label, state, store.create(new))

    return await change(request, state, job, 201)


@router.get("/labels/{id}", response_model=Label)
async def one_label(request: Request, state: StateDep, id: RowId) -> Response:
    """A label."""
    return await read(request, state, lambda w: of_feature(Label, state, w.labels.get(id)))


@router.put("/labels/{id}", response_model=Label)
async def edit_label(
    request: Request, state: StateDep, id: RowId, body: EditLabel, if_match: IfMatch = None
) -> Response:
    """Change a label's text."""
    etag = etag_of(if_match)
    return await change(
        request, state, lambda w: of_feature(Label, state, w.labels.update(id, etag=etag, text=body.text))
    )


@router.delete("/labels/{id}", status_code=204)
async def remove_label(request: Request, state: StateDep, id: RowId, if_match: IfMatch = None) -> Response:
    """Delete a label; it can be restored for 30 days."""
    return await remove(request, state, "labels", id, if_match)


@router.get("/explanations", response_model=Explanations)
async def explanations(
    request: Request,
    state: StateDep,
    dict: OfDict = None,
    feature: OfFeature = None,
    after: After = "",
    limit: Limit = 100,
) -> Response:
    """Explanations, oldest first."""
    equals = _equals(state, dict, feature)
    return await read(
        request,
        state,
        lambda w: Explanations(
            items=[explanation_of(state, r) for r in w.explanations.page(after=after, limit=limit, **equals)]
        ),
    )


@router.post("/explanations", response_model=Explanation, status_code=201)
async def explain(request: Request, state: StateDep, body: NewExplanation) -> Response:
    """Add a description of a feature."""
    fp = fingerprint(state, body.dictionary, body.feature)

    def job(workspace: Workspace) -> Explanation:
        store = workspace.explanations
        fields = body.model_dump(include={"feature", "text", "method", "judge"}, by_alias=False)
        return explanation_of(state, store.create(draft(store, dictionary_fp=fp, **fields)))

    return await change(request, state, job, 201)


@router.put("/explanations/{id}", response_model=Explanation)
async def edit_explanation(
    request: Request, state: StateDep, id: RowId, body: EditExplanation, if_match: IfMatch = None
) -> Response:
    """Change a description."""
    etag = etag_of(if_match)
    return await change(
        request, state, lambda w: explanation_of(state, w.explanations.update(id, etag=etag, text=body.text))
    )


@router.delete("/explanations/{id}", status_code=204)
async def remove_explanation(request: Request, state: StateDep, id: RowId, if_match: IfMatch = None) -> Response:
    """Delete a description; it can be restored for 30 days."""
    return await remove(request, state, "explanations", id, if_match)


def _equals(state: State, id: str | None, feature: int | None) -> dict[str, Any]:
    if id is None:
        if feature is not None:
            raise ProblemError(422, "a feature is asked for together with its dictionary", expected="dict=...")
        return {}
    equals = {"dictionary_fp": fingerprint(state, id, feature)}
    return equals if feature is None else equals | {"feature": feature}
