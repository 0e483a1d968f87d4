"""What the worker's process is started with."""

from __future__ import annotations

import os
from pathlib import Path

import monoscope


def environment() -> dict[str, str]:
    """That of this process; where monoscope runs from its sources, the worker finds the same ones."""
    sources = Path(monoscope.__file__).parents[1]
    if sources.name in ("site-packages", "dist-packages"):
        return dict(os.environ)
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, (str(sources), os.environ.get("PYTHONPATH"))))}
