"""Short names of directories, as addresses carry them: unique, and the same each time as long as the paths are."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

MOST = 128
PLAIN = frozenset({"features", "dictionary", "bundle"})  # names that say nothing without their parent's


def title(path: Path) -> str:
    """What people call a directory: by its own name, if that says something, else by its parent's."""
    own = path.stem if path.suffix == ".mono" else path.name
    return path.parent.name if own.lower() in PLAIN and path.parent.name else own


def slug(path: Path, taken: Collection[str]) -> str:
    """A name for a directory that no other has: its own, if that says something, else with its parents' before it."""
    parts = [
        part for part in map(_clean, (path.stem if path.suffix == ".mono" else path.name, *_parents(path))) if part
    ]
    parts = parts or ["x"]
    first = 2 if parts[0] in PLAIN and len(parts) > 1 else 1
    for n in range(first, min(len(parts), first + 3) + 1):
        own = parts[1:n] if parts[0] in PLAIN and n > 1 else parts[:n]
        name = "-".join(reversed(own))[-MOST:].lstrip("._-")
        if name and name not in taken:
            return name
    name = "-".join(reversed(parts[: first + 1]))[-MOST + 8 :].lstrip("._-") or "x"
    return next(option for i in range(2, len(taken) + 3) if (option := f"{name}-{i}") not in taken)


def _parents(path: Path) -> list[str]:
    return [parent.stem if parent.suffix == ".mono" else parent.name for parent in path.parents]


def _clean(name: str) -> str:
    return re.sub(r"[^a-z0-9._-]+", "-", name.lower()).strip("._-")
