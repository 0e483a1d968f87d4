"""Search over the wire: labels at once, tokens and contexts once another process has indexed them."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from served import TOKEN

from monoscope.features import FeatureBundle
from monoscope.server import Server


@pytest.fixture(scope="module")
def box(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    from monoscope.server import Settings

    db = str(tmp_path_factory.mktemp("search") / "workspace.db")
    server = Server([root], Settings(port=0, token=TOKEN, db=db)).start()
    headers = {"Authorization": f"Bearer {TOKEN}"}
    with httpx.Client(base_url=f"{server.address}/api/v1", headers=headers, trust_env=False, timeout=60) as client:
        for feature, text in ((5, "closing brackets"), (6, "<b>opening</b> brackets"), (7, "commas")):
            client.post("/labels", json={"dict": "some-run", "feature": feature, "text": text})
        until = time.monotonic() + 60
        while client.get("/search", params={"q": "x"}).json()["notes"] and time.monotonic() < until:
            time.sleep(0.2)
        yield client
    server.stop()


def found(box: httpx.Client, q: str, **query: Any) -> list[tuple[int, str]]:
    answer = box.get("/search", params={"q": q, **query})
    assert answer.status_code == 200, answer.text
    return [(hit["feature"], hit["why"]) for hit in answer.json()["hits"]]


def test_labels_are_found_as_they_are_written(box: httpx.Client) -> None:
    assert {f for f, why in found(box, "brackets") if why == "label"} == {5, 6}
    assert found(box, "brackets", dict="some-run", labeled=True, limit=1)
    hit = box.get("/search", params={"q": "opening", "mode": "exact"}).json()["hits"][0]
    assert (hit["feature"], hit["label"], hit["snippet"]) == (6, "<b>opening</b> brackets", "<b>opening</b> brackets")
    assert [hit["snippet"][a:b] for a, b in hit["ranges"]] == ["opening"]
    box.post("/labels", json={"dict": "some-run", "feature": 9, "text": "unheard-of zebra"})
    assert (9, "label") in found(box, "zebra")


def test_tokens_are_found_once_they_are_indexed(box: httpx.Client, bundle: FeatureBundle) -> None:
    features = {feature for feature, why in found(box, " cat", mode="token", limit=500) if why == "token"}
    assert features
    assert all(any(token.text == " cat" for token in bundle.feature(feature).tokens) for feature in features)


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ({}, 422),
        ({"q": "x" * 1001}, 422),
        ({"q": "(", "mode": "regex"}, 422),
        ({"q": "x", "mode": "magic"}, 422),
        ({"q": "x", "dict": "nope"}, 404),
        ({"q": "x", "dict": "../x"}, 422),
        ({"q": "x", "limit": 501}, 422),
        ({"q": ""}, 200),
        ({"q": "'; DROP TABLE labels; --"}, 200),
        ({"q": '" OR 1=1 NEAR(a b) * ^'}, 200),
        ({"q": "\x00"}, 200),
        ({"q": "\ud83d\ude00\u202e".encode("utf-16", "surrogatepass").decode("utf-16")}, 200),
    ],
)
def test_queries_that_are_odd(box: httpx.Client, query: dict[str, Any], status: int) -> None:
    answer = box.get("/search", params=query)
    assert answer.status_code == status, answer.text


def test_search_without_a_workspace_says_why(start: Callable[..., Server], root: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.db").write_bytes(b"this is no database" * 100)
    server = start(root, db=str(tmp_path / "broken.db"))
    headers = {"Authorization": f"Bearer {TOKEN}"}
    answer = httpx.get(f"{server.address}/api/v1/search?q=x", headers=headers, trust_env=False, timeout=30)
    assert answer.status_code == 503
