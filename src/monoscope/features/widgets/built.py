"""Where the built elements are: one JavaScript module, part of the web interface."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from monoscope.core.errors import UserError


def elements() -> Path:
    """The module of custom elements. Raises UserError where the interface was not built."""
    path = Path(str(files("monoscope") / "_ui" / "elements.js"))
    if not path.is_file():
        raise UserError(
            f"live views need the built web interface, and {path} is missing: `python ui/build.py` in a checkout, or "
            "install monoscope again without MONOSCOPE_UI=skip"
        )
    return path
