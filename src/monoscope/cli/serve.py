"""``monoscope serve``: the web interface of what stands below some paths."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from monoscope.cli.session import Json, session

if TYPE_CHECKING:
    from monoscope.server.run import Server


def serve(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[PATH]...", show_default=False, help="Bundles, runs, or directories that hold some."),
    ] = None,
    host: Annotated[
        str, typer.Option("--host", help="Address; another than this machine's own needs a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", help="Port; 0 takes a free one.")] = 8421,
    open_browser: Annotated[bool, typer.Option("--open/--no-open", help="Open a browser.")] = False,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", show_default=False, help="Set a key, as in server.read_only=true."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Show features, runs and notes in a browser. The token that lets it in is in the address that is printed."""
    with session(as_json=as_json):
        from monoscope.core.config import override
        from monoscope.core.errors import ConfigError
        from monoscope.server.run import Server, open_later
        from monoscope.server.settings import Settings, is_loopback

        table: dict[str, str | int] = {"host": host, "port": port}
        if token := os.environ.get("MONOSCOPE_TOKEN"):
            table["token"] = token
        tables = override({"server": table}, overrides or [])
        if unknown := tables.keys() - {"server"}:
            raise ConfigError(f"unknown key {min(unknown)!r}; keys of serve begin with server., as in server.read_only")
        server = Server(paths or [Path()], Settings.from_dict(tables["server"]))
        _announce(server, as_json=as_json)
        if not is_loopback(server.settings.host):
            print(
                "warning: others can reach this address, and without TLS read what is sent, the token too; "
                "an SSH tunnel or a proxy with TLS is safer",
                file=sys.stderr,
            )
        if open_browser:
            open_later(server)
        server.run()


def _announce(server: Server, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"url": server.url, "address": server.address, "token": server.token}), flush=True)
        return
    library = server.state.library
    print(server.url, flush=True)
    counts = ((len(library.entries), "dictionary", "dictionaries"), (len(library.runs), "run", "runs"))
    found = ", ".join(f"{n} {one if n == 1 else many}" for n, one, many in counts)
    broken = "".join(f"\ncannot read {fault.path}: {fault.problem}" for fault in library.faults)
    print(f"serving {found}; Ctrl-C ends{broken}", file=sys.stderr, flush=True)
