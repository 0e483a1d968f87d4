"""Progress with rate and time left, for anything that takes longer than two seconds.

The library reports; where reports go is decided once, at the top: a Rich bar on a terminal, plain lines every ten
seconds otherwise, JSON events with ``--json``, nothing with ``silent()``.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol, TextIO, runtime_checkable


@runtime_checkable
class Bar(Protocol):
    """One running task."""

    def advance(self, n: int, **facts: Any) -> None:
        """Count ``n`` more units; ``facts`` are shown beside the bar (``fvu=0.12``)."""
        ...

    def finish(self) -> None:
        """End the task."""
        ...


@runtime_checkable
class Reporter(Protocol):
    """Where progress goes."""

    def start(self, title: str, total: int | None, unit: str) -> Bar:
        """Begin a task of ``total`` units, or of unknown length."""
        ...


class _Count:
    """Rate and time left of a task."""

    def __init__(self, title: str, total: int | None, unit: str) -> None:
        self.title, self.total, self.unit = title, total, unit
        self.done = 0
        self.facts: dict[str, Any] = {}
        self.started = self.reported = time.monotonic()

    def count(self, n: int, facts: dict[str, Any]) -> None:
        self.done += n
        self.facts |= facts

    def event(self) -> dict[str, Any]:
        seconds = max(time.monotonic() - self.started, 1e-9)
        rate = self.done / seconds
        left = (self.total - self.done) / rate if self.total is not None and rate > 0 else None
        return {
            "task": self.title,
            "done": self.done,
            "total": self.total,
            "unit": self.unit,
            "rate": round(rate, 1),
            "seconds": round(seconds, 1),
            "seconds_left": None if left is None else round(max(left, 0.0), 1),
            **self.facts,
        }


class _LineBar(_Count):
    def __init__(self, title: str, total: int | None, unit: str, stream: TextIO, every: float, as_json: bool) -> None:
        super().__init__(title, total, unit)
        self.stream, self.every, self.as_json = stream, every, as_json

    def advance(self, n: int, **facts: Any) -> None:
        self.count(n, facts)
        now = time.monotonic()
        if now - self.reported >= self.every:
            self.reported = now
            self.write()

    def finish(self) -> None:
        if time.monotonic() - self.started > 2.0:
            self.write()

    def write(self) -> None:
        event = self.event()
        print(json.dumps(event) if self.as_json else _line(event), file=self.stream, flush=True)


def _line(event: dict[str, Any]) -> str:
    if event["total"] is None and not event["done"]:
        return f"{event['task']}: {event['seconds']:,.0f} s"
    done = f"{event['done']:,}" + ("" if event["total"] is None else f" / {event['total']:,}")
    left = "" if event["seconds_left"] is None else f", {event['seconds_left']:,.0f} s left"
    known = ("task", "done", "total", "unit", "rate", "seconds", "seconds_left")
    facts = "".join(f", {k} {_short(v)}" for k, v in event.items() if k not in known)
    return f"{event['task']}: {done} {event['unit']}, {event['rate']:,.0f}/s{left}{facts}"


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


class Lines:
    """Plain lines, or JSON events, on a stream: one every ``every`` seconds, and one at the end.

    A task shorter than two seconds leaves no trace.
    """

    def __init__(self, stream: TextIO | None = None, *, every: float = 10.0, as_json: bool = False) -> None:
        self.stream, self.every, self.as_json = stream or sys.stderr, every, as_json

    def start(self, title: str, total: int | None, unit: str) -> _LineBar:
        """Begin a task."""
        return _LineBar(title, total, unit, self.stream, self.every, self.as_json)


class _RichBar(_Count):
    def __init__(self, title: str, total: int | None, unit: str) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        super().__init__(title, total, unit)
        columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[note]}"))
        self.progress = Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), refresh_per_second=4)
        self.progress.start()
        self.task = self.progress.add_task(title, total=total, note="")

    def advance(self, n: int, **facts: Any) -> None:
        self.count(n, facts)
        rate = self.event()["rate"]
        shown = "  ".join([f"{rate:,.0f} {self.unit}/s", *(f"{k} {_short(v)}" for k, v in self.facts.items())])
        self.progress.update(self.task, advance=n, note=shown)

    def finish(self) -> None:
        self.progress.stop()


class Bars:
    """Rich progress bars on a terminal."""

    def start(self, title: str, total: int | None, unit: str) -> _RichBar:
        """Begin a task."""
        return _RichBar(title, total, unit)


class _Nothing:
    def start(self, title: str, total: int | None, unit: str) -> _Nothing:
        return self

    def advance(self, n: int, **facts: Any) -> None: ...

    def finish(self) -> None: ...


class _Heard:
    """A bar for as long as there is somebody to see it: work goes on after a terminal was closed or a pipe broke."""

    def __init__(self, start: Callable[[], Bar]) -> None:
        self.bar: Bar = _Nothing()
        with self._unless_closed():
            self.bar = start()

    def advance(self, n: int, **facts: Any) -> None:
        with self._unless_closed():
            self.bar.advance(n, **facts)

    def finish(self) -> None:
        with self._unless_closed():
            self.bar.finish()

    @contextmanager
    def _unless_closed(self) -> Iterator[None]:
        try:
            yield
        except OSError:
            self.bar = _Nothing()


_reporter: ContextVar[Reporter | None] = ContextVar("reporter", default=None)


def _current() -> Reporter:
    chosen = _reporter.get()
    if chosen is not None:
        return chosen
    return Bars() if sys.stderr.isatty() else Lines()


@contextmanager
def reporting(reporter: Reporter) -> Iterator[None]:
    """Within the block, progress goes to ``reporter``."""
    token = _reporter.set(reporter)
    try:
        yield
    finally:
        _reporter.reset(token)


@contextmanager
def silent() -> Iterator[None]:
    """Within the block, progress goes nowhere."""
    with reporting(_Nothing()):
        yield


@contextmanager
def progress(title: str, total: int | None, unit: str = "tokens") -> Iterator[Bar]:
    """A task in progress: ``with progress("train", 600_000) as bar: ... bar.advance(4096, fvu=0.1)``."""
    reporter = _current()
    # A task inside a task would draw over its parent's bar, so only the outermost one is shown.
    with silent():
        bar = _Heard(lambda: reporter.start(title, total, unit))
        try:
            yield bar
        finally:
            bar.finish()
