"""The worker's end of the socket: tasks that came, tasks that were called off, and what is told of them.

A thread reads, so that a cancellation is known at the next step of a task, and the end of the server at once: the
process ends with it.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from monoscope.server.worker.protocol import HEADER, Ask, Cancel, Told, lengths, packed

_incoming: TypeAdapter[Ask | Cancel] = TypeAdapter(Ask | Cancel)


class Called(Exception):
    """The task was called off, or its time is over."""

    def __init__(self, why: str) -> None:
        super().__init__(why)


@dataclass(frozen=True, slots=True)
class Task:
    """A task and when it must be done, on this process's clock."""

    ask: Ask
    until: float | None


class Inbox:
    """Tasks in the order they came, those in the foreground first."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._foreground: deque[Task] = deque()
        self._background: deque[Task] = deque()
        self._cancelled: set[int] = set()
        self._arrived = threading.Condition()
        self._sending = threading.Lock()

    def start(self) -> None:
        """Begin to read."""
        threading.Thread(target=self._read, name="inbox", daemon=True).start()

    def next(self) -> Task:
        """The next task; waits for one."""
        with self._arrived:
            while True:
                task = self._pop()
                if task is not None:
                    return task
                self._arrived.wait()

    def urgent(self) -> Task | None:
        """A task in the foreground, if one waits: for those in the background to let pass."""
        with self._arrived:
            return self._foreground.popleft() if self._foreground else None

    def check(self, task: Task) -> None:
        """Raises Called once a task has been called off or its time is over."""
        if task.ask.id in self._cancelled:
            raise Called("cancelled")
        if task.until is not None and time.monotonic() > task.until:
            raise Called(f"not done within {task.ask.seconds:g} s")

    def forget(self, task: Task) -> None:
        """A task is over."""
        with self._arrived:
            self._cancelled.discard(task.ask.id)

    def tell(self, told: Told, arrays: Mapping[str, np.ndarray] | None = None) -> None:
        """Send something to the server."""
        frame = packed(told, arrays)
        with self._sending:
            self._connection.sendall(frame)

    def _pop(self) -> Task | None:
        for waiting in (self._foreground, self._background):
            if waiting:
                return waiting.popleft()
        return None

    def _read(self) -> None:
        try:
            while True:
                head, payload = lengths(self._exactly(HEADER.size))
                frame = _incoming.validate_json(self._exactly(head))
                self._exactly(payload)
                self._take(frame)
        except (EOFError, OSError):
            os._exit(0)  # the server is gone, and the task under way serves nobody

    def _take(self, frame: Ask | Cancel) -> None:
        with self._arrived:
            if isinstance(frame, Cancel):
                self._cancelled.add(frame.id)
                return
            until = None if frame.seconds is None else time.monotonic() + frame.seconds
            (self._background if frame.background else self._foreground).append(Task(frame, until))
            self._arrived.notify()

    def _exactly(self, n: int) -> bytes:
        parts: list[Any] = []
        while n:
            part = self._connection.recv(min(n, 2**20))
            if not part:
                raise EOFError
            parts.append(part)
            n -= len(part)
        return b"".join(parts)
