"""The application: routes, errors, guard and static files around one state."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import APIRouter, FastAPI

import monoscope
from monoscope.server import problems
from monoscope.server.openapi import describe
from monoscope.server.routes import dictionaries, feature, files, library, live, runs
from monoscope.server.state import State

API = "/api/v1"
ROUTERS = (library, dictionaries, feature, files, live, runs)


def create_app(state: State) -> FastAPI:
    """The server of a state."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        state.stopping.set()
        await state.worker.close()
        state.pool.close()

    app = FastAPI(
        title="monoscope",
        version=monoscope.__version__,
        summary="Features of language models, as they are read and written by the web interface.",
        openapi_url=f"{API}/openapi.json",
        docs_url=None,  # its pages load scripts from elsewhere
        redoc_url=None,
        root_path=state.settings.root_path,
        lifespan=lifespan,
    )
    app.state.monoscope = state
    problems.install(app)
    api = APIRouter(prefix=API)
    for module in ROUTERS:
        api.include_router(module.router)
    app.include_router(api)
    describe(app)
    return app
