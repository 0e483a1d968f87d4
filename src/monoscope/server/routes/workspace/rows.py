"""What all routes of the workspace share: If-Match, drafts, and rows as the wire carries them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Header, Query, Request
from fastapi.responses import Response
from pydantic import ValidationError

from monoscope.server.problems import ProblemError, shown
from monoscope.server.rows import W, wire
from monoscope.server.state import State
from monoscope.server.wire.base import ULID, Id, Wire
from monoscope.server.wire.workspace import Row

if TYPE_CHECKING:
    from monoscope.features.workspace import Workspace

IfMatch = Annotated[
    str | None, Header(alias="If-Match", max_length=200, description="The etag of the state that is changed.")
]
After = Annotated[str, Query(pattern=rf"^$|{ULID}", description="The last id of the page before.")]
Limit = Annotated[int, Query(ge=1, le=1000)]
RowId = Id


async def change(
    request: Request, state: State, job: Callable[[Workspace], Wire | None], status: int = 200
) -> Response:
    """Run a change in a thread, and answer with the row and its etag; 204 where nothing is left to show."""

    def run(stop: Any) -> Response:
        result = job(state.desk.workspace)
        if result is None:
            return Response(status_code=204)
        headers = {"ETag": f'"{result.etag}"'} if isinstance(result, Row) else None
        return Response(result.model_dump_json(), status, headers, "application/json")

    return await state.pool.answer(request, run, changes=request.method != "GET")


async def read(request: Request, state: State, job: Callable[[Workspace], Wire]) -> Response:
    """Read in a thread; a row is answered with its etag."""
    return await change(request, state, job)


async def remove(request: Request, state: State, kind: str, id: str, if_match: str | None) -> Response:
    """Delete a row of the workspace's store of that name; of another state than ``if_match`` names, it stays."""
    etag = etag_of(if_match, needed=False)

    def job(workspace: Workspace) -> None:
        getattr(workspace, kind).delete(id, etag=etag)

    return await change(request, state, job)


def etag_of(given: str | None, *, needed: bool = True) -> str | None:
    """The etag that ``If-Match`` names; None for any. Raises ProblemError, 428, where one is needed and not sent."""
    if given is None:
        if needed:
            raise ProblemError(428, "a change says in If-Match which state it was made to", expected='If-Match: "ETAG"')
        return None
    tag = given.strip().removeprefix("W/").strip('"')
    return None if tag == "*" else tag


def draft(store: Any, **fields: Any) -> Any:
    """A draft of a store's rows. Raises ProblemError for what a row cannot hold."""
    try:
        return store.draft(**fields)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        where = ".".join(map(str, fault["loc"]))
        raise ProblemError(
            422, f"{where}: {fault['msg'].removeprefix('Value error, ')}", found=shown(fault.get("input"))
        ) from None


def of_feature(model: type[W], state: State, row: Any, **more: Any) -> W:
    """The same, for a row that is about a feature: with the dictionary of the library it is of."""
    return wire(model, row, dictionary=state.id_of(row.dictionary_fp), **more)


def fingerprint(state: State, id: str, feature: int | None = None) -> str:
    """Fingerprint of a dictionary of the library, which has the feature. Raises ProblemError."""
    entry = state.entry(id) if feature is None else state.feature_of(id, feature)
    return entry.dictionary_fp
