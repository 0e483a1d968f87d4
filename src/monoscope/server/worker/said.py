"""What a task in the background says on its way: the log records of its process, told to the server as they come."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Tell = Callable[[str, str], None]  # level and text


class Said(logging.Handler):
    """Passes records on while somebody listens. A traceback stays in the server's own log."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self._tell: Tell | None = None

    @contextmanager
    def to(self, tell: Tell | None) -> Iterator[None]:
        """Within: records go there; to nobody for None."""
        before, self._tell = self._tell, tell
        try:
            yield
        finally:
            self._tell = before

    def emit(self, record: logging.LogRecord) -> None:
        """Pass a record on."""
        if self._tell is not None:
            level = "error" if record.levelno >= logging.ERROR else record.levelname.lower()
            self._tell(level, record.getMessage())
