"""Interrupts that wait: a process asked to stop finishes what it is doing, saves, and then stops."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from threading import current_thread, main_thread
from types import FrameType

STOP = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # Ctrl-C, a scheduler, a terminal that was closed


@contextmanager
def interruptible() -> Iterator[list[int]]:
    """A list that is empty until the process is asked to stop; the step under way is finished first.

    Asked a second time, the process ends at once. Under ``nohup`` a closed terminal asks nothing.
    """
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)
        for other in before:
            signal.signal(other, signal.SIG_DFL)

    if current_thread() is not main_thread():  # signals reach the main thread alone
        yield received
        return
    under_nohup = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    before = {number: signal.signal(number, note) for number in STOP if not (number == signal.SIGHUP and under_nohup)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
