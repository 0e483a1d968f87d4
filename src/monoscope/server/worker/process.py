"""The loop of the worker process: one task at a time; one in the background lets those in the foreground pass.

Long tasks report their progress (``core.progress``), and each report is a place where they can be called off, and where
tasks that somebody waits for are done in between.
"""

from __future__ import annotations

import gc
import logging
import socket
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel

from monoscope.core.errors import UserError
from monoscope.core.progress import reporting
from monoscope.server.worker.inbox import Called, Inbox, Task
from monoscope.server.worker.protocol import Told
from monoscope.server.worker.said import Said
from monoscope.server.worker.shelf import Shelf

EVERY = 0.25  # seconds between two reports of a task's progress
log = logging.getLogger("monoscope.worker")


class Context:
    """What a task may use: the shelf, and ways to tell how it goes on."""

    def __init__(self, loop: Loop, task: Task) -> None:
        self._loop, self._task = loop, task
        self.shelf = loop.shelf

    def check(self) -> None:
        """A place where the task may be called off. Raises Called if it was."""
        self._loop.inbox.check(self._task)

    def tell(
        self, name: str, body: Mapping[str, Any] | BaseModel, arrays: Mapping[str, np.ndarray] | None = None
    ) -> None:
        """Send an event."""
        plain = body.model_dump() if isinstance(body, BaseModel) else dict(body)
        self._loop.inbox.tell(Told(kind="event", id=self._task.ask.id, name=name, body=plain), arrays)

    def say(self, level: str, text: str) -> None:
        """Send a line of the task's log."""
        self.tell("log", {"level": level, "text": text})

    def let_pass(self) -> None:
        """Check; and of a task in the background, do first what somebody waits for."""
        self.check()
        while self._task.ask.background and (urgent := self._loop.inbox.urgent()) is not None:
            self._loop.run(urgent)
            self._loop.announce(self._task)

    def start(self, title: str, total: int | None, unit: str) -> Bar:
        """Begin to report the progress of something (``core.progress.Reporter``)."""
        return Bar(self, title, total, unit)


class Bar:
    """Progress of one part of a task, told at most every quarter of a second."""

    def __init__(self, context: Context, title: str, total: int | None, unit: str) -> None:
        self._context, self._title, self._total, self._unit = context, title, total, unit
        self._done, self._facts, self._started, self._told = 0, {}, time.monotonic(), 0.0
        self._tell()

    def advance(self, n: int, **facts: Any) -> None:
        """Count ``n`` more units."""
        self._done += n
        self._facts |= facts
        self._context.let_pass()
        if time.monotonic() - self._told >= EVERY:
            self._tell()

    def finish(self) -> None:
        """End."""
        self._tell()
        seconds = self._told - self._started
        log.info("%s: %s %s in %.1f s, %.3g/s", self._title, f"{self._done:,}", self._unit, seconds, self._rate())

    def _tell(self) -> None:
        self._told = time.monotonic()
        rate = self._rate()
        left = None if self._total is None or not self._done else max(0.0, (self._total - self._done) / rate)
        facts = {name: value for name, value in self._facts.items() if isinstance(value, (int, float, str))}
        body = {"task": self._title, "done": self._done, "total": self._total, "unit": self._unit}
        self._context.tell("progress", body | {"rate": rate, "seconds_left": left, "facts": facts})

    def _rate(self) -> float:
        return self._done / max(self._told - self._started, 1e-9)


Result = tuple[BaseModel | Mapping[str, Any], Mapping[str, np.ndarray]]
Job = Callable[[Context, dict[str, Any]], Result]


class Loop:
    """Tasks, one after the other."""

    def __init__(self, inbox: Inbox, shelf: Shelf, jobs: Mapping[str, Job]) -> None:
        self.inbox, self.shelf, self.jobs = inbox, shelf, jobs
        self.said = Said()

    def forever(self) -> None:
        """Serve."""
        while True:
            self.run(self.inbox.next())
            self.announce(None)

    def announce(self, task: Task | None) -> None:
        """Tell what is in memory, and which task is under way."""
        body = {"held": self.shelf.held(), "doing": None if task is None else task.ask.task}
        self.inbox.tell(Told(kind="state", id=0, body=body))

    def run(self, task: Task) -> None:
        """Do one task, and tell how it ended; whatever goes wrong in it ends it alone."""
        ident, context = task.ask.id, Context(self, task)
        try:
            context.check()
            self.inbox.tell(Told(kind="started", id=ident, name=task.ask.task))
            self.announce(task)
            heard = self.said.to(context.say if task.ask.background else None)
            with torch.no_grad(), reporting(context), heard:
                body, arrays = self.jobs[task.ask.task](context, task.ask.body)
            plain = body.model_dump() if isinstance(body, BaseModel) else dict(body)
            self.inbox.tell(Told(kind="done", id=ident, body=plain), arrays)
        except Called as called:
            self._failed(ident, "called", str(called))
        except UserError as error:
            self._failed(ident, type(error).__name__, str(error))
        except (MemoryError, torch.OutOfMemoryError) as error:
            self.shelf.clear()
            gc.collect()
            self._failed(ident, "memory", f"not enough memory while {task.ask.task}: {str(error).splitlines()[0]}")
        except Exception as error:  # the process goes on: what it holds took long to load
            log.exception("task %s failed", task.ask.task)
            self._failed(ident, "internal", f"{type(error).__name__} while {task.ask.task}; the server's log has more")
        finally:
            self.inbox.forget(task)

    def _failed(self, ident: int, title: str, detail: str) -> None:
        self.inbox.tell(Told(kind="failed", id=ident, name=title, body={"detail": detail}))


def serve(connection: socket.socket, *, memory: float, device: str) -> None:
    """Serve a connection until it closes."""
    from monoscope.server.worker.tasks import TASKS

    logging.basicConfig(format="%(message)s")
    logging.captureWarnings(True)
    logging.getLogger().handlers[0].setLevel(logging.WARNING)
    logging.getLogger("monoscope").setLevel(logging.INFO)
    inbox = Inbox(connection)
    chosen = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    loop = Loop(inbox, Shelf(memory, chosen), TASKS)
    logging.getLogger().addHandler(loop.said)
    inbox.start()
    loop.announce(None)
    loop.forever()
