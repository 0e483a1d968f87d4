"""``/meta`` and ``/library``: what this server is, and what it has to show."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from fastapi import APIRouter, Request
from fastapi.responses import Response

import monoscope
from monoscope.core.errors import DataError
from monoscope.features.schema import SCHEMA, VERSION
from monoscope.server.cards import broken_card, cards, run_card
from monoscope.server.jobs.sample import is_sample
from monoscope.server.library.hub import SCHEME, cached
from monoscope.server.library.library import Entry, Fault, Run
from monoscope.server.problems import ProblemError, shown
from monoscope.server.routes import API
from monoscope.server.state import State, StateDep
from monoscope.server.wire.library import Capabilities, Device, Kept, Library, Meta, Opened, OpenPath, Sample, Storage

MOST_BARE = 20
router = APIRouter(prefix=API, tags=["library"])


@router.get("/meta", response_model=Meta)
async def meta(request: Request, state: StateDep) -> Response:
    """What this server is, and what it can do."""
    return await state.pool.answer(request, lambda stop: _meta(state))


@router.get("/library", response_model=Library)
async def library(request: Request, state: StateDep) -> Response:
    """Dictionaries, runs, and what could not be read."""
    answer = await state.pool.answer(request, lambda stop: _library(state))
    state.shown.set()
    return answer


@router.post("/library", response_model=Opened)
async def open_path(request: Request, state: StateDep, body: OpenPath) -> Response:
    """Open another path inside the allowed roots, or what was downloaded of a reference to the hub."""
    return await state.pool.answer(request, lambda stop: _open(state, body.path))


def _meta(state: State) -> Meta:
    live = any(state.library.is_live(entry) for entry in state.library.entries)
    return Meta(
        version=monoscope.__version__,
        schemas={SCHEMA: VERSION},
        capabilities=Capabilities(live=live, semantic=state.finder.is_semantic, gpu=_accelerator() is not None),
        worker=state.live.status(),
        read_only=state.settings.read_only,
        author=state.desk.author,
        workspace=state.desk.problem,
        kept=_kept(state),
    )


def _kept(state: State) -> Kept:
    search = str(state.finder.directory.absolute())
    return Kept(workspace=state.desk.address, search=search, embedder=state.settings.embedder or None)


def _library(state: State) -> Library:
    library = state.library
    return Library(
        dictionaries=cards(state, library.entries),
        runs=[run_card(state, run) for run in library.runs],
        broken=[broken_card(fault) for fault in library.faults],
        roots=[str(root) for root in library.roots if root != state.sample],
        sample=Sample(path=str(state.sample), is_made=is_sample(state.sample)),
        truncated=library.truncated,
        storage=_storage(library.roots[0]) if library.roots else None,
        device=Device(cpus=os.cpu_count() or 1, memory=_memory(), accelerator=_accelerator()),
    )


def _open(state: State, path: str) -> Opened:
    if "\0" in path:
        raise ProblemError(422, "a path cannot hold a NUL character")
    if path.strip().startswith(SCHEME):
        try:
            given, root = cached(path)
            entries, runs, faults = state.library.add(given, root=root)
        except DataError as error:
            raise ProblemError(422, str(error), found=shown(path)) from None
        return _opened(state, given, entries, runs, faults)
    try:
        given = Path(path).expanduser()
        if not given.is_absolute():
            given = next((root / given for root in state.library.roots if (root / given).is_dir()), given)
        entries, runs, faults = state.library.add(given)
    except (OSError, RuntimeError, ValueError) as error:
        if isinstance(error, DataError):
            roots = [str(root) for root in state.library.roots]
            raise ProblemError(
                422, str(error), found=shown(path), expected=f"a directory below {', '.join(roots)}"
            ) from None
        raise ProblemError(422, "this path cannot be followed", found=shown(path)) from None
    return _opened(state, given, entries, runs, faults)


def _opened(state: State, path: Path, entries: list[Entry], runs: list[Run], faults: list[Fault]) -> Opened:
    bare = state.library.without_features(path) if not entries else []
    if not entries and not runs and not faults and not bare:
        raise ProblemError(422, "there is no bundle, no run and no dictionary there", found=shown(str(path)))
    return Opened(
        dictionaries=cards(state, entries),
        runs=[run_card(state, run) for run in runs],
        broken=[broken_card(fault) for fault in faults],
        without_features=[str(at) for at in bare[:MOST_BARE]],
    )


def _storage(path: Path) -> Storage | None:
    try:
        usage = shutil.disk_usage(path)
    except OSError:
        return None
    return Storage(path=str(path), free=usage.free, total=usage.total)


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None


def _accelerator() -> str | None:
    """The kind of accelerator, seen without loading torch: the worker knows more once it has started."""
    return "cuda" if Path("/proc/driver/nvidia/version").exists() else None
