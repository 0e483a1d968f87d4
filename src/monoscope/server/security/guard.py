"""What stands before every route: headers, the Host header, origins, the token, and the size and form of bodies.

Shell    outermost: security headers, the log, and a problem document instead of a traceback
Guard    Host (421), token (401, 429), Origin (403), Content-Type (415), size (413), form (400, 422)
"""

from __future__ import annotations

import asyncio
import time
import traceback
from typing import Any
from urllib.parse import parse_qsl

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from monoscope.server.log import Log
from monoscope.server.problems import TITLES, ProblemError, problem_response
from monoscope.server.security.author import Proxies
from monoscope.server.security.body import DisconnectedError, check_json, read_body, replay
from monoscope.server.security.door import Answer, Door
from monoscope.server.security.headers import security_headers
from monoscope.server.security.hosts import Hosts
from monoscope.server.settings import Settings
from monoscope.server.wire.base import Problem

SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
SMALL = 65_536  # bytes of JSON that are checked on the event loop; larger bodies are checked in a thread
SESSION = "/api/v1/session"
LIVE = ("activate", "activate/feature", "activate/diff", "steer", "worker/warm")
READ = f"/api/v1/{LIVE[1]}"  # posted, and within what the token of readers is for
HARMLESS = frozenset({SESSION, *(f"/api/v1/{path}" for path in LIVE)})  # posted, and nothing is changed by it


class Shell:
    """The outermost layer."""

    def __init__(self, app: ASGIApp, settings: Settings, log: Log) -> None:
        self._app, self._log, self._prefix = app, log, settings.root_path
        self._headers = security_headers(settings)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request with headers, and without a traceback."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.perf_counter(), 0
        if self._prefix:  # the proxy's; routes are found with it and without
            scope = {**scope, "root_path": self._prefix}

        async def dressed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in self._headers:
                    headers[name.decode()] = value.decode()
                if "cache-control" not in headers:
                    headers["cache-control"] = "no-store" if status >= 400 else "private, no-cache"
            await send(message)

        try:
            await self._app(scope, receive, dressed)
        except DisconnectedError:
            return
        except Exception as error:
            trace = traceback.format_exc(limit=-8)
            self._log.write("error", "failure", path=scope["path"], error=repr(error), trace=trace)
            if status:
                raise
            problem = Problem(title=TITLES[500], status=500, detail=f"this is a defect ({type(error).__name__})")
            await problem_response(problem)(scope, receive, dressed)
        self._log.request(scope["method"], scope["path"], status, began, _address(scope))


class Guard:
    """Refuses what should not reach a route."""

    def __init__(self, app: ASGIApp, settings: Settings, door: Door) -> None:
        self._app, self._settings, self._door = app, settings, door
        self._hosts, self._proxies = Hosts(settings), Proxies(settings)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it with what is wrong."""
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            receive = await self._checked(scope, receive, send)
        except ProblemError as error:
            await problem_response(error.problem, error.headers)(scope, receive, send)
            return
        if receive is not None:
            await self._app(scope, receive, send)

    async def _checked(self, scope: Scope, receive: Receive, send: Send) -> Any:
        """What to receive from; None if the request was answered here."""
        headers, path = Headers(scope=scope), route_path(scope)
        self._check_host(scope, headers)
        self._proxies.note(_address(scope), headers)
        if scope["method"] == "GET" and not is_api(path) and (clean := self._exchange(scope)) is not None:
            await send({"type": "http.response.start", "status": 303, "headers": clean})
            await send({"type": "http.response.body", "body": b""})
            return None
        if is_api(path) and path != SESSION:
            self._check_token(scope, headers)
        if scope["method"] in SAFE:
            return receive
        host = headers.get("host", "")
        if not self._hosts.may_change(headers.get("origin"), headers.get("sec-fetch-site"), host):
            raise ProblemError(
                403,
                "a change must come from a page of this server",
                found=headers.get("origin") or headers.get("sec-fetch-site"),
                expected=host,
                hint="a client that is no browser sends no Origin header",
            )
        if self._settings.read_only and path not in HARMLESS:
            raise ProblemError(403, "this server is read-only")
        body = await read_body(receive, headers.get("content-length"), self._settings.max_body)
        if body:
            kind = headers.get("content-type", "").partition(";")[0].strip().lower()
            if kind != "application/json":
                raise ProblemError(415, "a body is sent as JSON", found=kind or None, expected="application/json")
            if len(body) <= SMALL:
                check_json(body)
            else:
                await asyncio.to_thread(check_json, body)
        return replay(body, receive)

    def _check_host(self, scope: Scope, headers: Headers) -> None:
        given = headers.getlist("host")
        server = scope.get("server")
        if len(given) != 1 or not self._hosts.knows(given[0], server[0] if server else None):
            raise ProblemError(
                421,
                "this server does not go by that name",
                found=given[0][:200] if given else None,
                hint="--set 'server.allow_host=[\"NAME\"]' lets it be addressed by another one",
            )

    def _exchange(self, scope: Scope) -> list[tuple[bytes, bytes]] | None:
        """Headers that take a token out of the address and put a cookie in its place; None if the address has none."""
        query = dict(parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True))
        if "token" not in query or self._door.is_open:
            return None
        refuse(self._door.admits(_address(scope), token=query["token"]))
        here = "./" + scope["path"].rpartition("/")[2]
        return [
            (b"location", here.encode("utf-8", "replace")),
            (b"set-cookie", set_cookie(self._door, secure=scope["scheme"] == "https").encode()),
        ]

    def _check_token(self, scope: Scope, headers: Headers) -> None:
        scheme, _, token = headers.get("authorization", "").partition(" ")
        cookie = cookie_parser(headers.get("cookie", "")).get(self._door.cookie)
        bearer = token.strip() if scheme.lower() == "bearer" else None
        reads = scope["method"] in SAFE or route_path(scope) == READ
        refuse(self._door.admits(_address(scope), token=bearer, cookie=cookie, reads=reads))


def refuse(answer: Answer) -> None:
    """Raises ProblemError unless the door is open."""
    if answer is Answer.OPEN:
        return
    if answer is Answer.READER:
        raise ProblemError(403, answer.value)
    if answer is Answer.LOCKED:
        raise ProblemError(429, answer.value, hint="wait for a minute", headers={"Retry-After": "60"})
    hint = "open the address that was printed at start, or send Authorization: Bearer TOKEN"
    raise ProblemError(401, answer.value, hint=hint, headers={"WWW-Authenticate": 'Bearer realm="monoscope"'})


def set_cookie(door: Door, *, secure: bool) -> str:
    """The header that lets a browser in."""
    return f"{door.cookie}={door.cookie_value}; Path=/; HttpOnly; SameSite=Strict" + ("; Secure" if secure else "")


def route_path(scope: Scope) -> str:
    """The path without the prefix under which a proxy offers the server."""
    path, root = scope["path"], scope.get("root_path", "")
    return path[len(root) :] or "/" if (root and path.startswith((root + "/", root + "?"))) or path == root else path


def is_api(path: str) -> bool:
    """Whether a path is of the API, and not of the interface."""
    return path == "/api" or path.startswith("/api/")


def _address(scope: Scope) -> str:
    client = scope.get("client")
    return client[0] if client else "?"
