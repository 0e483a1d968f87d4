"""The web interface's files: hashed assets for good, everything else of the interface as its one page.

The page names its files relative to itself, and is moved to the depth of the address it is shown at, so that it works
under any prefix. An address of the API, or of a file that is not there, is never answered with HTML.
"""

from __future__ import annotations

import mimetypes
import os
from importlib.resources import files
from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import FileResponse, HTMLResponse, RedirectResponse, Response
from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from monoscope.server.problems import ProblemError
from monoscope.server.security.guard import is_api, route_path

DEV = "http://localhost:5173"
FOREVER = "public, max-age=31536000, immutable"
DAY = "public, max-age=86400"  # the icon, which browsers look for at every address
ABSENT = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>monoscope</title>
<h1>The web interface is not built</h1>
<p>This installation of monoscope has no interface in it. In a checkout, with Node 20.19 or newer:</p>
<pre>cd ui
npm ci
npm run build</pre>
<p>or install it again with <code>pip install .</code>, without <code>MONOSCOPE_UI=skip</code>. The API is there all the
same, under <code>/api/v1</code>.</p>
</html>
"""


class Interface:
    """The built interface of a directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._files = _listed(directory)
        index = self._files.get("index.html")
        self._page = None if index is None else index.read_text(encoding="utf-8")

    def answer(self, path: str, accept: str) -> Response:
        """A file, the page, or a problem."""
        name = path.lstrip("/")
        if name and name != "index.html" and (file := self._files.get(name)) is not None:
            kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
            keep = FOREVER if name.startswith("assets/") else DAY if kind.startswith("image/") else None
            return FileResponse(file, media_type=kind, headers=keep and {"Cache-Control": keep})
        wants_page = "text/html" in accept or "*/*" in accept or not accept
        if name.startswith("assets/") or not wants_page or (name and name != "index.html" and _is_file(name)):
            raise ProblemError(404, "the interface has no such file", found=name[:200])
        if self._page is None:
            return HTMLResponse(ABSENT, 200)
        up = "../" * path.count("/", 1) or "./"
        return HTMLResponse(self._page.replace('="./', f'="{up}'))


def install(app: FastAPI) -> None:
    """Answer what no route is for with the interface, or say that the API has no such address."""
    interface = Interface(Path(str(files("monoscope") / "_ui")))
    development = os.environ.get("MONOSCOPE_UI") == "dev"

    async def page(scope: Scope, receive: Receive, send: Send) -> None:
        here = route_path(scope)
        if is_api(here):
            raise ProblemError(404, "the API has no such address", found=here[:200])
        if scope["method"] not in ("GET", "HEAD"):
            raise ProblemError(405, "the interface is only read", headers={"Allow": "GET, HEAD"})
        accept = Headers(scope=scope).get("accept", "")
        answer = RedirectResponse(DEV + here) if development else interface.answer(here, accept)
        await answer(scope, receive, send)

    app.router.default = page


def _listed(directory: Path) -> dict[str, Path]:
    """The files that may be given out, by their name: what is not listed at start is not there."""
    if not directory.is_dir():
        return {}
    return {path.relative_to(directory).as_posix(): path for path in directory.rglob("*") if path.is_file()}


def _is_file(name: str) -> bool:
    """Whether an address looks like a file of the interface, and not like a feature or a dictionary."""
    return Path(name).suffix.lower() in {
        ".js",
        ".css",
        ".map",
        ".svg",
        ".png",
        ".ico",
        ".json",
        ".woff2",
        ".txt",
        ".wasm",
    }
