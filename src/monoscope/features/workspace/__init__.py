"""What people add to features: labels, explanations, lists, notes, saved graphs, and the queue of jobs."""

from __future__ import annotations

from monoscope.features.workspace.errors import BusyError, ConflictError, MissingError
from monoscope.features.workspace.jobs import JobQueue, LostError
from monoscope.features.workspace.workspace import Workspace

__all__ = ["BusyError", "ConflictError", "JobQueue", "LostError", "MissingError", "Workspace"]
