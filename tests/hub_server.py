"""A Hugging Face hub on this machine: the endpoints that reading and publishing need, and repositories in memory."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import huggingface_hub
import pytest

LARGE = 20_000  # bytes from which a file is one of LFS


@dataclass
class Repo:
    """A repository: its files at each commit, what its revisions are called, and who may read it."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    revisions: dict[str, str] = field(default_factory=dict)
    private: bool = False
    gated: bool = False
    card: dict[str, Any] = field(default_factory=dict)

    def commit(self, files: dict[str, bytes], revision: str = "main") -> str:
        """A new commit with all of these files."""
        digest = hashlib.sha1(repr(sorted(files.items())).encode() + str(len(self.commits)).encode()).hexdigest()
        self.commits[digest], self.revisions[revision] = dict(files), digest
        return digest

    def files(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """The commit of a revision, and its files."""
        commit = self.revisions.get(revision, revision)
        return (commit, self.commits[commit]) if commit in self.commits else None


class Hub:
    """Repositories, what was asked of them, and how the server misbehaves.

    ignores_ranges: files are sent whole, whatever is asked; breaks_after: connections end after so many bytes of a file
    sent: bytes of files sent, by path
    """

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.objects: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.sent: dict[str, int] = {}
        self.ignores_ranges, self.breaks_after = False, None
        self.url = ""

    def repo(self, name: str, files: dict[str, bytes], **settings: Any) -> Repo:
        """A repository with files."""
        self.repos[name] = Repo(**settings)
        self.repos[name].commit(files)
        return self.repos[name]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *args: Any) -> None:
        """Nothing."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlparse(self.path).path)
        self.hub.requests.append(f"{self.command} {path}")
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path):
            self._info(found[1], found[2] or "main")
        elif found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+|refs/pr/\d+)/(.+)", path):
            self._resolve(found[1], found[2], found[3])
        elif found := re.fullmatch(r"/cdn/(\w+)/(.+)", path):
            self._file(self.hub.objects[found[1]], found[2], {"ETag": f'"{found[1]}"'})
        elif path == "/api/whoami-v2":
            self._json({"name": "someone", "type": "user"})
        else:
            self._error(404, "", f"no such page: {self.command} {path}")

    def do_POST(self) -> None:
        path = unquote(urlparse(self.path).path)
        self.hub.requests.append(f"POST {path}")
        body = self._body()
        if not self.headers.get("Authorization"):
            self._error(401, "", "Invalid username or password.")
        elif path == "/api/validate-yaml":
            self._json({"errors": [], "warnings": []})
        elif path == "/api/repos/create":
            table = json.loads(body)
            name = f"{table.get('organization') or 'someone'}/{table['name']}"
            if name in self.hub.repos:
                self._error(409, "", "You already created this model repo")
                return
            self.hub.repo(name, {}, private=table.get("private") or table.get("visibility") == "private")
            self._json({"url": f"{self.hub.url}/{name}", "id": name})
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/preupload/(.+)", path):
            files = [
                {"path": f["path"], "shouldIgnore": False, "uploadMode": "lfs" if f["size"] >= LARGE else "regular"}
                for f in json.loads(body)["files"]
            ]
            self._json({"files": files})
        elif re.fullmatch(r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", path):
            objects = [
                {"oid": o["oid"], "size": o["size"], "actions": {"upload": {"href": f"{self.hub.url}/put/{o['oid']}"}}}
                for o in json.loads(body)["objects"]
            ]
            self._json({"transfer": "basic", "objects": objects})
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/(.+)", path):
            self._commit(found[1], found[2], body)
        else:
            self._error(404, "", f"no such page: {self.command} {path}")

    def do_PUT(self) -> None:
        body = self._body()
        self.hub.requests.append(f"PUT {self.path}")
        self.hub.objects[self.path.rpartition("/")[2]] = body
        self._json({})

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _commit(self, name: str, revision: str, body: bytes) -> None:
        repo = self.hub.repos[name]
        files = dict((repo.files(revision) or ("", {}))[1])
        for line in body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                assert value["encoding"] == "base64"
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.hub.objects[value["oid"]]
        commit = repo.commit(files, revision)
        self._json({"commitUrl": f"{self.hub.url}/{name}/commit/{commit}", "commitOid": commit, "success": True})

    def _info(self, name: str, revision: str) -> None:
        repo = self._allowed(name, revision)
        if repo is None:
            return
        commit, files = repo
        found = self.hub.repos[name]
        self._json(
            {
                "id": name,
                "sha": commit,
                "private": found.private,
                "gated": "auto" if found.gated else False,
                "cardData": found.card,
                "siblings": [{"rfilename": name} for name in files],
            }
        )

    def _allowed(self, name: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        repo, knows = self.hub.repos.get(name), self.headers.get("Authorization")
        if repo is None or (repo.private and not knows):
            self._error(401 if not knows else 404, "RepoNotFound", "Repository not found")
        elif repo.gated and not knows:
            self._error(403, "GatedRepo", "Access to this model is restricted")
        elif (found := repo.files(revision)) is None:
            self._error(404, "RevisionNotFound", "Invalid rev id")
        else:
            return found
        return None

    def _resolve(self, name: str, revision: str, path: str) -> None:
        found = self._allowed(name, revision)
        if found is None:
            return
        commit, files = found
        if path not in files:
            self._error(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": commit})
            return
        data = files[path]
        if len(data) < LARGE:
            etag = hashlib.sha1(data).hexdigest()
            self._file(data, path, {"ETag": f'"{etag}"', "X-Repo-Commit": commit})
            return
        oid = hashlib.sha256(data).hexdigest()
        self.hub.objects[oid] = data
        headers = {"X-Repo-Commit": commit, "X-Linked-Size": str(len(data)), "X-Linked-ETag": f'"{oid}"'}
        self._send(302, b"", headers | {"Location": f"{self.hub.url}/cdn/{oid}/{path}"})

    def _file(self, data: bytes, path: str, headers: dict[str, str]) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        status = 200
        if asked and not self.hub.ignores_ranges:
            first, last = int(asked[1]), min(int(asked[2] or len(data) - 1), len(data) - 1)
            headers = headers | {"Content-Range": f"bytes {first}-{last}/{len(data)}"}
            data, status = data[first : last + 1], 206
        if self.command == "GET":
            self.hub.sent[path] = self.hub.sent.get(path, 0) + len(data)
        self._send(status, data, headers | {"Accept-Ranges": "bytes"})

    def _json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _error(self, status: int, code: str, message: str, headers: dict[str, str] | None = None) -> None:
        named = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
        self._send(status, json.dumps({"error": message}).encode(), named | (headers or {}))

    def _send(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "HEAD":
            return
        limit = self.hub.breaks_after
        if limit is not None and len(data) > limit and data[:1] != b"{":
            self.wfile.write(data[:limit])
            self.close_connection = True
            return
        self.wfile.write(data)


@contextmanager
def environment(hub: Hub, place: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The library of the hub speaks to this one, with an empty cache and no token."""
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv("HF_HUB_CACHE", str(place / "cache"))
    monkeypatch.setenv("HF_TOKEN", "")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(place / "token"))
    huggingface_hub.close_session()
    yield
    huggingface_hub.close_session()


@contextmanager
def serving() -> Iterator[Hub]:
    """The hub, served on a free port."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
