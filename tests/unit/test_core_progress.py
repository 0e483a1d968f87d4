"""Progress: who hears of it, and what they are told."""

from __future__ import annotations

import io
import json
from collections.abc import Callable

import pytest

from monoscope.core import progress as module
from monoscope.core.progress import Bars, Lines, progress, reporting, silent


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """A clock that moves when told."""
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])

    def advance(seconds: float) -> None:
        now[0] += seconds

    return advance


def test_lines_give_rate_and_time_left(clock: Callable[[float], None]) -> None:
    stream = io.StringIO()
    with reporting(Lines(stream)), progress("train", 10_000, "tokens") as bar:
        clock(4)
        bar.advance(2000)
        assert stream.getvalue() == ""
        clock(16)
        bar.advance(3000, fvu=0.123456, stage="warm-up")
    first, last = stream.getvalue().splitlines()
    assert first == "train: 5,000 / 10,000 tokens, 250/s, 20 s left, fvu 0.1235, stage warm-up"
    assert last == first


def test_json_events(clock: Callable[[float], None]) -> None:
    stream = io.StringIO()
    with reporting(Lines(stream, as_json=True)), progress("harvest", None, "tokens") as bar:
        clock(11)
        bar.advance(110, fvu=0.5)
    events = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert events[0] == {
        "task": "harvest",
        "done": 110,
        "total": None,
        "unit": "tokens",
        "rate": 10.0,
        "seconds": 11.0,
        "seconds_left": None,
        "fvu": 0.5,
    }


def test_a_task_that_counts_nothing_tells_how_long_it_took(clock: Callable[[float], None]) -> None:
    stream = io.StringIO()
    with reporting(Lines(stream)), progress("describe", None, "steps"):
        clock(7)
    assert stream.getvalue() == "describe: 7 s\n"


def test_short_tasks_leave_no_trace(clock: Callable[[float], None]) -> None:
    stream = io.StringIO()
    with reporting(Lines(stream)), progress("blink", 3) as bar:
        clock(1.9)
        bar.advance(3)
    assert stream.getvalue() == ""


def test_only_the_outermost_task_is_shown(clock: Callable[[float], None]) -> None:
    stream = io.StringIO()
    with reporting(Lines(stream)), progress("outer", 2) as outer:
        with progress("inner", 2) as inner:
            clock(30)
            inner.advance(2)
        outer.advance(2)
    assert "outer" in stream.getvalue()
    assert "inner" not in stream.getvalue()


def test_a_failed_task_still_ends_and_the_reporter_is_restored(clock: Callable[[float], None]) -> None:
    outer, inner = io.StringIO(), io.StringIO()
    with reporting(Lines(outer)):
        with pytest.raises(RuntimeError), reporting(Lines(inner)), progress("doomed", 5) as bar:
            clock(3)
            bar.advance(1)
            raise RuntimeError
        with progress("after", 1) as bar:
            clock(3)
    assert inner.getvalue().startswith("doomed: 1 / 5")
    assert outer.getvalue().startswith("after: 0 / 1")


def test_silence(clock: Callable[[float], None], capsys: pytest.CaptureFixture[str]) -> None:
    with silent(), progress("unheard", 5) as bar:
        clock(60)
        bar.advance(5)
    assert capsys.readouterr() == ("", "")


def test_bars_draw_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    with reporting(Bars()), progress("train", 10, "tokens") as bar:
        bar.advance(10, fvu=0.25)
    out, err = capsys.readouterr()
    assert out == ""
    assert "train" in err
    assert "fvu 0.25" in err


def test_lines_by_default_where_there_is_no_terminal(
    clock: Callable[[float], None], capsys: pytest.CaptureFixture[str]
) -> None:
    with progress("plain", 1) as bar:
        clock(10)
        bar.advance(1)
    assert capsys.readouterr().err.startswith("plain: 1 / 1 tokens")
