"""Whose name a label gets: the server's own author's, or that of the user whom a trusted proxy signed in."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from served import TOKEN

from monoscope.core.errors import ConfigError
from monoscope.server import Server, Settings

HEADERS = {"Authorization": f"Bearer {TOKEN}"}


def label(server: Server, feature: int, **headers: str) -> httpx.Response:
    with httpx.Client(base_url=f"{server.address}/api/v1", headers=HEADERS | headers, trust_env=False) as client:
        meta = client.get("/meta").raise_for_status().json()
        answer = client.post("/labels", json={"dict": "some-run", "feature": feature, "text": f"by {meta['author']}"})
    assert answer.status_code != 201 or answer.json()["author"] == meta["author"]
    return answer


def test_users_of_a_trusted_proxy_write_under_their_names(start: Callable[..., Server], root: Path) -> None:
    server = start(root, author="host", trust_proxy=("127.0.0.0/8",))
    statuses = [label(server, 3, **{"X-Forwarded-User": user}).status_code for user in ("ada", "bob", "ada")]
    assert statuses == [201, 201, 409]
    assert label(server, 3).json()["author"] == "host"
    with httpx.Client(base_url=f"{server.address}/api/v1", headers=HEADERS, trust_env=False) as client:
        feature = client.get("/dictionaries/some-run/features/3", headers={"X-Forwarded-User": "bob"}).json()
    assert {row["author"] for row in feature["labels"]} == {"ada", "bob", "host"}
    assert feature["my_label"]["author"] == "bob"


def test_bookmarks_are_seen_by_those_who_set_them(start: Callable[..., Server], root: Path) -> None:
    server = start(root, trust_proxy=("127.0.0.0/8",))
    rows = {}
    with httpx.Client(base_url=f"{server.address}/api/v1", headers=HEADERS, trust_env=False) as client:
        client.post(
            "/bookmarks", json={"dict": "some-run", "feature": 4}, headers={"X-Forwarded-User": "ada"}
        ).raise_for_status()
        for user in ("ada", "bob"):
            asked = {"filter": json.dumps([{"column": "bookmarked", "op": "=", "value": True}]), "sort": "-density"}
            table = client.get("/dictionaries/some-run/features", params=asked, headers={"X-Forwarded-User": user})
            rows[user] = table.raise_for_status().json()["total"]
    assert rows == {"ada": 1, "bob": 0}


def test_the_header_is_nothing_from_anywhere_else(start: Callable[..., Server], root: Path) -> None:
    for networks in ((), ("10.0.0.0/8",)):
        server = start(root, author="host", trust_proxy=networks)
        with httpx.Client(base_url=f"{server.address}/api/v1", headers=HEADERS, trust_env=False) as client:
            assert client.get("/meta", headers={"X-Forwarded-User": "ada"}).json()["author"] == "host"
        server.stop()


@pytest.mark.parametrize("user", ["", "x" * 201, "a\tb"])
def test_names_that_are_none_are_refused(start: Callable[..., Server], root: Path, user: str) -> None:
    server = start(root, trust_proxy=("127.0.0.1",))
    answer = httpx.get(f"{server.address}/api/v1/meta", headers=HEADERS | {"X-Forwarded-User": user}, trust_env=False)
    assert answer.status_code == 400


def test_networks_are_checked_at_start() -> None:
    with pytest.raises(ConfigError, match=r"a network reads 10\.0\.0\.0/8"):
        Settings.from_dict({"trust_proxy": ["proxy.example.org"]})
