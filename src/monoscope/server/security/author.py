"""Who writes: the server's own author, or, behind a proxy that is trusted to say so, the user it signed in.

The header is believed from addresses of ``trust_proxy`` alone; from anywhere else it is what any client may send.
"""

from __future__ import annotations

import ipaddress
from contextvars import ContextVar

from starlette.datastructures import Headers

from monoscope.server.problems import ProblemError
from monoscope.server.settings import Settings

HEADER = "x-forwarded-user"
MOST = 200  # characters

_signed_in: ContextVar[str | None] = ContextVar("author", default=None)


def signed_in() -> str | None:
    """The user of the request that is being answered; None where no proxy names one."""
    return _signed_in.get()


class Proxies:
    """The proxies whose word on users counts."""

    def __init__(self, settings: Settings) -> None:
        self._networks = [ipaddress.ip_network(network) for network in settings.trust_proxy]

    def note(self, address: str, headers: Headers) -> None:
        """Remember, while this request is answered, who sent it. Raises ProblemError for what is no name."""
        _signed_in.set(self._user(address, headers))

    def _user(self, address: str, headers: Headers) -> str | None:
        names = headers.getlist(HEADER)
        if not names or not self._knows(address):
            return None
        name = names[0].strip()
        if len(names) > 1 or not name or len(name) > MOST or not name.isprintable():
            raise ProblemError(
                400, "the proxy names no user, or several", expected=f"one {HEADER} of 1 to {MOST} signs"
            )
        return name

    def _knows(self, address: str) -> bool:
        try:
            found = ipaddress.ip_address(address)
        except ValueError:
            return False
        return any(found in network for network in self._networks)
