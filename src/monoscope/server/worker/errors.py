"""What can go wrong between server and worker; ``status`` is the HTTP status that says so."""

from __future__ import annotations


class WorkerError(Exception):
    """A task that did not come to its end."""

    status = 500


class Refused(WorkerError):
    """What was asked cannot be done: the worker says why."""

    status = 422


class Unreadable(WorkerError):
    """What stands on disk cannot be read."""

    status = 409


class Stopped(WorkerError):
    """The worker's process ended under the task."""

    status = 503


class TooBusy(WorkerError):
    """Too many tasks wait already."""

    status = 503


class TooLate(WorkerError):
    """The task's time was over."""

    status = 504


class OutOfMemory(WorkerError):
    """There is not enough memory for the task."""

    status = 507


def error_of(name: str, detail: str) -> WorkerError:
    """The error of a task that the worker says has failed."""
    if name == "called":
        return TooLate(detail)
    if name == "memory":
        return OutOfMemory(detail)
    if name == "internal":
        return WorkerError(detail)
    return Unreadable(detail) if name == "DataError" else Refused(detail)
