"""Checkpoints: everything a run needs to continue, in one file that is always whole."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import torch

from monoscope.core.errors import DataError, MismatchError
from monoscope.core.io import atomic_path

CHECKPOINT = "checkpoint.pt"


def save_checkpoint(directory: Path, state: dict[str, Any]) -> None:
    """Replace the directory's checkpoint, atomically."""
    with atomic_path(directory / CHECKPOINT) as partial:
        torch.save(state, partial)


def load_checkpoint(directory: Path) -> dict[str, Any]:
    """The directory's checkpoint. Raises DataError if there is none, or it is not one of ours."""
    path = directory / CHECKPOINT
    if not path.is_file():
        raise DataError(f"nothing to resume: no {CHECKPOINT} in {directory}")
    try:
        return torch.load(path, weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, BadZipFile, EOFError) as error:
        raise DataError(f"{path} cannot be read as a checkpoint: {str(error).splitlines()[0]}") from None


def check_same_config(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raises MismatchError listing every setting of a resumed run that is not what it was."""
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
            change for key in keys for change in _changes(before.get(key), now.get(key), f"{where}.{key}".lstrip("."))
        ]
    if isinstance(before, (list, tuple)) and isinstance(now, (list, tuple)):
        before, now = list(before), list(now)
    return [] if before == now else [f"{where} was {before!r}, now {now!r}"]
