"""What the routes of training runs give: where a run is, its curves, its settings."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from monoscope.server.wire.base import Number, Slug, Wire
from monoscope.server.wire.library import RunCard


class RunList(Wire):
    """Training runs: those under way first, then the newest."""

    runs: list[RunCard]


class Curve(Wire):
    """One column of a log by step. Of long logs each bucket keeps its lowest and its highest value."""

    step: list[int]
    value: list[Number]


class Log(Wire):
    """The log of one dictionary of a run.

    name: of the dictionary in the run, empty if it is the only one
    end: where the log ends now, from which its events go on
    """

    name: str
    n_rows: int
    end: int
    curves: dict[str, Curve]


class Checkpoint(Wire):
    """What of a run can be opened, or continued.

    kind: dictionary, finished; snapshot, as it was after ``tokens``; resume, the state that ``--resume`` continues from
    dictionary: the bundle of its features, if it is in the library
    """

    kind: Literal["dictionary", "snapshot", "resume"]
    name: str
    path: str
    written: str
    dictionary: Slug | None
    tokens: int | None


class Run(Wire):
    """A run with its settings and curves. ``seconds_left`` is at the rate of its last row."""

    card: RunCard
    config: dict[str, Any]
    logs: list[Log]
    checkpoints: list[Checkpoint]
    seconds_left: Number


class Difference(Wire):
    """A setting of two runs, by its dotted key; null where a run does not have it."""

    key: str
    a: Any
    b: Any


class RunsDiff(Wire):
    """Settings in which two runs differ, and how many are the same."""

    a: Slug
    b: Slug
    differences: list[Difference]
    n_same: int


class RunEnd(Wire):
    """Event ``end``: the run has ended, and its log will not grow."""

    card: RunCard


class RunRows(Wire):
    """Event ``rows``: what a log gained; its id is where in the log it ends. ``card`` says how the run stands.

    Event ``reset``: the log is another one, since the run went on from a checkpoint; its rows follow from the start.
    """

    log: str
    rows: list[dict[str, Number]] = Field(max_length=1000)
    card: RunCard
