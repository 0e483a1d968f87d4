"""Runner: takes jobs from the queue one by one, and has the worker do them in the background.

Servers that share a workspace share its queue. A job that is under way when its server stops goes back to the queue;
one whose server died is found by its silent heartbeat.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from monoscope.core.errors import UserError
from monoscope.server.problems import ProblemError
from monoscope.server.worker.client import Message, Worker
from monoscope.server.worker.errors import WorkerError

if TYPE_CHECKING:
    from monoscope.features.workspace.job_records import Job
    from monoscope.features.workspace.jobs import JobQueue

MOST_LINES, MOST_CHARACTERS = 500, 2_000  # of a job's log, and of one line
LOOK, BEAT, LOGGED, RECOVER = 2.0, 5.0, 1.0, 15.0  # seconds between looks, heartbeats, logged progress, recoveries
log = logging.getLogger("monoscope.jobs")


@dataclass(frozen=True)
class Handler:
    """How jobs of a kind are done.

    body: what the worker is asked, from a job's config; raises ProblemError or UserError where it has become impossible
    finish: what is kept of what the worker answered, as the job's result
    """

    body: Callable[[dict[str, Any]], dict[str, Any]]
    finish: Callable[[Job, Message], dict[str, Any]]


class Runner:
    """Does the jobs of a queue. All methods belong to one event loop.

    queue: opens the queue; called in a thread, and not before the server has had time to show its first page
    """

    def __init__(self, queue: Callable[[], JobQueue], worker: Worker, handlers: Mapping[str, Handler]) -> None:
        self._open, self.worker, self.handlers = queue, worker, dict(handlers)
        self._awake = asyncio.Event()
        self._running: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to take jobs."""
        self._running = asyncio.create_task(self._forever())

    def wake(self) -> None:
        """A job was added, or called off."""
        self._awake.set()

    async def close(self) -> None:
        """Stop; the job under way goes back to the queue."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)

    async def _forever(self) -> None:
        recovered = 0.0
        while True:
            self._awake.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK):
                    await self._awake.wait()
            try:
                queue = await asyncio.to_thread(self._open)
                if time.monotonic() - recovered > RECOVER:
                    recovered = time.monotonic()
                    await asyncio.to_thread(queue.recover)
                while (job := await asyncio.to_thread(queue.claim, tuple(self.handlers))) is not None:
                    await self._run(queue, job)
            except (UserError, ProblemError) as error:  # another has the job now, or the database is busy, or gone
                log.warning("the queue of jobs: %s", error)

    async def _run(self, queue: JobQueue, job: Job) -> None:
        handler = self.handlers[job.kind]
        try:
            body = await asyncio.to_thread(handler.body, job.config)
            message = await self._done(queue, job, body)
            if message is None:
                await _finish(queue, job, "cancelled")
            else:
                result = await asyncio.to_thread(handler.finish, job, message)
                await _finish(queue, job, "done", result=result)
        except asyncio.CancelledError:
            await asyncio.to_thread(queue.give_back, job)
            raise
        except (WorkerError, ProblemError, UserError) as error:
            await _finish(queue, job, "failed", error=str(error))
        except Exception as error:  # what one job brings up must not end the others
            log.exception("job %s failed", job.id)
            await _finish(queue, job, "failed", error=f"{type(error).__name__}; the server's log has more")

    async def _done(self, queue: JobQueue, job: Job, body: dict[str, Any]) -> Message | None:
        """What the worker answers in the end; None if the job was called off."""
        stream = self.worker.stream(job.kind, body, background=True)
        beat = logged = 0.0
        following: asyncio.Future[Message] | None = None
        progress: dict[str, Any] | None = None
        n_lines = 0
        try:
            following = asyncio.ensure_future(anext(stream))
            while True:
                finished, _ = await asyncio.wait(
                    {following, waking := self._waking()}, timeout=1.0, return_when="FIRST_COMPLETED"
                )
                waking.cancel()
                if following in finished:
                    message = following.result()
                    if message.kind == "done":
                        return message
                    if message.name == "progress":
                        progress = message.body
                    elif message.name == "log" and (n_lines := n_lines + 1) <= MOST_LINES + 1:
                        await asyncio.to_thread(queue.log, job, *_line(message.body, is_last=n_lines > MOST_LINES))
                    following = asyncio.ensure_future(anext(stream))
                now = time.monotonic()
                if progress is not None and now - logged >= LOGGED:
                    logged = now
                    await asyncio.to_thread(queue.log, job, "progress", progress)
                if now - beat >= (LOGGED if progress else BEAT) or self._awake.is_set():
                    beat = now
                    self._awake.clear()
                    if await asyncio.to_thread(queue.beat, job, progress):
                        return None
                    progress = None
        finally:
            if following is not None and not following.done():
                following.cancel()
                await asyncio.gather(following, return_exceptions=True)
            await stream.aclose()

    def _waking(self) -> asyncio.Future[Any]:
        return asyncio.ensure_future(self._awake.wait())


def _line(body: dict[str, Any], *, is_last: bool) -> tuple[str, dict[str, Any]]:
    if is_last:
        return "warning", {"text": f"more than {MOST_LINES} lines; further ones are left out"}
    text = str(body.get("text", ""))
    level = body["level"] if body.get("level") in ("info", "warning", "error") else "info"
    return level, {"text": text if len(text) <= MOST_CHARACTERS else f"{text[:MOST_CHARACTERS]}…"}


async def _finish(queue: JobQueue, job: Job, state: str, **facts: Any) -> None:
    await asyncio.to_thread(partial(queue.finish, job, state, **facts))
