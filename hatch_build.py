"""Build hook: the web interface is built into the package, and a build without it fails.

MONOSCOPE_UI=skip builds without; MONOSCOPE_UI=dev too, where the interface comes from its development server.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

# By path: a build may have another module named build.
_spec = importlib.util.spec_from_file_location("monoscope_ui", Path(__file__).resolve().parent / "ui" / "build.py")
assert _spec is not None
assert _spec.loader is not None
interface = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(interface)


class InterfaceHook(BuildHookInterface):
    """Runs ui/build.py before files are collected."""

    def dependencies(self) -> list[str]:
        """Node from the package index, where a build is needed and no Node that serves is on PATH."""
        if _left_out() or interface.is_built() or interface.node_on_path():
            return []
        return [interface.NODE_PACKAGE]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build, unless what is there is of these sources."""
        del version, build_data
        if _left_out():
            self.app.display_warning(f"built without the web interface: MONOSCOPE_UI={os.environ['MONOSCOPE_UI']}")
            return
        interface.build()
        for part in interface.PARTS:
            if not (interface.OUT / part).is_file():
                raise interface.BuildError(f"{interface.OUT / part} is missing: this package would have no interface")


def _left_out() -> bool:
    return os.environ.get("MONOSCOPE_UI", "") in ("skip", "dev")
