"""Worker: the server's end. Starts the process when it is first needed, and again when it dies.

The process may be killed or run out of memory at any time: whoever waits is told so, and the next task finds a new
process. Restarts back off, so that a model that does not fit does not start it again and again.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
import signal
import socket
import sys
import time
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections import deque
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from monoscope.server.worker.errors import Stopped, TooBusy, TooLate, WorkerError, error_of
from monoscope.server.worker.protocol import HEADER, Ask, Cancel, Frame, Told, arrays_of, lengths, packed
from monoscope.server.worker.spawn import environment
from monoscope.server.worker.state import State

MOST_WAITING = 64
START_SECONDS = 120.0
BACK_OFF, LONGEST_BACK_OFF, CALM = 0.5, 30.0, 60.0  # seconds; one that lived for CALM seconds restarts at once
log = logging.getLogger("monoscope.worker")


@dataclass(slots=True)
class Message:
    """Something the worker told of a task."""

    kind: str
    name: str
    body: dict[str, Any]
    arrays: dict[str, np.ndarray]


@dataclass(slots=True)
class _Pending:
    task: str
    in_background: bool
    messages: asyncio.Queue[Message | WorkerError] = field(default_factory=asyncio.Queue)
    is_under_way: bool = False


@dataclass(slots=True)
class _Shared:
    task: asyncio.Task[Message]
    n_waiting: int = 0


class Worker:
    """Asks the worker process; all methods belong to one event loop.

    memory: bytes of models and dictionaries it holds, as far as it can; device: cpu, cuda, or auto
    """

    def __init__(self, *, memory: float, device: str = "auto") -> None:
        self.memory, self.device = memory, device
        self.state = State()
        self._ids = itertools.count(1)
        self._pending: dict[int, _Pending] = {}
        self._shared: dict[str, _Shared] = {}
        self._process: Process | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._ready = asyncio.Event()
        self._starting: asyncio.Task[None] | None = None
        self._watching: set[asyncio.Task[None]] = set()
        self._failures, self._born = 0, 0.0
        self._last_lines: deque[str] = deque(maxlen=20)
        self._is_closed = False

    async def ask(
        self, task: str, body: Mapping[str, Any], *, seconds: float | None = None, background: bool = False
    ) -> Message:
        """The result of a task. Those who ask for the same at the same time share it.

        It is called off once nobody waits any more. Raises WorkerError.
        """
        key = json.dumps([task, body, background], sort_keys=True)
        shared = self._shared.get(key)
        if shared is None:
            running = asyncio.create_task(self._result(task, body, seconds, background))
            shared = self._shared[key] = _Shared(running)
            running.add_done_callback(lambda _: self._shared.pop(key, None))
        shared.n_waiting += 1
        try:
            return await asyncio.shield(shared.task)
        except asyncio.CancelledError:
            if shared.n_waiting == 1:
                self._shared.pop(key, None)
                shared.task.cancel()
            raise
        finally:
            shared.n_waiting -= 1

    async def _result(self, task: str, body: Mapping[str, Any], seconds: float | None, background: bool) -> Message:
        async with contextlib.aclosing(self.stream(task, body, seconds=seconds, background=background)) as messages:
            async for message in messages:
                if message.kind == "done":
                    return message
        raise AssertionError("a stream ends with its result, or raises")

    async def stream(
        self, task: str, body: Mapping[str, Any], *, seconds: float | None = None, background: bool = False
    ) -> AsyncGenerator[Message]:
        """What the worker tells of a task, its result last. Leaving the iteration calls the task off.

        Raises TooBusy, TooLate, Stopped, Refused, or another WorkerError.
        """
        if len(self._pending) >= MOST_WAITING:
            raise TooBusy(f"{len(self._pending)} tasks wait already; try again in a moment")
        ident, pending = next(self._ids), _Pending(task, background)
        until = None if seconds is None else time.monotonic() + seconds
        self._pending[ident] = pending
        self._announce()
        try:
            await _within(self._started(), until, task, seconds)
            left = None if until is None else max(until - time.monotonic(), 0.01)
            await self._send(Ask(id=ident, task=task, body=dict(body), seconds=left, background=background))
            while True:
                message = await _within(pending.messages.get(), until, task, seconds)
                if isinstance(message, WorkerError):
                    raise message
                yield message
                if message.kind == "done":
                    return
        finally:
            del self._pending[ident]
            self._announce()
            with contextlib.suppress(OSError, Stopped):
                await self._send(Cancel(id=ident))

    async def close(self) -> None:
        """End the process, and with it whatever it does."""
        self._is_closed = True
        if self._starting is not None:
            self._starting.cancel()
        if self._writer is not None:
            self._writer.close()
        if self._process is not None and self._process.returncode is None:
            try:
                async with asyncio.timeout(3):
                    await self._process.wait()
            except TimeoutError:
                self._process.kill()
                await self._process.wait()
        for task in list(self._watching):
            task.cancel()
        await asyncio.gather(*self._watching, return_exceptions=True)

    @property
    def pid(self) -> int | None:
        """The process, while it runs."""
        process = self._process
        return None if process is None or process.returncode is not None else process.pid

    def start(self) -> None:
        """Begin to start the process, unless it runs or is about to."""
        if self._starting is None and not self._ready.is_set() and not self._is_closed:
            self._starting = asyncio.create_task(self._start())
            self._starting.add_done_callback(self._begun)

    async def _started(self) -> None:
        while not self._ready.is_set():
            if self._is_closed:
                raise Stopped("the server is stopping")
            self.start()
            assert self._starting is not None, "it was just begun"
            await asyncio.shield(self._starting)

    def _begun(self, task: asyncio.Task[None]) -> None:
        self._starting = None
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("the worker did not start: %s", error)

    async def _start(self) -> None:
        wait = 0.0 if not self._failures else min(BACK_OFF * 2 ** (self._failures - 1), LONGEST_BACK_OFF)
        await asyncio.sleep(wait)
        self.state.set(phase="loading")
        self._last_lines.clear()
        ours, theirs = socket.socketpair()
        settings = json.dumps({"memory": self.memory, "device": self.device})
        command = [sys.executable, "-m", "monoscope.server.worker", str(theirs.fileno()), settings]
        try:
            self._process = await asyncio.create_subprocess_exec(
                *command, pass_fds=(theirs.fileno(),), stdin=DEVNULL, stdout=DEVNULL, stderr=PIPE, env=environment()
            )
        except OSError as error:
            ours.close()
            raise Stopped(f"the worker cannot be started: {error.strerror}") from None
        finally:
            theirs.close()
        reader, writer = await asyncio.open_connection(sock=ours)
        self._writer = writer
        self._born = time.monotonic()
        first = asyncio.Event()
        for coroutine in (self._read(self._process, reader, writer, first), self._listen(self._process)):
            watching = asyncio.create_task(coroutine)
            self._watching.add(watching)
            watching.add_done_callback(self._watching.discard)
        try:
            async with asyncio.timeout(START_SECONDS):
                await first.wait()
        except TimeoutError:
            self._process.kill()
            raise Stopped(f"the worker did not start within {START_SECONDS:g} s") from None
        if self._process.returncode is not None:
            raise Stopped(f"the worker ended as it started: {self._end(self._process)}")
        self._ready.set()
        self._announce()

    async def _send(self, frame: Frame) -> None:
        if self._writer is None:
            raise Stopped("the worker does not run")
        self._writer.write(packed(frame))
        await self._writer.drain()

    async def _read(
        self, process: Process, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, first: asyncio.Event
    ) -> None:
        try:
            while True:
                head, size = lengths(await reader.readexactly(HEADER.size))
                told = Told.model_validate_json(await reader.readexactly(head))
                payload = await reader.readexactly(size) if size else b""
                first.set()
                self._take(told, arrays_of(told, payload))
        except (asyncio.IncompleteReadError, OSError, ValueError) as error:
            if isinstance(error, ValueError):
                log.error("the worker sent what is no frame: %s", error)
                process.kill()
        finally:
            was_ready = self._ready.is_set()
            self._ready.clear()
            writer.close()
            await process.wait()
            self._ended(process, was_ready=was_ready)
            first.set()

    def _take(self, told: Told, arrays: dict[str, np.ndarray]) -> None:
        if told.kind == "state":
            self.state.set(held=told.body.get("held", []), doing=told.body.get("doing"))
            self._announce()
            return
        pending = self._pending.get(told.id)
        if pending is None:
            return
        if told.kind == "started":
            pending.is_under_way = True
        elif told.kind == "failed":
            pending.messages.put_nowait(error_of(told.name, str(told.body.get("detail", ""))))
        else:
            pending.messages.put_nowait(Message(told.kind, told.name, told.body, arrays))

    def _ended(self, process: Process, *, was_ready: bool) -> None:
        """The process is gone: tell those who wait, and start another, unless this one never got ready."""
        if self._is_closed:
            how = "the server is stopping"
        else:
            how = self._end(process)
            log.error(
                "the worker stopped (%s)%s", how, f"; it said: {self._last_lines[-1]}" if self._last_lines else ""
            )
        for pending in self._pending.values():
            while_ = (
                f" while this ran: {pending.task}" if pending.is_under_way else f" before this began: {pending.task}"
            )
            if pending.in_background and pending.is_under_way and self._last_lines:
                said = {"level": "error", "text": "\n".join(self._last_lines)}
                pending.messages.put_nowait(Message("event", "log", said, {}))
            pending.messages.put_nowait(Stopped(f"the worker stopped ({how}){while_}; it is being restarted"))
        lived = time.monotonic() - self._born
        self._failures = 1 if lived > CALM else self._failures + 1
        self.state.set(phase="crashed", held=[], doing=None, message=f"the worker stopped ({how})")
        if was_ready and not self._is_closed:
            self.state.restarts += 1
            self.start()
        self._announce()

    def _end(self, process: Process) -> str:
        code = process.returncode or 0
        if code >= 0:
            return f"exit code {code}"
        name = signal.strsignal(-code)
        hint = ", as when memory runs out" if -code == signal.SIGKILL else ""
        return f"signal {-code}{f', {name}' if name else ''}{hint}"

    async def _listen(self, process: Process) -> None:
        """What the process says on its standard error, for the log."""
        assert process.stderr is not None, "it is piped"
        while line := await process.stderr.readline():
            text = line.decode(errors="replace").rstrip()
            self._last_lines.append(text)
            log.warning("worker: %s", text)

    def _announce(self) -> None:
        if self._ready.is_set():
            is_busy = self.state.doing is not None
            self.state.set(phase="busy" if is_busy else "ready", message=None)
        self.state.set(waiting=sum(not pending.is_under_way for pending in self._pending.values()))


async def _within(awaitable: Any, until: float | None, task: str, seconds: float | None) -> Any:
    try:
        async with asyncio.timeout(None if until is None else until - time.monotonic()):
            return await awaitable
    except TimeoutError:
        raise TooLate(f"not done within {seconds:g} s: {task}") from None
