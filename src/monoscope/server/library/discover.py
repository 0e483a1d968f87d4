"""Finds bundles, dictionaries, runs and models below a directory: breadth first, in a bounded number of steps.

Hidden directories are left out, and a link that leads out of the root is not followed. What is found is not opened
here: a broken bundle is found too, and says later what is wrong with it.
"""

from __future__ import annotations

import json
import os
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

from monoscope.core.io import MANIFEST

MAX_DEPTH, MAX_DIRECTORIES, MAX_FOUND = 5, 20_000, 2_000
MAX_MANIFEST = 64_000_000
BUNDLE = ".mono"
SNAPSHOTS = "snapshots"  # of a training run, in its directory


@dataclass
class Found:
    """Paths by what stands there. ``truncated``: the bounds were reached, and there may be more."""

    bundles: list[Path] = field(default_factory=list)
    dictionaries: list[Path] = field(default_factory=list)
    runs: list[Path] = field(default_factory=list)
    models: list[Path] = field(default_factory=list)
    truncated: bool = False

    def __len__(self) -> int:
        return len(self.bundles) + len(self.dictionaries) + len(self.runs) + len(self.models)


def discover(root: Path) -> Found:
    """What stands at a directory and below it; ``root`` is resolved."""
    found, seen = Found(), {root}
    waiting = deque([(root, 0)])
    n = 0
    while waiting:
        directory, depth = waiting.popleft()
        n += 1
        if n > MAX_DIRECTORIES or len(found) >= MAX_FOUND:
            found.truncated = True
            break
        try:
            with os.scandir(directory) as entries:
                inside = {entry.name: entry for entry in entries}
        except OSError:
            continue
        if not _sort(directory, set(inside), found) or depth == MAX_DEPTH:
            continue
        for name in sorted(inside):
            child = _child(root, directory / name, inside[name]) if not name.startswith(".") else None
            if child is not None and child not in seen:
                seen.add(child)
                waiting.append((child, depth + 1))
    return found


def is_inside(path: Path, root: Path) -> bool:
    """Whether a path, after every link on its way, is ``root`` or below it; ``root`` is resolved."""
    try:
        return path.resolve().is_relative_to(root)
    except (OSError, RuntimeError, ValueError):  # a link to itself, a name the system refuses
        return False


def _child(root: Path, path: Path, entry: os.DirEntry[str]) -> Path | None:
    """The directory of an entry, resolved; None for what is none, and for a link that leads out."""
    try:
        if not entry.is_dir():
            return None
        if entry.is_symlink():
            return path.resolve() if is_inside(path, root) else None
        return path
    except OSError:
        return None


def _sort(directory: Path, has: set[str], found: Found) -> bool:
    """Notes what a directory is; whether to look below it."""
    if directory.suffix == BUNDLE or (MANIFEST in has and _schema(directory) == "monoscope.features"):
        found.bundles.append(directory)
        return False
    if MANIFEST in has and _schema(directory).startswith("monoscope."):
        return False
    if {"training.toml", "metrics.jsonl"} & has:
        found.runs.append(directory)
    if {"config.toml", "weights.safetensors"} <= has:
        found.dictionaries.append(directory)
        return SNAPSHOTS in has
    if "config.json" in has and any(name.endswith(".safetensors") for name in has):
        found.models.append(directory)
        return False
    return True


def _schema(directory: Path) -> str:
    path = directory / MANIFEST
    try:
        if path.stat().st_size > MAX_MANIFEST:
            return ""
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return ""
    return str(manifest.get("schema", "")) if isinstance(manifest, dict) else ""
