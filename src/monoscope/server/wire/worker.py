"""What is told of the process that runs models."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from monoscope.server.wire.base import Slug, Wire


class WorkerModel(Wire):
    """Something the worker holds in memory."""

    name: str
    kind: Literal["model", "dictionary"]
    bytes: int


class WorkerStatus(Wire):
    """The process that runs models. ``cold`` until it is first needed."""

    state: Literal["cold", "loading", "ready", "busy", "crashed"]
    doing: str | None = None
    waiting: int = 0
    models: list[WorkerModel] = Field(default_factory=list)
    restarts: int = 0
    message: str | None = None


class WarmRequest(Wire):
    """What is about to be asked of the worker: it starts, and loads this."""

    dicts: list[Slug] = Field(default_factory=list, max_length=64)
