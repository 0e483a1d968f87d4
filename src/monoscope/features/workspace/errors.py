"""What can go wrong between people who share a workspace.

UserError
├── MissingError     a row that is not there, or was deleted
├── ConflictError    somebody else wrote first; ``current`` is the row as it stands now
└── BusyError        the database is locked, or does not answer; the same call may work later
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from monoscope.core.errors import UserError

if TYPE_CHECKING:
    from monoscope.features.workspace.fields import Row


class MissingError(UserError):
    """A row that is not there."""


class ConflictError(UserError):
    """A change that was made to an older state of a row; nothing was written."""

    def __init__(self, message: str, current: Row | None = None) -> None:
        super().__init__(message)
        self.current = current


class BusyError(UserError):
    """A database that cannot be written or reached now."""
