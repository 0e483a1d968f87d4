"""``/files/{dict}/{path}``: the files of a bundle, as they are, whole or in ranges."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Request
from fastapi import Path as InPath
from fastapi.responses import FileResponse, Response

from monoscope.server.library.discover import is_inside
from monoscope.server.library.library import Entry
from monoscope.server.problems import ProblemError, shown
from monoscope.server.routes import API
from monoscope.server.state import EntryDep, StateDep

router = APIRouter(prefix=f"{API}/files", tags=["files"])

ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The file.",
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    },
    206: {
        "description": "A range of it.",
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    },
    304: {"description": "The file has not changed."},
}


@router.get("/{dict}/{path:path}", response_class=Response, responses=ANSWERS)
@router.head("/{dict}/{path:path}", response_class=Response, responses=ANSWERS, include_in_schema=False)
async def file(
    request: Request,
    state: StateDep,
    entry: EntryDep,
    path: Annotated[str, InPath(max_length=1000, description="A file that the manifest names, or the manifest.")],
) -> Response:
    """A file of a bundle. Only what its manifest names is given out."""
    return await state.pool.answer(request, lambda stop: _file(request, entry, path))


def _file(request: Request, entry: Entry, name: str) -> Response:
    known = {file["path"]: file.get("sha256", "") for file in entry.bundle.manifest["files"]}
    known["manifest.json"] = entry.manifest.fingerprint
    if name not in known:
        raise ProblemError(
            404, f"{entry.id} has no file {shown(name)!r}", found=shown(name), expected=sorted(known)[:20]
        )
    path: Path = entry.path / name
    if not is_inside(path, entry.root) or not path.is_file():
        raise ProblemError(404, f"the file {shown(name)!r} of {entry.id} is gone", found=shown(name))
    etag = f'"{str(known[name])[:64]}"'
    headers = {"ETag": etag, "Cache-Control": "private, no-cache"}
    if etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return FileResponse(path, media_type="application/octet-stream", headers=headers)
