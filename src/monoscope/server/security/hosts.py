"""By which names the server may be addressed, and from which pages changed.

A page of another site can make a browser send requests here, and with a name it controls (DNS rebinding) even read the
answers. So the Host header must be a name of this machine, and a change must come from a page of this server.
"""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import urlsplit

from monoscope.server.settings import Settings

LOCAL = frozenset({"localhost", "127.0.0.1", "::1"})
HOST = re.compile(r"(?P<name>\[[0-9a-f:.]+\]|[a-z0-9_.-]+)(:(?P<port>\d{1,5}))?")


class Hosts:
    """The allow-list of a server."""

    def __init__(self, settings: Settings) -> None:
        self._names = LOCAL | {_bare(name.lower()) for name in (*settings.allow_host, settings.host)} - {
            "0.0.0.0",
            "::",
        }
        self._origins = frozenset(origin.lower() for origin in settings.cors_origin)

    def knows(self, host: str, listening: str | None) -> bool:
        """Whether a Host header names this machine; ``listening`` is the address the connection came to."""
        found = HOST.fullmatch(host.lower())
        if found is None:
            return False
        name = _bare(found["name"])
        return name in self._names or (listening is not None and _is_address(name) and name == _bare(listening))

    def may_change(self, origin: str | None, site: str | None, host: str) -> bool:
        """Whether a request that changes something comes from a page of this server, or from no page at all."""
        if origin is not None and origin.lower() in self._origins:
            return True
        if site not in (None, "same-origin", "none"):
            return False
        if origin is None:
            return True
        try:
            parts = urlsplit(origin.lower())
        except ValueError:
            return False
        return parts.scheme in ("http", "https") and parts.netloc == host.lower()


def _bare(name: str) -> str:
    return name.strip("[]")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
