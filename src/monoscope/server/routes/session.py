"""``/session``: a token for a cookie, and out again; ``/healthz``: whether the server is there."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import Field

from monoscope.server.routes import API
from monoscope.server.security.door import Door
from monoscope.server.security.guard import refuse, set_cookie
from monoscope.server.wire.base import Wire

router = APIRouter(prefix=API, tags=["session"])
health = APIRouter(tags=["session"])


class Login(Wire):
    """The token that was printed at start."""

    token: Annotated[str, Field(min_length=1, max_length=1024)]


class Reader(Wire):
    """A token that reads and changes nothing, for pages that are shown elsewhere; null where no token is needed."""

    token: str | None


class Health(Wire):
    """The server is there."""

    status: str = "ok"


@router.post("/session", status_code=204)
async def login(request: Request, body: Login) -> Response:
    """Exchange the token for a cookie."""
    door: Door = request.app.state.door
    refuse(door.admits(request.client.host if request.client else "?", token=body.token))
    return Response(status_code=204, headers={"Set-Cookie": set_cookie(door, secure=request.url.scheme == "https")})


@router.delete("/session", status_code=204)
async def logout(request: Request) -> Response:
    """Take the cookie back."""
    door: Door = request.app.state.door
    gone = f"{door.cookie}=; Path=/; HttpOnly; SameSite=Strict; Max-Age=0"
    return Response(status_code=204, headers={"Set-Cookie": gone})


@router.get("/session/reader", response_model=Reader)
async def reader(request: Request) -> Reader:
    """The token of readers."""
    door: Door = request.app.state.door
    return Reader(token=door.reader)


@health.get("/healthz", response_model=Health)
async def healthz() -> Health:
    """Whether the server is there. Needs no token."""
    return Health()
