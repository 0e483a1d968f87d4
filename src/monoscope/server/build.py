"""A state from paths and settings: what a server needs before its first request."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from monoscope.server.desk import Desk
from monoscope.server.jobs.sample import sample_of
from monoscope.server.library.library import Library
from monoscope.server.pool import Pool
from monoscope.server.settings import Settings
from monoscope.server.state import State
from monoscope.server.table.tables import Database
from monoscope.server.worker.client import Worker


def build_state(paths: Iterable[Path], settings: Settings) -> State:
    """Find what stands at the paths, and get ready to answer. Raises DataError for a path that is no directory."""
    desk = Desk(settings.db, settings.author)
    library = Library(paths, roots=[*settings.roots, sample_of(desk.where)], models=settings.models)
    worker = Worker(memory=model_memory(settings), device=settings.device)
    return State(
        settings,
        library,
        Database(settings.memory, settings.threads),
        Pool(),
        worker,
        desk,
    )


def model_memory(settings: Settings) -> float:
    """Bytes that models and dictionaries may take in the worker."""
    if not settings.model_memory:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2
    unit = {"MB": 1e6, "GB": 1e9}[settings.model_memory[-2:]]
    return int(settings.model_memory[:-2]) * unit
