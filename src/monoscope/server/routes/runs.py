"""``/runs``: training runs, their curves as they grow, their settings and how two differ."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Header, Query, Request
from fastapi import Path as InPath
from fastapi.responses import Response

from monoscope.server.cards import run_card
from monoscope.server.library.discover import SNAPSHOTS
from monoscope.server.library.library import Run as Found
from monoscope.server.live.stream import Event, EventStream, last_seen
from monoscope.server.problems import ProblemError, shown
from monoscope.server.routes import API
from monoscope.server.runs.log import curves, logs_of, read
from monoscope.server.runs.settings import differences, settings_of
from monoscope.server.state import State, StateDep
from monoscope.server.wire.base import SLUG
from monoscope.server.wire.runs import Checkpoint, Log, Run, RunEnd, RunList, RunRows, RunsDiff

router = APIRouter(prefix=f"{API}/runs", tags=["runs"])

RunId = Annotated[str, InPath(pattern=SLUG, description="A run of the library.")]
LogName = Annotated[str, Query(max_length=200, description="Which dictionary of the run, where it trains several.")]
EVERY = 1.0  # seconds between two looks at a log
MOST_ROWS = 1000  # in one event
CHECKPOINTS = "checkpoint-*.pt"
OPENABLE = ("config.toml", "weights.safetensors")
MOST_SNAPSHOTS = 200  # shown of each dictionary


@router.get("", response_model=RunList)
async def runs(request: Request, state: StateDep) -> Response:
    """Training runs: those under way first, then the newest."""
    return await state.pool.answer(request, lambda stop: _runs(state))


@router.get("/diff", response_model=RunsDiff)
async def diff(
    request: Request, state: StateDep, a: Annotated[str, Query(pattern=SLUG)], b: Annotated[str, Query(pattern=SLUG)]
) -> Response:
    """Settings in which two runs differ."""
    first, second = run_of(state, a), run_of(state, b)

    def job(stop: object) -> RunsDiff:
        found, n_same = differences(settings_of(first.path), settings_of(second.path))
        return RunsDiff(a=a, b=b, differences=found, n_same=n_same)

    return await state.pool.answer(request, job)


@router.get("/{run}", response_model=Run)
async def run(
    request: Request, state: StateDep, run: RunId, points: Annotated[int, Query(ge=10, le=10_000)] = 1000
) -> Response:
    """A run: settings, curves of at most ``points`` points, and what can be opened or continued."""
    found = run_of(state, run)
    return await state.pool.answer(request, lambda stop: _run(state, found, points))


@router.get("/{run}/events", status_code=200, response_class=EventStream, responses={200: {"model": RunRows | RunEnd}})
async def events(
    state: StateDep,
    run: RunId,
    log: LogName = "",
    after: Annotated[int, Query(ge=0, lt=2**60, description="Where the log was read to: ``end`` of its curves.")] = 0,
    last_event_id: Annotated[str | None, Header()] = None,
) -> EventStream:
    """Event ``rows`` whenever a log grows, ``end`` once the run has ended; ids say where a lost connection goes on."""
    found = run_of(state, run)
    logs = await asyncio.to_thread(logs_of, found.path)
    if log not in logs:
        raise ProblemError(404, f"{run} has no log {shown(log)!r}", found=shown(log), expected=list(logs)[:20])
    return EventStream(_rows(state, found, log, logs[log], last_seen(last_event_id) or after), state.stopping)


def run_of(state: State, id: str) -> Found:
    """The run of an id. Raises ProblemError."""
    found = state.library.run(id)
    if found is None:
        known = [run.id for run in state.library.runs]
        raise ProblemError(404, f"the library has no run {shown(id)!r}", found=shown(id), expected=known[:20])
    return found


def _runs(state: State) -> RunList:
    cards = [run_card(state, run) for run in state.library.runs]
    newest = sorted(cards, key=lambda card: card.updated or "", reverse=True)
    return RunList(runs=sorted(newest, key=lambda card: card.state != "running"))


def _run(state: State, found: Found, points: int) -> Run:
    card = run_card(state, found)
    logs = []
    for name, path in logs_of(found.path).items():
        part = read(path)
        logs.append(Log(name=name, n_rows=len(part.rows), end=part.end, curves=curves(part.rows, points)))
    rate = card.last.get("tokens_per_s")
    left = None
    if card.state == "running" and rate and card.total_tokens and card.tokens is not None:
        left = max(0.0, (card.total_tokens - card.tokens) / rate)
    return Run(
        card=card,
        config=settings_of(found.path),
        logs=logs,
        checkpoints=_checkpoints(state, found.path, [log.name for log in logs]),
        seconds_left=left,
    )


def _checkpoints(state: State, run: Path, names: list[str]) -> list[Checkpoint]:
    found = []
    for name in names or [""]:
        directory = run / name if name else run
        if all((directory / file).is_file() for file in OPENABLE):
            found.append(_checkpoint(state, "dictionary", name, directory, directory / OPENABLE[0]))
        for tokens, path in _snapshots(directory):
            found.append(_checkpoint(state, "snapshot", name, path, path / OPENABLE[0], tokens))
    found += [_checkpoint(state, "resume", "", run, file) for file in sorted(run.glob(CHECKPOINTS), reverse=True)]
    return found


def _snapshots(directory: Path) -> list[tuple[int, Path]]:
    """Dictionaries that were saved on the way, the last first, by the tokens they had seen."""
    paths = [path for path in (directory / SNAPSHOTS).glob("*") if re.fullmatch(r"\d{1,18}", path.name)]
    whole = [path for path in paths if all((path / file).is_file() for file in OPENABLE)]
    return sorted(((int(path.name), path) for path in whole), reverse=True)[:MOST_SNAPSHOTS]


def _checkpoint(state: State, kind: str, name: str, path: Path, file: Path, tokens: int | None = None) -> Checkpoint:
    bundles = [] if kind == "resume" else state.library.described(path)
    bundle = bundles[0].id if bundles else None
    written = datetime.fromtimestamp(file.stat().st_mtime, UTC).isoformat(timespec="seconds")
    return Checkpoint.model_validate(
        {"kind": kind, "name": name, "path": str(path), "written": written, "dictionary": bundle, "tokens": tokens}
    )


async def _rows(state: State, found: Found, name: str, path: Path, after: int) -> AsyncGenerator[Event]:
    while True:
        card = await asyncio.to_thread(run_card, state, found)  # first: what is written before the end is read after it
        part = await asyncio.to_thread(read, path, after)
        if part.is_new:
            yield Event("reset", RunRows(log=name, rows=[], card=card), 0)
        for first in range(0, len(part.rows), MOST_ROWS):
            some = part.rows[first : first + MOST_ROWS]
            is_last = first + MOST_ROWS >= len(part.rows)
            yield Event("rows", RunRows(log=name, rows=some, card=card), part.end if is_last else None)
        after = part.end
        if card.state != "running":
            yield Event("end", RunEnd(card=card))
            return
        await asyncio.sleep(EVERY)
