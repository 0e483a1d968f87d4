"""Which of several processes this one is, and of which try, as ``torchrun`` and its like say in the environment."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from monoscope.core.errors import ConfigError
from monoscope.core.progress import progress

POLL = 0.2
"""Seconds between two looks at what the other processes have finished."""


def is_restarted() -> bool:
    """Whether ``torchrun --max-restarts`` started the processes anew after one of them was lost."""
    return os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"


def rank_and_ranks() -> tuple[int, int]:
    """Number of this process, and how many there are: (0, 1) for one that was started alone.

    Raises ConfigError for an environment that cannot be meant.
    """
    return _said("RANK", "WORLD_SIZE")


def local_rank_and_ranks() -> tuple[int, int]:
    """The same among the processes on this machine."""
    return _said("LOCAL_RANK", "LOCAL_WORLD_SIZE")


def _said(name: str, size: str) -> tuple[int, int]:
    rank, ranks = os.environ.get(name, "0"), os.environ.get(size, "1")
    try:
        number, of = int(rank), int(ranks)
    except ValueError:
        number, of = -1, -1
    if not 0 <= number < of:
        raise ConfigError(f"the environment says this is process {name}={rank} of {size}={ranks}; start with torchrun")
    return number, of


def wait_for(ranks: int, is_complete: Callable[[int], bool]) -> None:
    """Wait until the parts of all processes are complete."""
    waiting = {number for number in range(ranks) if not is_complete(number)}
    if not waiting:
        return
    with progress("wait for the other processes", len(waiting), "parts") as bar:
        while waiting:
            done = {number for number in waiting if is_complete(number)}
            bar.advance(len(done))
            waiting -= done
            time.sleep(POLL if waiting else 0)
