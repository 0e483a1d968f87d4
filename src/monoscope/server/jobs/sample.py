"""The sample: the dictionary of the bundled model that ``monoscope demo`` makes, kept beside the workspace."""

from __future__ import annotations

from pathlib import Path

from monoscope.server.desk import default_workspace


def sample_of(workspace: str) -> Path:
    """Where the sample of a workspace is: beside its file; of a database, in the user's data directory."""
    beside = default_workspace() if "://" in workspace else Path(workspace)
    return beside.with_suffix(".sample").resolve()


def is_sample(directory: Path) -> bool:
    """Whether the sample was made whole: its page is written last."""
    return (directory / "sample" / "index.html").is_file()
