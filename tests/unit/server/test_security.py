"""Nobody gets in without the token, from another name, or from another page; nothing outside a bundle gets out."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from served import TOKEN

from monoscope.core.errors import ConfigError
from monoscope.server import Server, Settings
from monoscope.server.security.door import FAILURES, MINUTE, Answer, Door
from monoscope.server.security.hosts import Hosts

LIBRARY = "/api/v1/library"


def raw(
    server: Server, method: str, target: str, headers: dict[str, str], body: bytes = b""
) -> tuple[int, dict, bytes]:
    """A request with exactly these headers and this target, as no well-behaved client would send it."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    connection.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
    for name, value in headers.items():
        connection.putheader(name, value)
    if body:
        connection.putheader("Content-Length", str(len(body)))
    connection.endheaders(body or None)
    answer = connection.getresponse()
    out = answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()
    connection.close()
    return out


def with_token(server: Server, **headers: str) -> dict[str, str]:
    return {"Host": f"127.0.0.1:{server.port}", "Authorization": f"Bearer {TOKEN}", **headers}


def test_the_api_needs_the_token_and_the_shell_and_health_do_not(stranger: httpx.Client) -> None:
    answer = stranger.get(LIBRARY)
    assert answer.status_code == 401
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert stranger.get("/api/v1/openapi.json").status_code == 401
    assert stranger.get("/api").status_code == 401
    assert stranger.get("/healthz").json() == {"status": "ok"}
    assert stranger.get("/", headers={"accept": "text/html"}).status_code == 200


def test_a_token_in_the_address_becomes_a_cookie_and_leaves_the_address(server: Server, stranger: httpx.Client) -> None:
    answer = stranger.get("/d/demo/f/3", params={"token": TOKEN, "x": "1"})
    assert answer.status_code == 303
    assert answer.headers["location"] == "./3"
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith(f"monoscope-{server.port}=")
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert TOKEN not in cookie
    value = cookie.partition(";")[0]
    assert stranger.get(LIBRARY, headers={"Cookie": value}).status_code == 200
    forged = value[:-1] + ("0" if value[-1] != "0" else "1")
    assert stranger.get(LIBRARY, headers={"Cookie": forged}).status_code == 401
    stranger.cookies.clear()


def test_a_reader_looks_at_everything_and_changes_nothing(server: Server, client: httpx.Client) -> None:
    token = client.get("/session/reader").json()["token"]
    assert token != TOKEN
    headers = {"Authorization": f"Bearer {token}"}
    with httpx.Client(base_url=server.address, headers=headers, trust_env=False) as reader:
        for path in ("/library", "/dictionaries/some-run/features/7", "/labels"):
            assert reader.get(f"/api/v1{path}").status_code == 200
        label = {"dict": "some-run", "feature": 7, "text": "not mine"}
        assert reader.post("/api/v1/labels", json=label).status_code == 403
        assert reader.post("/api/v1/steer", json={}).status_code == 403
        text = {"dict": "some-run", "feature": 7, "text": "x"}
        assert reader.post("/api/v1/activate/feature", json=text).status_code not in (401, 403)
        assert reader.delete("/api/v1/bookmarks", params={"dict": "some-run", "feature": 7}).status_code == 403
    with httpx.Client(base_url=server.address, trust_env=False) as browser:
        assert browser.post("/api/v1/session", json={"token": token}).status_code == 403
        assert browser.get("/", params={"token": token}).status_code == 403
        assert not browser.cookies


def test_a_session_is_opened_and_closed(start: Callable[..., Server], root: Path) -> None:
    server = start(root)
    with httpx.Client(base_url=server.address, trust_env=False) as browser:
        assert browser.get(LIBRARY).status_code == 401
        assert browser.post("/api/v1/session", json={"token": "wrong"}).status_code == 401
        assert browser.post("/api/v1/session", json={"token": TOKEN}).status_code == 204
        assert browser.get(LIBRARY).status_code == 200
        assert browser.delete("/api/v1/session").status_code == 204
        assert browser.get(LIBRARY).status_code == 401


def test_ten_wrong_tokens_lock_an_address_for_a_minute_but_not_its_browser() -> None:
    now = [0.0]
    door = Door("right", 1, clock=lambda: now[0])
    assert door.admits("a") is Answer.UNKNOWN
    for _ in range(FAILURES):
        assert door.admits("a", token="wrong") is Answer.WRONG
    assert door.admits("a", token="right") is Answer.LOCKED
    assert door.admits("a", cookie=door.cookie_value) is Answer.OPEN
    assert door.admits("b", token="right") is Answer.OPEN
    now[0] = MINUTE + 1
    assert door.admits("a", token="right") is Answer.OPEN


def test_the_lock_is_answered_with_429(start: Callable[..., Server], root: Path) -> None:
    server = start(root)
    for _ in range(FAILURES):
        assert raw(server, "GET", LIBRARY, with_token(server, Authorization="Bearer no"))[0] == 401
    status, headers, _ = raw(server, "GET", LIBRARY, with_token(server))
    assert (status, headers["retry-after"]) == (429, "60")


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:{port}", 200),
        ("localhost:{port}", 200),
        ("LOCALHOST", 200),
        ("[::1]:{port}", 200),
        ("evil.example", 421),
        ("127.0.0.1.evil.example", 421),
        ("localhost.evil.example:{port}", 421),
        ("evil.example@127.0.0.1", 421),
        ("127.0.0.1:{port}:80", 421),
        ("127.0.0.2", 421),
        ("", 421),
        (None, 400),
    ],
)
def test_hosts(server: Server, host: str | None, status: int) -> None:
    headers = with_token(server)
    del headers["Host"]
    if host is not None:
        headers["Host"] = host.format(port=server.port)
    assert raw(server, "GET", LIBRARY, headers)[0] == status


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 422),
        ({"Origin": "http://127.0.0.1:{port}"}, 422),
        ({"Origin": "https://127.0.0.1:{port}"}, 422),
        ({"Sec-Fetch-Site": "same-origin"}, 422),
        ({"Origin": "http://127.0.0.1:1"}, 403),
        ({"Origin": "http://localhost:{port}"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "file://"}, 403),
        ({"Origin": "http://127.0.0.1:{port}.evil.example"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
    ],
)
def test_changes_come_from_this_server_s_pages(server: Server, headers: dict[str, str], status: int) -> None:
    sent = {name: value.format(port=server.port) for name, value in headers.items()}
    sent = with_token(server, **sent, **{"Content-Type": "application/json"})
    assert raw(server, "POST", LIBRARY, sent, b'{"path": "/nowhere"}')[0] == status


def test_origins_that_are_allowed_may_ask_and_others_may_not(start: Callable[..., Server], root: Path) -> None:
    server = start(root, cors_origin=("https://notebook.example",))
    ask = {"Access-Control-Request-Method": "POST", "Host": f"127.0.0.1:{server.port}"}
    _, allowed, _ = raw(server, "OPTIONS", LIBRARY, {**ask, "Origin": "https://notebook.example"})
    assert allowed["access-control-allow-origin"] == "https://notebook.example"
    assert "access-control-allow-credentials" not in allowed
    _, refused, _ = raw(server, "OPTIONS", LIBRARY, {**ask, "Origin": "https://evil.example"})
    assert "access-control-allow-origin" not in refused


def test_without_settings_no_origin_is_told_anything(server: Server) -> None:
    _, headers, _ = raw(server, "GET", LIBRARY, with_token(server, Origin="https://evil.example"))
    assert not [name for name in headers if name.startswith("access-control")]


@pytest.mark.parametrize("body", [b'{"path": "/x"}', b"path=%2Fx"])
@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", None]
)
def test_bodies_are_json(server: Server, kind: str | None, body: bytes) -> None:
    headers = with_token(server, **({} if kind is None else {"Content-Type": kind}))
    assert raw(server, "POST", LIBRARY, headers, body)[0] == 415


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b'{"path": NaN}', 400),
        (b'{"path": Infinity}', 400),
        (b'{"path": ', 400),
        (b"\xff\xfe", 400),
        (b'{"path": "\\ud800"}', 400),
        (b"[" * 33 + b"]" * 33, 422),
        (b"[" * 100_000, 422),
        (b'{"path": "a\\u0000b"}', 422),
        (b'{"path": "/x", "more": 1}', 422),
        (b'{"path": 5}', 422),
        (b"[]", 422),
        (b'{"path": "' + b"a" * 5000 + b'"}', 422),
        (b'{"path": "' + b"1" * 2_000_001 + b'"}', 413),
    ],
)
def test_json_that_is_not_plain_is_refused(server: Server, body: bytes, status: int) -> None:
    headers = with_token(server, **{"Content-Type": "application/json"})
    found, sent, text = raw(server, "POST", LIBRARY, headers, body)
    assert found == status
    assert sent["content-type"] == "application/problem+json"
    assert json.loads(text)["status"] == status
    assert len(text) < 2000


def test_a_body_without_a_length_is_counted_as_it_comes(server: Server) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    headers = {k: v for k, v in with_token(server).items() if k != "Host"} | {"Content-Type": "application/json"}

    def parts() -> object:
        for _ in range(100):
            yield b"x" * 100_000

    try:
        connection.request("POST", LIBRARY, body=parts(), headers=headers, encode_chunked=True)
    except (BrokenPipeError, ConnectionResetError):
        pass  # refused while it was being sent
    else:
        assert connection.getresponse().status == 413
    connection.close()


TRAVERSALS = (
    "../secret.txt", "..%2fsecret.txt", "%2e%2e/secret.txt", "%2e%2e%2fsecret.txt", "....//secret.txt",
    "..\\secret.txt", "..%5csecret.txt", "/etc/passwd", "%2fetc%2fpasswd", "//etc/passwd", "contexts/../../secret.txt",
    "./README.md", "README.md/", "README.md%00", "contexts", "contexts/", "", "..", "%252e%252e%252fsecret.txt",
    "file:///etc/passwd", "README.md/../../secret.txt", "~/.ssh/id_rsa", "..;/secret.txt",
    "\u2025/secret.txt".encode().decode("latin-1"),
)  # fmt: skip


@pytest.mark.parametrize("path", TRAVERSALS)
def test_no_path_leads_out_of_a_bundle(server: Server, root: Path, path: str) -> None:
    (root / "Some Run" / "secret.txt").write_text("secret")
    target = f"/api/v1/files/some-run/{path}".encode("latin-1").decode("latin-1")
    status, _, body = raw(server, "GET", "".join(c if c.isascii() else "%E2%80%A5" for c in target), with_token(server))
    assert status in (404, 405, 422), path
    assert b"secret\n" not in body
    assert body != b"secret"
    assert b"root:" not in body


@pytest.mark.parametrize("path", TRAVERSALS)
def test_no_path_leads_out_of_the_interface(server: Server, path: str) -> None:
    ascii_path = "".join(c if c.isascii() else "%E2%80%A5" for c in path)
    _, _, body = raw(server, "GET", f"/assets/{ascii_path}", {"Host": f"127.0.0.1:{server.port}"})
    assert b"root:" not in body
    assert b"Some Run" not in body


@pytest.mark.parametrize(
    "id",
    ["..", ".", "%2e%2e", "A", "a b", "a%2fb", "-a", "a" * 129, "%00", "é".encode().decode("latin-1"), "'--", "{dict}"],
)
def test_ids_are_slugs(server: Server, id: str) -> None:
    target = "".join(c if 32 < ord(c) < 127 else f"%{ord(c):02x}" for c in id)
    assert raw(server, "GET", f"/api/v1/dictionaries/{target}", with_token(server))[0] in (404, 422)


def test_a_link_that_leads_out_of_the_root_is_not_followed(
    start: Callable[..., Server], tmp_path: Path, root: Path
) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "link").symlink_to(root)
    (inside / "loop").symlink_to(inside)
    server = start(inside)
    assert server.state.library.entries == []
    with httpx.Client(base_url=server.address, headers={"Authorization": f"Bearer {TOKEN}"}, trust_env=False) as client:
        for path in (str(root), str(inside / "link"), "../", "/", "link", "~", "\u0000", "inside/../..", "0" * 4000):
            answer = client.post(LIBRARY, json={"path": path})
            assert answer.status_code == 422, path
            assert answer.json()["title"]


def test_policies_are_on_every_answer(server: Server) -> None:
    targets = [
        ("GET", "/"), ("GET", "/healthz"), ("GET", LIBRARY), ("GET", "/api/v1/nope"), ("GET", "/assets/nope.js"),
        ("POST", LIBRARY), ("DELETE", "/"), ("GET", "/api/v1/files/some-run/README.md"), ("HEAD", "/"),
        ("GET", "/api/v1/dictionaries/some-run/features?filter=x"), ("GET", f"/?token={TOKEN}"), ("GET", "/?token=bad"),
    ]  # fmt: skip
    for method, target in targets:
        for headers in (with_token(server), {"Host": f"127.0.0.1:{server.port}"}, {"Host": "evil.example"}):
            _, found, _ = raw(server, method, target, headers)
            assert found["content-security-policy"].startswith("default-src 'none'; script-src 'self'"), target
            assert "unsafe" not in found["content-security-policy"]
            assert "frame-ancestors 'self'" in found["content-security-policy"]
            assert found["x-content-type-options"] == "nosniff"
            assert found["referrer-policy"] == "no-referrer"
            assert found["cross-origin-opener-policy"] == "same-origin"
            assert "server" not in found


def test_addresses_others_can_reach_need_a_long_token() -> None:
    for host in ("0.0.0.0", "192.168.1.2", "::", "example.org"):
        with pytest.raises(ConfigError, match="a token of 32 bytes"):
            Settings.from_dict({"host": host})
        with pytest.raises(ConfigError, match="a token of 32 bytes"):
            Settings.from_dict({"host": host, "token": "x" * 31})
        with pytest.raises(ConfigError, match="for this machine only"):
            Settings.from_dict({"host": host, "no_token": True})
        assert Settings.from_dict({"host": host, "token": "x" * 32}).host == host
    for host in ("127.0.0.1", "::1", "localhost", "127.8.8.8"):
        assert Settings.from_dict({"host": host, "no_token": True}).no_token


@pytest.mark.parametrize(
    "origin", ["*", "https://*", "example.org", "https://x/", "https://x; script-src *", "ftp://x", "https://"]
)
def test_origins_are_exact(origin: str) -> None:
    for name in ("cors_origin", "allow_frame"):
        with pytest.raises(ConfigError, match="an origin reads"):
            Settings.from_dict({name: [origin]})


def test_names_that_are_given_are_known() -> None:
    hosts = Hosts(Settings(allow_host=("lab.example",)))
    assert hosts.knows("lab.example:80", None)
    assert not hosts.knows("other.example", None)
    assert Hosts(Settings(host="0.0.0.0", token="x" * 32)).knows("10.0.0.7:8421", "10.0.0.7")
    assert not Hosts(Settings(host="0.0.0.0", token="x" * 32)).knows("rebound.example", "10.0.0.7")
    assert not Hosts(Settings(host="0.0.0.0", token="x" * 32)).knows("0.0.0.0", "10.0.0.7")


def test_a_server_without_a_token_lets_this_machine_in(start: Callable[..., Server], root: Path) -> None:
    server = start(root, no_token=True)
    assert server.url == f"{server.address}/"
    host = {"Host": f"127.0.0.1:{server.port}"}
    assert raw(server, "GET", LIBRARY, host)[0] == 200
    assert raw(server, "GET", LIBRARY, {"Host": "evil.example"})[0] == 421


def test_a_read_only_server_changes_nothing(start: Callable[..., Server], root: Path) -> None:
    server = start(root, read_only=True)
    headers = with_token(server, **{"Content-Type": "application/json"})
    status, _, body = raw(server, "POST", LIBRARY, headers, json.dumps({"path": str(root)}).encode())
    assert (status, json.loads(body)["detail"]) == (403, "this server is read-only")


def test_a_defect_is_a_problem_and_a_line_in_the_log(
    start: Callable[..., Server], root: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    import monoscope.server.routes.library as routes

    def broken(*_: object) -> None:
        raise ZeroDivisionError("secret of the inside")

    monkeypatch.setattr(routes, "_library", broken)
    server = start(root)
    status, headers, body = raw(server, "GET", f"{LIBRARY}?token=secret", with_token(server))
    assert status == 500
    assert headers["content-type"] == "application/problem+json"
    assert b"secret" not in body
    assert b"Traceback" not in body
    server.stop()
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    assert [line["event"] for line in lines] == ["failure", "request"]
    assert "ZeroDivisionError" in lines[0]["trace"]
    assert lines[1]["path"] == LIBRARY
    assert not any("token=" in json.dumps(line) for line in lines)


def test_websockets_are_refused(server: Server) -> None:
    headers = with_token(server, Upgrade="websocket", Connection="Upgrade")
    headers |= {"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version": "13"}
    assert raw(server, "GET", LIBRARY, headers)[0] in (200, 403, 426)


def test_headers_without_an_end_are_not_read_to_the_end(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nX: ")
        try:
            for _ in range(1000):
                connection.sendall(b"a" * 10_000)
            answer = connection.recv(100)
        except ConnectionError:
            return
        assert answer == b"" or answer.startswith(b"HTTP/1.1 4"), answer
