"""The OpenAPI document, of which the interface's types are made: ``python -m monoscope.server.openapi > FILE``."""

from __future__ import annotations

import json
import sys
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from monoscope.server.problems import MEDIA_TYPE
from monoscope.server.wire.base import Problem

EVENTS = "text/event-stream"
REFERENCE = "#/components/schemas/Problem"


def describe(app: FastAPI) -> None:
    """Make an application's document say that every error is a problem document."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def document() -> dict[str, Any]:
    """The document of a server, whatever it serves."""
    from monoscope.server.app import create_app
    from monoscope.server.build import build_state
    from monoscope.server.settings import Settings

    return create_app(build_state([], Settings(no_token=True))).openapi()


def _document(app: FastAPI) -> dict[str, Any]:
    document = get_openapi(title=app.title, version=app.version, summary=app.summary, routes=app.routes)
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    schemas["Problem"] = Problem.model_json_schema(mode="serialization", ref_template="#/components/schemas/{model}")
    schemas["Problem"]["required"] = ["type", "title", "status", "detail"]  # what is not known is left out
    problem = {"description": "What went wrong.", "content": {MEDIA_TYPE: {"schema": {"$ref": REFERENCE}}}}
    for path in document["paths"].values():
        for operation in path.values():
            operation["responses"].pop("422", None)
            operation["responses"]["default"] = problem
            for response in operation["responses"].values():
                if EVENTS in response.get("content", {}):
                    response["content"][EVENTS]["schema"] = _event(response["content"][EVENTS]["schema"])
    return document


def _event(data: dict[str, Any]) -> dict[str, Any]:
    """An event of a stream, whose data is JSON of this schema."""
    data.pop("type", None)  # that of the stream, which is text
    text = {"type": "string", "contentMediaType": "application/json", "contentSchema": data}
    properties = {"event": {"type": "string"}, "id": {"type": "string"}, "data": text}
    return {"type": "object", "properties": properties, "required": ["event", "data"]}


if __name__ == "__main__":
    json.dump(document(), sys.stdout, indent=1)
    print()
