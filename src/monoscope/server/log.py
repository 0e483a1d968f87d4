"""What the server says of itself: one JSON object a line, on standard error; of addresses, never the query."""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
from datetime import UTC, datetime
from typing import Any, TextIO

_LOCK = threading.Lock()


class Log:
    """Writes events. ``requests``: all of them, and not only those that fail."""

    def __init__(self, stream: TextIO | None = None, *, requests: bool = False) -> None:
        self._stream, self.requests = stream, requests

    def write(self, level: str, event: str, **facts: Any) -> None:
        """One event."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = json.dumps({"time": now, "level": level, "event": event, **facts}, default=str)
        with _LOCK:
            print(line, file=self._stream or sys.stderr, flush=True)

    def request(self, method: str, path: str, status: int, began: float, client: str) -> None:
        """A request that was answered."""
        ms = round((time.perf_counter() - began) * 1000, 1)
        if self.requests or status >= 500 or status in (401, 403, 421, 429):
            level = "error" if status >= 500 else "warning" if status >= 400 else "info"
            self.write(level, "request", method=method, path=path, status=status, ms=ms, client=client)


class Bridge(logging.Handler):
    """What other packages log, in the same form."""

    def __init__(self, log: Log) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        """One record."""
        facts = {"error": repr(record.exc_info[1])} if record.exc_info else {}
        self._log.write(record.levelname.lower(), record.name, message=record.getMessage(), **facts)
