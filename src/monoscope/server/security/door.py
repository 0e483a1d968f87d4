"""The token, and the cookie it is exchanged for; an address that fails ten times in a minute waits for one.

The cookie is an HMAC of the token, so that the token itself is nowhere in the browser; its name carries the port,
because cookies ignore ports and two servers of one machine would overwrite each other's. So is the token of readers,
who may look at everything and change nothing: it can stand in an address that is given away.
"""

from __future__ import annotations

import hashlib
import hmac
import threading
import time
from collections import deque
from collections.abc import Callable
from enum import Enum

FAILURES, MINUTE, ADDRESSES = 10, 60.0, 10_000


class Answer(Enum):
    """What the door says."""

    OPEN = "open"
    UNKNOWN = "no token was sent"
    WRONG = "the token is not this server's"
    READER = "this token is for reading only"
    LOCKED = "too many wrong tokens came from this address"


class Door:
    """Checks tokens and cookies, in constant time. Without a token the door stands open."""

    def __init__(self, token: str, port: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._token = token.encode()
        self.cookie = f"monoscope-{port}"
        self.cookie_value = hmac.new(self._token, b"cookie", hashlib.sha256).hexdigest()
        self.reader = hmac.new(self._token, b"reader", hashlib.sha256).hexdigest() if token else None
        self._clock = clock
        self._lock = threading.Lock()
        self._failures: dict[str, deque[float]] = {}

    @property
    def is_open(self) -> bool:
        """Whether no token is asked for."""
        return not self._token

    def admits(
        self, address: str, *, token: str | None = None, cookie: str | None = None, reads: bool = False
    ) -> Answer:
        """Whether who sends this comes in. A token that is not this server's counts against its address.

        reads: nothing is asked to change, so that the token of readers is good enough
        """
        if self.is_open or (cookie is not None and self._equal(cookie, self.cookie_value.encode())):
            return Answer.OPEN
        if token is None and cookie is None:
            return Answer.UNKNOWN
        if self._is_locked(address):
            return Answer.LOCKED
        if token is not None and self._equal(token, self._token):
            return Answer.OPEN
        if token is not None and self.reader and self._equal(token, self.reader.encode()):
            return Answer.OPEN if reads else Answer.READER
        if token is not None:
            self._count(address)
        return Answer.WRONG

    def _equal(self, given: str, right: bytes) -> bool:
        return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), right)

    def _is_locked(self, address: str) -> bool:
        with self._lock:
            times = self._failures.get(address)
            if times is None:
                return False
            while times and self._clock() - times[0] > MINUTE:
                times.popleft()
            if not times:
                del self._failures[address]
            return len(times) >= FAILURES

    def _count(self, address: str) -> None:
        with self._lock:
            if len(self._failures) >= ADDRESSES:
                self._failures.pop(next(iter(self._failures)))
            self._failures.setdefault(address, deque(maxlen=FAILURES)).append(self._clock())
