"""Which of several processes this one is, and of which try, as ``torchrun`` and its like say in the environment."""

from __future__ import annotations

import os

from monoscope.core.errors import ConfigError


def is_restarted() -> bool:
    """Whether ``torchrun --max-restarts`` started the processes anew after one of them was lost."""
    return os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"


def rank_and_ranks() -> tuple[int, int]:
    """Number of this process, and how many there are: (0, 1) for one that was started alone.

    Raises ConfigError for an environment that cannot be meant.
    """
    rank, ranks = (os.environ.get(name, default) for name, default in (("RANK", "0"), ("WORLD_SIZE", "1")))
    try:
        number, of = int(rank), int(ranks)
    except ValueError:
        number, of = -1, -1
    if not 0 <= number < of:
        raise ConfigError(
            f"the environment says this is process RANK={rank} of WORLD_SIZE={ranks}; start with torchrun"
        )
    return number, of
