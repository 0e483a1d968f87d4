"""The server: bundles, runs and the workspace over HTTP, and the web interface.

server = serve("runs", background=True)
print(server.url)
server.stop()
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from monoscope.server.run import Server, serve
    from monoscope.server.settings import Settings

__all__ = ["Server", "Settings", "serve"]

_HOMES = {"Server": "run", "Settings": "settings", "serve": "run"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'monoscope.server' has no attribute {name!r}")
    return getattr(import_module(f"monoscope.server.{_HOMES[name]}"), name)
