"""A server starts, says where it is, ends gracefully, and offers the interface under any prefix."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from served import TOKEN

import monoscope
from monoscope.core.errors import ConfigError, DataError, OutputError
from monoscope.server import Server, Settings
from monoscope.server.problems import ProblemError
from monoscope.server.static import FOREVER, Interface


def command(*arguments: str, **env: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "monoscope", "serve", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **env},
    )


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_streams_and_then_the_server(root: Path, tmp_path: Path, sign: signal.Signals) -> None:
    process = command(
        str(root), "--port", "0", "--json", "--set", f"server.db={tmp_path / 'w.db'}", MONOSCOPE_TOKEN=TOKEN
    )
    assert process.stdout is not None
    said = json.loads(process.stdout.readline())
    assert said["url"] == f"{said['address']}/?token={TOKEN}"
    headers = {"Authorization": f"Bearer {TOKEN}"}
    with httpx.Client(base_url=said["address"], headers=headers, trust_env=False, timeout=20) as client:
        assert client.get("/", headers={"Accept": "text/html"}).status_code == 200
        with client.stream("GET", "/api/v1/worker/events") as stream:
            lines = stream.iter_lines()
            assert next(lines)
            process.send_signal(sign)
            began = time.monotonic()
            list(lines)
        _, errors = process.communicate(timeout=20)
    assert (process.returncode, time.monotonic() - began < 12) == (0, True), errors
    assert "Traceback" not in errors
    assert "leaked" not in errors


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["/nowhere"], 1, "is not a directory"),
        (["--host", "0.0.0.0"], 2, "a token of 32 bytes"),
        (["--set", "server.prot=1"], 2, "did you mean 'port'"),
        (["--set", "port=1"], 2, "begin with server."),
        (["--set", "server.cors_origin=['*']"], 2, "an origin reads"),
        (["--port", "70000"], 2, "65535"),
    ],
)
def test_what_cannot_be_meant_is_said(arguments: list[str], code: int, says: str, tmp_path: Path) -> None:
    process = command(*arguments, XDG_DATA_HOME=str(tmp_path), MONOSCOPE_TOKEN="")
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, says in errors) == (code, True), errors
    assert "Traceback" not in errors


def test_a_port_that_is_taken(root: Path, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(OutputError, match="--port 0 takes a port that is free"):
            Server([root], Settings(port=taken.getsockname()[1], token=TOKEN, db=str(tmp_path / "w.db")))


def test_paths_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not a directory"):
        Server([tmp_path / "nothing"], Settings(port=0, token=TOKEN, db=str(tmp_path / "w.db")))
    with pytest.raises(ConfigError, match="no address of this machine"):
        Server([tmp_path], Settings(host="no.such.host.invalid", token="x" * 32, db=str(tmp_path / "w.db")))


def servers() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "monoscope server"}


def test_a_handle_works_where_a_loop_runs(root: Path, tmp_path: Path) -> None:
    before = servers()

    async def cell() -> None:
        server = monoscope.serve(root, background=True, db=str(tmp_path / "w.db"))
        try:
            assert server.url == f"http://127.0.0.1:{server.port}/?token={server.token}"
            assert len(server.token) >= 40
            assert len(servers() - before) == 1
            async with httpx.AsyncClient(trust_env=False) as client:
                headers = {"Authorization": f"Bearer {server.token}"}
                assert (await client.get(f"{server.address}/api/v1/meta", headers=headers)).status_code == 200
        finally:
            await asyncio.to_thread(server.stop)
        server.stop()
        with pytest.raises(httpx.ConnectError):
            httpx.get(server.address, trust_env=False)

    # In a thread of its own: a browser that other tests drive from this process runs a loop in this one.
    with ThreadPoolExecutor(1) as pool:
        pool.submit(asyncio.run, cell()).result()
    assert not servers() - before


@pytest.fixture
def interface(tmp_path: Path) -> Interface:
    (tmp_path / "_ui" / "assets").mkdir(parents=True)
    (tmp_path / "_ui" / "index.html").write_text(
        '<script type="module" src="./assets/app-1a.js"></script><i href="./x.svg">'
    )
    (tmp_path / "_ui" / "assets" / "app-1a.js").write_text("go()")
    (tmp_path / "_ui" / "x.svg").write_text("<svg/>")
    (tmp_path / "secret.txt").write_text("secret")
    return Interface(tmp_path / "_ui")


def test_the_page_finds_its_files_at_any_depth(interface: Interface) -> None:
    for path, up in (("/", "./"), ("/search", "./"), ("/d/x", "../"), ("/d/x/f/3", "../../../"), ("/d/x/", "../../")):
        page = bytes(interface.answer(path, "text/html,*/*").body).decode()
        assert f'src="{up}assets/app-1a.js"' in page, path
        assert f'href="{up}x.svg"' in page


def test_assets_are_kept_and_what_is_missing_is_no_page(interface: Interface) -> None:
    asset = interface.answer("/assets/app-1a.js", "*/*")
    assert asset.headers["cache-control"] == FOREVER
    assert asset.media_type in ("text/javascript", "application/javascript")
    assert "immutable" not in interface.answer("/x.svg", "*/*").headers["cache-control"]
    for path, accept in (
        ("/assets/gone.js", "text/html"),
        ("/assets/", "text/html"),
        ("/favicon.ico", "text/html"),
        ("/d/x", "application/json"),
        ("/../secret.txt", "*/*"),
        ("/assets/../../secret.txt", "*/*"),
        ("//etc/passwd.txt", "*/*"),
    ):
        with pytest.raises(ProblemError):
            interface.answer(path, accept)


def test_dictionaries_with_points_in_their_names_are_pages(interface: Interface) -> None:
    assert interface.answer("/d/gemma-2.2b.v1", "text/html").status_code == 200


def test_without_an_interface_the_page_says_how_to_build_it(tmp_path: Path) -> None:
    page = bytes(Interface(tmp_path / "nothing").answer("/", "text/html").body).decode()
    assert "npm run build" in page


def test_a_prefix_is_taken_off(start: Callable[..., Server], root: Path) -> None:
    server = start(root, root_path="/lab/proxy/8421")
    assert server.url.startswith(f"{server.address}/lab/proxy/8421/?token=")
    headers = {"Authorization": f"Bearer {TOKEN}"}
    with httpx.Client(base_url=server.address, trust_env=False) as client:
        for prefix in ("", "/lab/proxy/8421"):  # proxies that take it off, and proxies that do not
            assert client.get(f"{prefix}/api/v1/library").status_code == 401
            assert client.get(f"{prefix}/api/v1/library", headers=headers).status_code == 200
            assert client.get(f"{prefix}/healthz").status_code == 200
            assert client.get(f"{prefix}/d/x", headers={"Accept": "text/html"}).status_code == 200


def test_development_goes_to_vite(start: Callable[..., Server], root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MONOSCOPE_UI", "dev")
    server = start(root, no_token=True)
    answer = httpx.get(f"{server.address}/d/x", trust_env=False)
    assert (answer.status_code, answer.headers["location"]) == (307, "http://localhost:5173/d/x")
    assert httpx.get(f"{server.address}/api/v1/meta", trust_env=False).status_code == 200


def test_reading_never_loads_torch(root: Path, tmp_path: Path) -> None:
    script = (
        "import sys, httpx\n"
        "from monoscope.server import Server, Settings\n"
        f"server = Server([{str(root)!r}], Settings(port=0, no_token=True, db={str(tmp_path / 'w.db')!r})).start()\n"
        "base = server.address + '/api/v1/dictionaries/some-run'\n"
        "one = '/features/3'\n"
        "for part in ('', '/features?sort=-density', one, one + '/contexts', one + '/neighbors?by=other:some-run'):\n"
        "    assert httpx.get(base + part, trust_env=False, timeout=60).status_code == 200, part\n"
        "assert httpx.get(server.address + '/api/v1/search?q=x', trust_env=False, timeout=60).status_code == 200\n"
        "server.stop()\n"
        "print([name for name in ('torch', 'transformers') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr
