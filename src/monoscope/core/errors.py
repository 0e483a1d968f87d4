"""The exceptions monoscope raises for its users.

    MonoscopeError
    └── UserError (ValueError)    what was given is wrong; the message says what was found and what would be right
        ├── ConfigError           an unknown key or kind, a value out of range
        ├── SiteError             a place the model does not have
        ├── ModelError            a path or identifier that is not a model
        ├── DataError             text or activations that are missing or broken
        │   ├── CorruptError      a file that is not what was written
        │   └── NotFinite         activations, or a loss, that are NaN or infinite
        ├── MismatchError         two things that do not belong together
        ├── HubError              what the Hugging Face hub does not have, or does not give
        ├── OutputError           a place that cannot be written, or would be overwritten
        ├── CannotHold            a layout of files that cannot say what a dictionary does
        └── ElsewhereError        another of several processes failed, and says why

Mistakes of ours are assertions, never these.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class MonoscopeError(Exception):
    """Root of everything monoscope raises on purpose."""


class UserError(MonoscopeError, ValueError):
    """Something given to monoscope is wrong."""


class ConfigError(UserError):
    """A configuration that cannot be meant."""


class SiteError(UserError):
    """A site the model does not have."""


class ModelError(UserError):
    """A path or identifier that does not lead to a language model."""


class DataError(UserError):
    """Text or activations that cannot be used."""


class CorruptError(DataError):
    """A file that is missing, cut short, or changed since it was written."""


class NotFinite(DataError):
    """Activations, or a loss, that hold NaN or infinity."""


class MismatchError(UserError):
    """Two artifacts that do not belong together."""


class HubError(UserError):
    """What the Hugging Face hub does not have, does not give, or cannot be asked for."""


class OutputError(UserError):
    """An output that cannot be written, or must not be overwritten."""


class CannotHold(UserError):
    """A layout of files that cannot say what a dictionary does.

    ``reason`` says why; ``nearest`` names the layouts, or the conversions, that come closest.
    """

    def __init__(self, reason: str, nearest: Iterable[str] = ()) -> None:
        self.reason, self.nearest = reason, tuple(nearest)
        super().__init__(f"{reason}; nearest: {', '.join(self.nearest)}" if self.nearest else reason)


class ElsewhereError(UserError):
    """Another of several processes that work together failed, and says why."""


def nearest(name: str, known: Iterable[str], *, most: int = 3) -> str:
    """Sentence offering the known names closest to ``name``, or all of them when none is close and they are few."""
    known = sorted(set(known))
    close = difflib.get_close_matches(name, known, n=most, cutoff=0.5)
    if close:
        return f"did you mean {' or '.join(repr(c) for c in close)}?"
    if len(known) <= 30:
        return f"known: {', '.join(known)}"
    return f"known: {', '.join(known[:30])}, and {len(known) - 30} more"
