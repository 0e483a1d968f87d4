"""What the worker process is doing, for those who want to know, and are told when it changes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any, Literal

from monoscope.server.wire.worker import WorkerModel, WorkerStatus


class State:
    """cold, loading, ready, busy or crashed; what is in memory; how many wait."""

    def __init__(self) -> None:
        self.phase: Literal["cold", "loading", "ready", "busy", "crashed"] = "cold"
        self.doing: str | None = None
        self.waiting = 0
        self.held: list[dict[str, Any]] = []
        self.restarts = 0
        self.message: str | None = None
        self._version = 0
        self._changed = asyncio.Condition()
        self._tasks: set[asyncio.Task[None]] = set()

    def status(self) -> WorkerStatus:
        """As it crosses the wire."""
        return WorkerStatus(
            state=self.phase,
            doing=self.doing,
            waiting=self.waiting,
            models=[WorkerModel.model_validate(item) for item in self.held],
            restarts=self.restarts,
            message=self.message,
        )

    def set(self, **facts: Any) -> None:
        """Change facts, and tell those who listen if any is new."""
        is_new = False
        for name, value in facts.items():
            if getattr(self, name) != value:
                setattr(self, name, value)
                is_new = True
        if is_new:
            self._version += 1
            task = asyncio.get_running_loop().create_task(self._tell())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def changes(self) -> AsyncGenerator[WorkerStatus]:
        """The status now, and whenever it changes; what changes faster than it is read is told once."""
        seen = -1
        while True:
            async with self._changed:
                while self._version == seen:
                    await self._changed.wait()
                seen = self._version
            yield self.status()

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()
