"""The document says what the server does: asked at random within it and outside of it, nothing fails or differs.

Every answer has a documented status and type, and the documented shape; none is a 500.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from fastapi.routing import APIRoute
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)
from served import N_FEATURES, TOKEN

from monoscope.server import Server, Settings
from monoscope.server.app import create_app
from monoscope.server.build import build_state
from monoscope.server.openapi import document

EXAMPLES = 5  # for each operation, besides those at the edges of what the document allows
DOCUMENT = document()
STREAMS = [
    (path, method)
    for path, operations in DOCUMENT["paths"].items()
    for method, operation in operations.items()
    if "text/event-stream" in json.dumps(operation["responses"])
]

CHECKS = (
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    unsupported_method,
)

schema = schemathesis.openapi.from_dict(DOCUMENT)
schema = schema.exclude(path="/api/v1/session")  # wrong tokens, and then 429 for all that follows
for path, _ in STREAMS:  # they end when the client leaves, which this one does not
    schema = schema.exclude(path=path)


@pytest.fixture(scope="module")
def address(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    db = str(tmp_path_factory.mktemp("asked") / "workspace.db")
    server = Server([root], Settings(port=0, token=TOKEN, db=db)).start()
    yield server.address
    server.stop()


def test_routes_are_built_before_the_first_request() -> None:
    app = create_app(build_state([], Settings(no_token=True)))
    assert {route.path_format for route in app.routes if isinstance(route, APIRoute)} >= DOCUMENT["paths"].keys()


@pytest.mark.slow
@schema.parametrize()
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    database=None,
    phases=(Phase.explicit, Phase.generate),
)
def test_every_answer_is_as_documented(case: Any, address: str) -> None:
    if case.path_parameters:  # half of the time, ask for what is there
        if len(str(case.path_parameters)) % 2 and "dict" in case.path_parameters:
            case.path_parameters["dict"] = "some-run"
        if isinstance(number := case.path_parameters.get("feature"), int) and number >= 0:
            case.path_parameters["feature"] = number % (N_FEATURES + 20)
    case.call_and_validate(base_url=address, headers={"Authorization": f"Bearer {TOKEN}"}, timeout=20, checks=CHECKS)
