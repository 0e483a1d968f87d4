"""Tables of results that are too large for the workspace: arrays of numbers, one file a job."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from monoscope.core.errors import DataError
from monoscope.core.io import atomic_path
from monoscope.server.desk import default_workspace
from monoscope.server.problems import ProblemError


def directory_of(workspace: str) -> Path:
    """Where tables of a workspace's jobs are kept: beside its file; of a database, in the user's data directory."""
    if "://" in workspace:
        return default_workspace().with_name("results")
    return Path(workspace).with_suffix(".results")


class Tables:
    """Files in one directory, by the id of their job."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def save(self, job: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Keep the arrays of a job."""
        self.directory.mkdir(parents=True, exist_ok=True)
        with atomic_path(self._path(job)) as partial, partial.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)

    def load(self, job: str, *names: str) -> dict[str, np.ndarray]:
        """Some arrays of a job, those that it has. Raises ProblemError without a file, DataError for a broken one."""
        try:
            with np.load(self._path(job), allow_pickle=False) as file:
                return {name: file[name] for name in names if name in file.files}
        except FileNotFoundError:
            raise ProblemError(404, f"the tables of job {job} are not on this machine", found=job) from None
        except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
            raise DataError(f"{self._path(job)} cannot be read: {error}") from None

    def remove(self, job: str) -> None:
        """Remove a job's arrays."""
        self._path(job).unlink(missing_ok=True)

    def _path(self, job: str) -> Path:
        assert job.isalnum(), "ids of jobs are letters and digits"
        return self.directory / f"{job}.npz"
