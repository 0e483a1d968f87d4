"""Starts and ends a server: in this process until it is interrupted, or in a thread behind a handle.

The socket is bound before anything else, so that the port is known, and a port that is taken is an error at once. When
the end comes, streams are told first and finish with a last event; then connections close.
"""

from __future__ import annotations

import atexit
import logging
import os
import secrets
import socket
import threading
import time
import webbrowser
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import uvicorn

from monoscope.core.errors import ConfigError, OutputError
from monoscope.server.app import create_app
from monoscope.server.build import build_state
from monoscope.server.log import Bridge, Log
from monoscope.server.settings import Settings
from monoscope.server.state import State

GRACE = 5  # seconds that streams and requests have to finish
START = 30.0


class _Uvicorn(uvicorn.Server):
    """Tells streams when the end comes, before it waits for them."""

    def __init__(self, config: uvicorn.Config, state: State) -> None:
        super().__init__(config)
        self._state = state

    def handle_exit(self, sig: int, frame: Any) -> None:
        """A signal came: end gracefully; a second one ends at once. It is not raised again, this being its answer."""
        self._state.stopping.set()
        self.force_exit = self.should_exit
        self.should_exit = True


class Server:
    """A running server. ``url`` lets a browser in; ``token`` lets a client in, as ``Authorization: Bearer TOKEN``."""

    def __init__(self, paths: Iterable[Path | str], settings: Settings) -> None:
        if not settings.no_token and not settings.token:
            settings = settings.model_copy(update={"token": secrets.token_urlsafe(32)})
        self.settings, self.token = settings, settings.token
        self._socket = _bind(settings.host, settings.port)
        self.port: int = self._socket.getsockname()[1]
        try:
            self.state = build_state([Path(path) for path in paths], settings)
        except BaseException:
            self._socket.close()
            raise
        config = uvicorn.Config(
            create_app(self.state, self.port),
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,  # the address a client states of itself is not believed
            ws="none",
            lifespan="on",
            timeout_graceful_shutdown=GRACE,
            timeout_keep_alive=30,
            h11_max_incomplete_event_size=393_216,  # the longest filter, every character as its bytes
        )
        _log_to(Log())
        self._uvicorn = _Uvicorn(config, self.state)
        self._thread: threading.Thread | None = None

    def __repr__(self) -> str:
        return f"Server({self.address!r}, {len(self.state.library.entries)} dictionaries)"

    @property
    def address(self) -> str:
        """Where it listens."""
        host = self.settings.host
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
        return f"http://{host}:{self.port}"

    @property
    def url(self) -> str:
        """Its first page; the token in it is exchanged for a cookie when it is opened."""
        query = "" if self.settings.no_token else f"?token={self.token}"
        return f"{self.address}{self.settings.root_path}/{query}"

    def run(self) -> None:
        """Answer requests until a signal comes, or ``stop`` is called."""
        try:
            self._uvicorn.run(sockets=[self._socket])
        finally:
            self.state.stopping.set()
            self._socket.close()

    def start(self) -> Server:
        """Answer requests in a thread. Raises OutputError if the server does not come up."""
        self._thread = threading.Thread(target=self.run, name="monoscope server", daemon=True)
        self._thread.start()
        atexit.register(self.stop)  # a daemon that is cut off inside of C++ takes the process down
        until = time.monotonic() + START
        while not self._uvicorn.started:
            if not self._thread.is_alive() or time.monotonic() > until:
                raise OutputError(f"the server at {self.address} did not start")
            time.sleep(0.01)
        return self

    def stop(self) -> None:
        """End: streams finish, connections close, the port is free."""
        self.state.stopping.set()
        self._uvicorn.should_exit = True
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(GRACE + 5)
            atexit.unregister(self.stop)

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()


def serve(
    *paths: Path | str, background: bool = False, port: int = 0, open_browser: bool = False, **settings: Any
) -> Server:
    """Serve bundles, runs, or directories that hold some, and return the server.

    In the background it runs in a thread, and works in a notebook too; ``stop()`` ends it. Otherwise this returns when
    the server was interrupted. ``settings`` are those of ``[server]``: ``serve("runs", author="ada", read_only=True)``.
    """
    server = Server(paths or ["."], Settings.from_dict({"port": port, **settings}))
    if background:
        server.start()
    if open_browser:
        open_later(server)
    if not background:
        print(server.url, flush=True)
        with suppress(KeyboardInterrupt):
            server.run()
    return server


def open_later(server: Server) -> None:
    """Open a browser once the server answers."""

    def wait() -> None:
        while not server._uvicorn.started and not server.state.stopping.is_set():
            time.sleep(0.02)
        webbrowser.open(server.url)

    threading.Thread(target=wait, name="open browser", daemon=True).start()


def _bind(host: str, port: int) -> socket.socket:
    """A listening socket. Raises OutputError for a port that is taken, ConfigError for an address that is not here."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError:
        raise ConfigError(f"{host!r} is no address of this machine; 127.0.0.1 is reached from it alone") from None
    bound = socket.socket(family, kind, protocol)
    try:
        if os.name != "nt":  # there it would let two servers share a port
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        bound.listen(256)
    except OSError as error:
        bound.close()
        raise OutputError(
            f"cannot listen at {host}:{port}: {error.strerror}; --port 0 takes a port that is free"
        ) from None
    return bound


def _log_to(log: Log) -> None:
    for name in ("uvicorn.error", "asyncio"):
        logger = logging.getLogger(name)
        logger.propagate = False
        if not any(isinstance(handler, Bridge) for handler in logger.handlers):
            logger.addHandler(Bridge(log))
