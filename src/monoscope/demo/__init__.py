"""What runs with no download: the bundled model, and the main job done on it (``demo.run``, heavy to import)."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

MODEL = Path(str(files("monoscope") / "demo" / "model"))

__all__ = ["MODEL"]
