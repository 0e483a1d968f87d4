"""Errors as the wire carries them: RFC 9457 problem documents, never a traceback.

UserError      what was given, or what stands on disk, is wrong: its message is the detail
MissingError   404; ConflictError 412 where another change came first, else 409: both with the row as it stands
"""

from __future__ import annotations

import json
import sys
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from monoscope.core.errors import DataError, UserError
from monoscope.server.wire.base import Problem

MEDIA_TYPE = "application/problem+json"
SHOWN = 200  # characters of what was found that an answer repeats
TITLES = {
    400: "The request cannot be understood",
    401: "A token is needed",
    403: "This is not allowed",
    404: "There is no such thing",
    405: "This address does not do that",
    409: "What is there stands in the way",
    412: "Somebody else changed it first",
    413: "The request is too large",
    415: "The request must be JSON",
    416: "The file has no such range",
    421: "This server does not go by that name",
    422: "The request does not fit",
    428: "A change names the state it is of",
    429: "Too many failures",
    431: "The request's headers are too large",
    499: "The client went away",
    500: "The server failed",
    503: "Not now",
    504: "It took too long",
    507: "There is not enough memory",
}


class ProblemError(Exception):
    """Ends a request with a problem document."""

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        found: Any = None,
        expected: Any = None,
        hint: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.problem = Problem(
            title=TITLES[status], status=status, detail=detail, found=found, expected=expected, hint=hint
        )
        self.headers = headers or {}


def problem_body(problem: Problem) -> bytes:
    """The document's bytes."""
    return json.dumps(problem.model_dump(exclude_none=True), ensure_ascii=True, default=str).encode()


def problem_response(problem: Problem, headers: dict[str, str] | None = None) -> Response:
    """The document as a response."""
    return Response(problem_body(problem), problem.status, headers, MEDIA_TYPE)


def install(app: FastAPI) -> None:
    """Answer every error of an application with a problem document."""
    app.add_exception_handler(ProblemError, _problem)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(UserError, _user)


async def _problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, ProblemError)
    return problem_response(error.problem, error.headers)


async def _user(request: Request, error: Exception) -> Response:
    status, current = _status(error, stated="if-match" in request.headers)
    row = None if current is None else {**current.model_dump(mode="json"), "etag": current.etag}
    headers = None if current is None else {"ETag": f'"{current.etag}"'}
    problem = Problem(title=TITLES[status], status=status, detail=str(error), current=row)
    return problem_response(problem, headers)


def _status(error: Any, *, stated: bool) -> tuple[int, Any]:
    """The status of a user's error, and the row that stands in its way; ``stated``: the request named a state.

    The workspace's errors are known once it is loaded, which this does not do for the sake of a name.
    """
    if (known := sys.modules.get("monoscope.features.workspace.errors")) is not None:
        if isinstance(error, known.MissingError):
            return 404, None
        if isinstance(error, known.BusyError):
            return 503, None
        if isinstance(error, known.ConflictError):
            return (412 if stated and error.current is not None else 409), error.current
    return (409 if isinstance(error, DataError) else 422), None


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    title = TITLES.get(error.status_code, str(error.detail))
    problem = Problem(title=title, status=error.status_code, detail=str(error.detail))
    return problem_response(problem, dict(error.headers or {}))


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    faults = error.errors()
    detail = "; ".join(f"{_place(fault['loc'])}: {fault['msg'].removeprefix('Value error, ')}" for fault in faults[:5])
    found = None if not faults or faults[0]["type"] == "missing" else shown(faults[0].get("input"))
    return problem_response(Problem(title=TITLES[422], status=422, detail=detail, found=found))


def shown(value: Any) -> str:
    """A value as an answer may repeat it: short, and one line."""
    text = value if isinstance(value, str) else repr(value)
    text = text if len(text) <= SHOWN else text[:SHOWN] + "\u2026"
    return text.encode("utf-8", "backslashreplace").decode()


def _place(path: tuple[int | str, ...] | list[int | str]) -> str:
    return ".".join(str(part) for part in path if part not in ("body", "query", "path", "header")) or str(path[0])
