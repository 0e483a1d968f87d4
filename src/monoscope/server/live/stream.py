"""Server-sent events: named events with ids, a comment every 15 s so that nothing on the way gives the connection up.

A reader that lost its connection says in ``Last-Event-ID`` what it has seen. Streams that can be resumed have ids.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

from fastapi.responses import StreamingResponse
from pydantic import BaseModel

KEEP_ALIVE, GLANCE = 15.0, 1.0  # seconds; how often it is looked whether the server stops
MEDIA_TYPE = "text/event-stream"


@dataclass(frozen=True, slots=True)
class Event:
    """One event. ``data`` becomes JSON."""

    name: str
    data: BaseModel | dict[str, Any]
    id: int | None = None

    def encoded(self) -> bytes:
        """As it crosses the wire."""
        data = self.data.model_dump_json() if isinstance(self.data, BaseModel) else json.dumps(self.data)
        ident = "" if self.id is None else f"id: {self.id}\n"
        return f"{ident}event: {self.name}\ndata: {data}\n\n".encode()


class EventStream(StreamingResponse):
    """A response of events, which ends when the server does."""

    media_type = MEDIA_TYPE

    def __init__(self, events: AsyncGenerator[Event], stopping: threading.Event) -> None:
        # X-Accel-Buffering: proxies that would collect events before they pass them on
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(_encoded(events, stopping), headers=headers)


async def _encoded(events: AsyncGenerator[Event], stopping: threading.Event) -> AsyncGenerator[bytes]:
    following: asyncio.Future[Event] | None = None
    try:
        yield b": open\n\n"
        while True:
            following = asyncio.ensure_future(anext(events))
            silent_since = time.monotonic()
            while not (await asyncio.wait({following}, timeout=GLANCE))[0]:
                if stopping.is_set():
                    return
                if time.monotonic() - silent_since >= KEEP_ALIVE:
                    silent_since = time.monotonic()
                    yield b": still here\n\n"
            try:
                event = following.result()
            except StopAsyncIteration:
                return
            yield event.encoded()
    finally:
        if following is not None and not following.done():
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
        await events.aclose()


def last_seen(header: str | None) -> int:
    """The id in ``Last-Event-ID``; 0 where there is none that we sent."""
    return int(header) if header is not None and header.isascii() and header.isdigit() and len(header) < 19 else 0
