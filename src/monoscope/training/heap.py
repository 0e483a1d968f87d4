"""What the C library does with memory that was freed: kept for the next step, but not for ever."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache

import torch


def keep() -> None:
    """Keep freed blocks of up to 31 MB for whoever asks next.

    glibc asks the system for large blocks and gives them back, a page fault for each 4 kB of every step, until a larger
    one was freed (at most 32 MB); from then on it keeps blocks of that size. Other allocators do not mind.
    """
    block = torch.empty(31 * 2**20, dtype=torch.uint8)
    del block


def give_back() -> None:
    """Give the system what is kept and not in use, where the C library can: holes of sizes that nobody asks for again.

    AuxK's blocks have another size whenever another feature dies, and each leaves its own hole.
    """
    if (trim := _trim()) is not None:
        trim(0)


@cache
def _trim() -> Callable[[int], int] | None:
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # another C library, or Windows
        return None
