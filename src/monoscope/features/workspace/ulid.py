"""ULIDs: ids of 26 characters that sort by the time they were made.

48 bits of milliseconds since 1970, 80 random bits, in Crockford's base 32. Within one process two ids of the same
millisecond still sort in the order they were made: the second is the first plus one.
Source: github.com/ulid/spec.
"""

from __future__ import annotations

import secrets
import threading
import time

ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
LENGTH = 26
_lock = threading.Lock()
_last = 0


def ulid() -> str:
    """A new id."""
    global _last
    with _lock:
        _last = max(time.time_ns() // 1_000_000 << 80 | secrets.randbits(80), _last + 1)
        value = _last
    return "".join(ALPHABET[value >> shift & 31] for shift in range(125, -1, -5))
