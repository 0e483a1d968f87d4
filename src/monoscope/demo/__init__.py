"""What runs with no download: the bundled model, and the main job done on it."""

from __future__ import annotations

from monoscope.demo.run import MODEL, run

__all__ = ["MODEL", "run"]
