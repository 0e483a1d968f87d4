"""Interrupts that wait: a process asked to stop finishes what it is doing, saves, and then stops."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from threading import current_thread, main_thread
from types import FrameType


@contextmanager
def interruptible() -> Iterator[list[int]]:
    """A list that is empty until the process gets SIGINT or SIGTERM; the step under way is finished first."""
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)

    if current_thread() is not main_thread():  # signals reach the main thread alone
        yield received
        return
    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
