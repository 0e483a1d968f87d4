"""The application: routes, errors, guard and static files around one state."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware

import monoscope
from monoscope.server import problems, static
from monoscope.server.log import Log
from monoscope.server.openapi import describe
from monoscope.server.routes import API, dictionaries, feature, files, jobs, library, live, runs, search, session
from monoscope.server.routes.workspace import labels, lists, marks, notes
from monoscope.server.security.door import Door
from monoscope.server.security.guard import Guard, Shell
from monoscope.server.state import State

ROUTERS = (session, library, dictionaries, feature, files, search, live, jobs, runs, labels, marks, lists, notes)


def create_app(state: State, port: int | None = None) -> FastAPI:
    """The server of a state; ``port`` is where it really listens, if that was left open. Its token must be settled."""
    settings = state.settings
    assert settings.no_token or settings.token, "a server without a token says so"
    port = settings.port if port is None else port

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        if not settings.read_only:
            state.jobs.runner.start()
        state.pool.submit(state.warm)
        yield
        state.stopping.set()
        state.shown.set()
        await state.jobs.runner.close()
        await state.worker.close()
        state.pool.close()
        state.database.close()
        state.finder.close()
        state.desk.close()

    app = FastAPI(
        title="monoscope",
        version=monoscope.__version__,
        summary="Features of language models, as they are read and written by the web interface.",
        openapi_url=f"{API}/openapi.json",
        docs_url=None,  # its pages load scripts from elsewhere
        redoc_url=None,
        lifespan=lifespan,
        redirect_slashes=False,
    )
    app.state.monoscope = state
    problems.install(app)
    # Not included, since FastAPI would build them anew, by and by, while it answers.
    for router in (session.health, *(module.router for module in ROUTERS)):
        app.router.routes.extend(router.routes)
    describe(app)
    static.install(app)
    app.state.door = Door("" if settings.no_token else settings.token, port)
    app.add_middleware(Guard, settings=settings, door=app.state.door)
    if settings.cors_origin:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origin,
            allow_credentials=False,
            allow_methods=["GET", "HEAD", "POST", "PUT", "DELETE"],
            allow_headers=["Authorization", "Content-Type", "If-Match", "If-None-Match", "Last-Event-ID", "Range"],
            expose_headers=["ETag", "Content-Range", "Content-Disposition"],
        )
    app.add_middleware(Shell, settings=settings, log=Log(requests=settings.log == "requests"))
    return app
