"""A state from paths and settings: what a server needs before its first request."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from monoscope.server.library.library import Library
from monoscope.server.pool import Pool
from monoscope.server.settings import Settings
from monoscope.server.state import State
from monoscope.server.table.tables import Database


def build_state(paths: Iterable[Path], settings: Settings) -> State:
    """Find what stands at the paths, and get ready to answer. Raises DataError for a path that is no directory."""
    library = Library(paths, roots=settings.roots, models=settings.models)
    return State(settings, library, Database(settings.memory, settings.threads), Pool())
