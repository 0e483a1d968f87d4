"""What becomes of work whose client goes away before it began."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from fastapi import Request
from fastapi.responses import Response

from monoscope.server.pool import Pool
from monoscope.server.problems import ProblemError


def left_alone(*, changes: bool) -> list[str]:
    """What is done for a client that is gone while every thread is busy."""
    pool, busy, done = Pool(threads=1), threading.Event(), []

    def job(stop: Any) -> Response:
        done.append("changed")
        return Response(status_code=204)

    async def gone() -> dict[str, Any]:
        asyncio.get_running_loop().call_later(0.05, busy.set)
        return {"type": "http.disconnect"}

    def wait() -> None:
        busy.wait(10)

    pool.submit(wait)
    try:
        asyncio.run(pool.answer(Request({"type": "http"}, gone), job, changes=changes))
    finally:
        pool.close()
    return done


def test_a_question_nobody_waits_for_is_not_answered() -> None:
    with pytest.raises(ProblemError, match="given up"):
        left_alone(changes=False)


def test_a_change_is_made_though_its_client_went_away() -> None:
    assert left_alone(changes=True) == ["changed"]
