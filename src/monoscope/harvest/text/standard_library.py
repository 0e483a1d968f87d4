"""Text every Python installation carries: the sources of its standard library.

Files are split, whole, into ``train`` and ``held_out`` by a hash of their path, so the two never share a file and
the split of a file does not depend on what else is installed.
"""

from __future__ import annotations

import hashlib
import sysconfig
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

Split = Literal["train", "held_out"]

HELD_OUT_SHARE = 0.05
MAX_BYTES = 400_000  # one generated table (pydoc_data/topics.py and its like) must not outweigh a hundred modules
MAX_DIGIT_SHARE = 0.15  # code pages and Unicode tables: numbers, not language
SKIPPED_DIRECTORIES = frozenset({"site-packages", "dist-packages", "__pycache__", "ensurepip", "lib2to3"})


def standard_library_root() -> Path:
    """Directory that holds the running Python's standard library sources."""
    return Path(sysconfig.get_path("stdlib"))


def _draw(relative_path: str) -> float:
    """A number in [0, 1) that a path alone decides."""
    return int.from_bytes(hashlib.sha256(relative_path.encode()).digest()[:8], "big") / 2**64


def split_of(relative_path: str) -> Split:
    """The split a file belongs to, from its path alone (POSIX separators, relative to the library's root)."""
    return "held_out" if _draw(relative_path) < HELD_OUT_SHARE else "train"


def standard_library_files(split: Split, root: Path | None = None) -> list[Path]:
    """Source files of a split, sorted by path: tests included, third-party packages and generated tables not."""
    root = root or standard_library_root()
    files = []
    for path in root.rglob("*.py"):
        relative = path.relative_to(root)
        if SKIPPED_DIRECTORIES.isdisjoint(relative.parts) and split_of(relative.as_posix()) == split:
            files.append(path)
    return sorted(files)


def read_source(path: Path) -> str | None:
    """Text of a Python file by its declared encoding; None for one that is undecodable, empty, or mostly numbers."""
    if path.stat().st_size > MAX_BYTES:
        return None
    try:
        with tokenize.open(path) as file:
            text = file.read()
    except (SyntaxError, UnicodeDecodeError, OSError):  # the library's tests carry files that are broken on purpose
        return None
    if not text.strip() or sum(map(str.isdigit, text)) > MAX_DIGIT_SHARE * len(text):
        return None
    return text


def standard_library_texts(split: Split, root: Path | None = None, *, mixed: bool = False) -> Iterator[str]:
    """The texts of a split, one file at a time: by path, or ``mixed`` so that any beginning is a fair sample."""
    root = root or standard_library_root()
    paths = standard_library_files(split, root)
    if mixed:
        paths.sort(key=lambda path: _draw(path.relative_to(root).as_posix()))
    for path in paths:
        if (text := read_source(path)) is not None:
            yield text
