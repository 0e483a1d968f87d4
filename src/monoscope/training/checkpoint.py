"""Checkpoints: everything a run needs to continue, in files that are whole or known not to be. The last two are kept.

    checkpoint-STEP.SHA.pt    SHA: the first 16 digits of the file's SHA-256

A name that carries what the bytes must be needs no second file that could be older or newer than they are.
"""

from __future__ import annotations

import hashlib
import logging
import pickle
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO
from zipfile import BadZipFile

import torch

from monoscope.core.errors import DataError, MismatchError, OutputError
from monoscope.core.io import is_full, remove, settle, sha256_file, writing

KEPT = 2
SHARED = "checkpoint-*.????????????????"  # directories, to which several processes wrote
# Settings that change no step that was taken.
FREE_TO_CHANGE = ("checkpoint_every", "snapshots", "on_nonfinite", "not_finite")

_NAME = re.compile(r"checkpoint-(\d+)\.([0-9a-f]{16})\.pt")
_log = logging.getLogger("monoscope.training")


def checkpoints(directory: Path) -> list[Path]:
    """The checkpoints in a directory, newest first."""
    found = [
        (int(match[1]), path) for path in directory.glob("checkpoint-*.pt") if (match := _NAME.fullmatch(path.name))
    ]
    return [path for _, path in sorted(found, reverse=True)]


def save_checkpoint(directory: Path, step: int, state: Mapping[str, Any]) -> None:
    """Write the state after a step, and then remove all but the last two. Raises OutputError where the disk is full."""
    partial = directory / ".checkpoint.partial"
    try:
        with writing(partial):
            with partial.open("wb") as file:
                hashed = _Hashed(file)
                hashed.save(dict(state))
            settle(partial, directory / f"checkpoint-{step:08d}.{hashed.digest.hexdigest()[:16]}.pt")
    except OutputError as error:
        partial.unlink(missing_ok=True)
        if is_full(error):
            raise OutputError(
                f"no room for the checkpoint of step {step} in {directory}: it takes {state_bytes(state):,} bytes, and "
                f"{shutil.disk_usage(directory).free:,} are free; make room and resume, from what was complete before"
            ) from error
        raise
    for old in checkpoints(directory)[KEPT:]:
        remove(old)


def load_checkpoint(directory: Path) -> dict[str, Any]:
    """The newest state that is whole. Raises DataError if there is none."""
    found = checkpoints(directory)
    if not found:
        raise DataError(f"nothing to resume: no checkpoint in {directory}")
    for number, path in enumerate(found):
        if sha256_file(path).startswith(path.name.split(".")[1]):
            if number:
                _log.warning("going on from %s, the one before it", path.name)
            return _loaded(path)
        _log.warning("%s was changed after it was written: its SHA-256 differs", path)
    raise DataError(
        f"nothing to resume: {' and '.join(path.name for path in found)} in {directory} were changed after they were "
        "written, as their SHA-256 says; start anew with --force"
    )


def remove_checkpoints(directory: Path) -> None:
    """Remove what a finished run needs no more."""
    for path in (*checkpoints(directory), *directory.glob(SHARED)):
        remove(path)


def warn_if_short(directory: Path, size: int) -> None:
    """Say so where a file system has no room for the checkpoints of a run, ``size`` bytes each."""
    free, needed = shutil.disk_usage(directory).free, (KEPT + 1) * size
    if free < needed:
        _log.warning(
            "%s has %s bytes free, and the checkpoints of this run take %s: %d are kept while the next is written, %s "
            "bytes each; make room before it is full",
            directory, f"{free:,}", f"{needed:,}", KEPT, f"{size:,}",
        )  # fmt: skip


def state_bytes(state: Any) -> int:
    """Bytes of all tensors in a state."""
    if isinstance(state, Mapping):
        return sum(map(state_bytes, state.values()))
    if isinstance(state, (list, tuple)):
        return sum(map(state_bytes, state))
    return getattr(state, "nbytes", 0)


class _Hashed:
    """A file to write to, and the SHA-256 of what was written."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.digest = file, hashlib.sha256()
        self.error: OSError | None = None

    def write(self, data: bytes | memoryview) -> int:
        """Write some bytes."""
        try:
            written = self.file.write(data)
        except OSError as error:
            self.error = error
            raise
        self.digest.update(data)
        return written

    def flush(self) -> None:
        """Hand everything to the operating system."""
        self.file.flush()

    def save(self, state: dict[str, Any]) -> None:
        """Write a state. Raises the operating system's error, which torch would hide behind one of its own."""
        try:
            torch.save(state, self)  # pyright: ignore[reportArgumentType]
        except RuntimeError:
            if self.error is not None:
                raise self.error from None
            raise


def _loaded(path: Path) -> dict[str, Any]:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, BadZipFile, EOFError) as error:
        raise DataError(f"{path} cannot be read as a checkpoint: {str(error).splitlines()[0]}") from None


def check_same_config(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raises MismatchError listing every setting that decides what a run learns, and is not what it was."""
    changes = list(_changes(before, now, ""))
    if changes:
        raise MismatchError(
            "the run to resume was started with other settings: "
            + "; ".join(changes)
            + ". Restore them, or start anew with another --out"
        )


def _changes(before: Any, now: Any, where: str) -> list[str]:
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        keys = sorted({*before, *now})
        return [
            change
            for key in keys
            if key not in FREE_TO_CHANGE
            for change in _changes(before.get(key), now.get(key), f"{where}.{key}".lstrip("."))
        ]
    if isinstance(before, (list, tuple)) and isinstance(now, (list, tuple)):
        before, now = list(before), list(now)
    return [] if before == now else [f"{where} was {before!r}, now {now!r}"]
