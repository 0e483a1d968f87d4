"""Work off the event loop: threads for reading, an interrupt when the client goes away, answers rendered in the thread.

The event loop itself computes nothing, so that no request waits for another's.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context

from fastapi import Request
from fastapi.responses import Response
from pydantic import BaseModel

from monoscope.server.problems import ProblemError

THREADS = 16
JSON = "application/json"


class Stop:
    """Tells a computation in another thread that nobody waits for it any more."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls: list[Callable[[], object]] = []
        self._set = False

    def __bool__(self) -> bool:
        return self._set

    def set(self) -> None:
        """Interrupt what is running."""
        with self._lock:
            self._set = True
            for call in self._calls:
                call()

    def check(self) -> None:
        """Raises ProblemError if nobody waits."""
        if self._set:
            raise ProblemError(499, "the request was given up before its answer was ready")

    @contextmanager
    def calling(self, interrupt: Callable[[], object]) -> Iterator[None]:
        """While the block runs, ``set`` calls ``interrupt``."""
        self.check()
        with self._lock:
            self._calls.append(interrupt)
        try:
            yield
        finally:
            with self._lock:
                self._calls.remove(interrupt)


class Pool:
    """The threads that answer reading requests."""

    def __init__(self, threads: int = THREADS) -> None:
        self._executor = ThreadPoolExecutor(threads, "request")

    async def answer(
        self,
        request: Request,
        job: Callable[[Stop], BaseModel | Response],
        *,
        status: int = 200,
        headers: dict[str, str] | None = None,
        changes: bool = False,
    ) -> Response:
        """What ``job`` returns, as a response. ``job`` runs in a thread, and is stopped if the client goes away.

        ``changes``: what it changes was asked for whole, and is changed even so.
        """
        stop = Stop()

        def run() -> Response:
            if not changes:
                stop.check()
            result = job(stop)
            if isinstance(result, Response):
                return result
            return Response(result.model_dump_json(), status, headers, JSON)

        work = asyncio.get_running_loop().run_in_executor(self._executor, copy_context().run, run)
        gone = asyncio.create_task(_gone(request))
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                stop.set()
            return await work
        finally:
            stop.set()
            gone.cancel()

    def submit(self, job: Callable[[], None]) -> None:
        """Do something that no request waits for."""
        self._executor.submit(job)

    def close(self) -> None:
        """Take no more work, and wait for what is under way."""
        self._executor.shutdown(wait=True, cancel_futures=True)


async def _gone(request: Request) -> None:
    """Returns when the client has gone away."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
