"""Which of several processes this one is, as ``torchrun`` and its like say in the environment."""

from __future__ import annotations

import os

from monoscope.core.errors import ConfigError


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
