"""What people add over the wire: nothing is lost, whoever writes first, and nothing is more than text."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from served import TOKEN

from monoscope.server import Server

NASTY = "<img src=x onerror=alert(1)> '; DROP TABLE labels;-- \u202e \U0001f600 {{7*7}} =1+1"


def connect(server: Server) -> httpx.Client:
    return httpx.Client(
        base_url=f"{server.address}/api/v1", headers={"Authorization": f"Bearer {TOKEN}"}, trust_env=False, timeout=30
    )


@pytest.fixture
def desk(start: Callable[..., Server], root: Path, tmp_path: Path) -> Iterator[httpx.Client]:
    with connect(start(root, db=str(tmp_path / "workspace.db"), author="ada")) as client:
        yield client


def feature(desk: httpx.Client, index: int = 7) -> dict[str, Any]:
    return desk.get(f"/dictionaries/some-run/features/{index}").json()


def rows(desk: httpx.Client, column: str, op: str, value: Any = None) -> list[int]:
    query = json.dumps([{"column": column, "op": op, "value": value}])
    return desk.get("/dictionaries/some-run/features", params={"filter": query}).json()["columns"]["feature"]


def test_a_label_is_written_changed_and_deleted(desk: httpx.Client) -> None:
    made = desk.post("/labels", json={"dict": "some-run", "feature": 7, "text": NASTY})
    assert made.status_code == 201
    label = made.json()
    assert (label["text"], label["author"], label["dict"], label["source"]) == (NASTY, "ada", "some-run", "user")
    assert made.headers["etag"] == f'"{label["etag"]}"'
    assert feature(desk)["label"]["text"] == NASTY
    assert feature(desk)["my_label"] == label
    assert rows(desk, "label", "contains", "drop table") == [7]
    assert desk.get("/library").json()["dictionaries"][0]["n_labels"] == 1

    changed = desk.put(f"/labels/{label['id']}", json={"text": "other"}, headers={"If-Match": made.headers["etag"]})
    assert changed.json()["text"] == "other"
    assert changed.json()["etag"] != label["etag"]
    assert rows(desk, "label", "=", "other") == [7]

    assert desk.delete(f"/labels/{label['id']}").status_code == 204
    assert feature(desk)["label"] is None
    assert rows(desk, "label", "not_null") == []
    assert desk.get(f"/labels/{label['id']}").status_code == 404
    restored = desk.post(f"/restore/labels/{label['id']}")
    assert restored.status_code == 204
    assert restored.headers["ETag"] == desk.get(f"/labels/{label['id']}").headers["ETag"]
    assert feature(desk)["label"]["text"] == "other"


def test_a_change_to_an_older_state_is_refused_with_the_row_as_it_stands(desk: httpx.Client) -> None:
    label = desk.post("/labels", json={"dict": "some-run", "feature": 7, "text": "one"}).json()
    first = {"If-Match": f'"{label["etag"]}"'}
    assert desk.put(f"/labels/{label['id']}", json={"text": "two"}, headers=first).status_code == 200
    for answer in (
        desk.put(f"/labels/{label['id']}", json={"text": "three"}, headers=first),
        desk.delete(f"/labels/{label['id']}", headers=first),
    ):
        assert answer.status_code == 412
        problem = answer.json()
        assert problem["current"]["text"] == "two"
        assert answer.headers["etag"] == f'"{problem["current"]["etag"]}"'
    again = desk.put(f"/labels/{label['id']}", json={"text": "three"}, headers={"If-Match": answer.headers["etag"]})
    assert again.json()["text"] == "three"
    assert desk.put(f"/labels/{label['id']}", json={"text": "four"}).status_code == 428
    assert desk.put(f"/labels/{label['id']}", json={"text": "four"}, headers={"If-Match": "*"}).status_code == 200


def test_a_second_label_of_one_author_is_refused_with_the_first(desk: httpx.Client) -> None:
    new = {"dict": "some-run", "feature": 7, "text": "one"}
    assert desk.post("/labels", json=new).status_code == 201
    again = desk.post("/labels", json=new | {"text": "two"})
    assert (again.status_code, again.json()["current"]["text"]) == (409, "one")


def test_explanations_and_the_label_they_give(desk: httpx.Client) -> None:
    body = {"dict": "some-run", "feature": 3, "text": "fires on commas", "method": "by-hand", "judge": "ada"}
    made = desk.post("/explanations", json=body).json()
    assert (made["scores"], made["score"], made["method"]) == ({}, None, "by-hand")
    shown = feature(desk, 3)
    assert shown["label"] == {"text": "fires on commas", "source": "explanation", "author": "ada", "score": None}
    assert [e["id"] for e in shown["explanations"]] == [made["id"]]
    edited = desk.put(f"/explanations/{made['id']}", json={"text": "commas"}, headers={"If-Match": f'"{made["etag"]}"'})
    assert edited.json()["text"] == "commas"
    assert [e["id"] for e in desk.get("/explanations", params={"dict": "some-run"}).json()["items"]] == [made["id"]]
    assert desk.delete(f"/explanations/{made['id']}").status_code == 204
    assert feature(desk, 3)["explanations"] == []


def test_bookmarks_and_tags(desk: httpx.Client) -> None:
    mark = {"dict": "some-run", "feature": 9}
    assert desk.post("/bookmarks", json=mark).status_code == 201
    assert desk.post("/bookmarks", json=mark).status_code == 201
    assert len(desk.get("/bookmarks", params={"dict": "some-run"}).json()["items"]) == 1
    assert rows(desk, "bookmarked", "=", True) == [9]
    assert desk.post("/feature-tags", json=mark | {"tag": "<b>odd</b>"}).status_code == 201
    assert rows(desk, "tags", "=", "<b>odd</b>") == [9]
    assert (feature(desk, 9)["tags"], feature(desk, 9)["bookmarked"]) == (["<b>odd</b>"], True)
    (tag,) = desk.get("/tags").json()["items"]
    assert (tag["name"], tag["n_features"]) == ("<b>odd</b>", 1)
    renamed = desk.put(
        f"/tags/{tag['id']}", json={"name": "odd", "color": "#34d399"}, headers={"If-Match": f'"{tag["etag"]}"'}
    )
    assert (renamed.json()["name"], renamed.json()["n_features"]) == ("odd", 1)
    assert rows(desk, "tags", "=", "odd") == [9]
    assert desk.post("/tags", json={"name": "odd"}).status_code == 409
    assert desk.post("/tags", json={"name": "x", "color": "red; }"}).status_code == 422
    assert desk.delete("/feature-tags", params=mark | {"tag": "odd"}).status_code == 204
    assert desk.delete("/bookmarks", params=mark).status_code == 204
    assert rows(desk, "bookmarked", "=", True) == rows(desk, "tags", "not_null") == []


def test_a_list_is_a_page_that_says_no_more_than_text(desk: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    from monoscope.server.routes.workspace import lists

    made = desk.post("/lists", json={"name": f"a/../b {NASTY}"}).json()
    page, asked = f"/lists/{made['id']}/page", {"dict": "some-run"}
    assert desk.get(page, params=asked).status_code == 409
    desk.post("/labels", json={"dict": "some-run", "feature": 5, "text": NASTY})
    wanted = [{"dict": "some-run", "feature": i, "note": NASTY if i == 5 else ""} for i in (6, 5)]
    desk.post(f"/lists/{made['id']}/items", json={"items": wanted})
    answer = desk.get(page, params=asked)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/html")
    assert re.fullmatch(r'attachment; filename="[A-Za-z0-9_.-]+\.html"', answer.headers["content-disposition"])
    assert "<img" not in answer.text
    assert answer.text.count("&lt;img src=x") >= 4  # heading, title, label, note
    assert answer.text.index('id="f6"') < answer.text.index('id="f5"')
    assert desk.get(page, params={"dict": "nothing"}).status_code == 404
    assert desk.get(page).status_code == 422
    assert desk.get("/lists/01ARZ3NDEKTSV4RRFFQ69G5FAV/page", params=asked).status_code == 404
    monkeypatch.setattr(lists, "MOST_ON_PAGE", 1)
    refused = desk.get(page, params=asked)
    assert (refused.status_code, refused.json()["expected"]) == (409, "1 to 1")


def test_lists_and_their_order(desk: httpx.Client) -> None:
    made = desk.post("/lists", json={"name": "Brackets", "description": "*all*"}).json()
    wanted = [{"dict": "some-run", "feature": i, "note": "n" if i == 5 else ""} for i in (4, 5, 6)]
    items = desk.post(f"/lists/{made['id']}/items", json={"items": wanted}).json()["items"]
    assert [(item["feature"], item["note"]) for item in items] == [(4, ""), (5, "n"), (6, "")]
    assert desk.get("/lists").json()["items"][0]["n_items"] == 3
    last, over = f"/lists/{made['id']}/items/{items[2]['id']}/move", {"If-Match": f'"{items[2]["etag"]}"'}
    assert desk.post(last, json={"before": items[0]["id"]}).status_code == 428
    assert desk.post(last, json={"before": items[0]["id"]}, headers=over).status_code == 200
    late = desk.post(last, json={"before": None}, headers=over)
    assert (late.status_code, late.json()["current"]["feature"]) == (412, 6)
    shown = desk.get(f"/lists/{made['id']}/items").json()["items"]
    assert [item["feature"] for item in shown] == [6, 4, 5]
    assert (
        desk.post(f"/lists/{made['id']}/items", json={"items": wanted[:1]}).json()["items"][0]["id"] == items[0]["id"]
    )
    assert desk.get("/dictionaries/some-run/features/5/uses").json()["lists"] == [
        {"id": made["id"], "name": "Brackets"}
    ]
    noted = desk.put(
        f"/lists/{made['id']}/items/{items[0]['id']}", json={"note": "x"}, headers={"If-Match": f'"{items[0]["etag"]}"'}
    )
    assert noted.json()["note"] == "x"
    other = desk.post("/lists", json={"name": "Other"}).json()
    assert desk.delete(f"/lists/{other['id']}/items/{items[0]['id']}").status_code == 404
    assert desk.delete(f"/lists/{made['id']}/items/{items[0]['id']}").status_code == 204
    assert desk.get(f"/lists/{made['id']}").json()["n_items"] == 2
    assert desk.delete(f"/lists/{made['id']}").status_code == 204
    assert desk.get(f"/lists/{made['id']}/items").status_code == 404


def test_notes_are_about_something(desk: httpx.Client) -> None:
    note = {"target_kind": "feature", "target_id": "some-run/5", "markdown": "<script>alert(1)</script>"}
    made = desk.post("/notes", json=note).json()
    assert made["markdown"] == note["markdown"]
    assert desk.get("/dictionaries/some-run/features/5/uses").json()["notes"] == [made]
    about = {"target_kind": "feature", "target_id": "some-run/5"}
    assert desk.get("/notes", params=about).json()["items"] == [made]
    changed = desk.put(f"/notes/{made['id']}", json={"markdown": "b"}, headers={"If-Match": f'"{made["etag"]}"'})
    assert changed.json()["markdown"] == "b"
    for target in ("some-run/300", "nope/1", "some-run", "some-run/x", "some-run/-1", "some-run/" + "9" * 30):
        assert desk.post("/notes", json=note | {"target_id": target}).status_code in (404, 422)
    assert desk.post("/notes", json=note | {"target_kind": "planet"}).status_code == 422
    assert desk.delete(f"/notes/{made['id']}").status_code == 204


def test_filters_links_and_settings(desk: httpx.Client) -> None:
    saved = desk.post("/filters", json={"name": "rare", "page": "dictionary", "state": {"filter": [1]}}).json()
    assert desk.get("/filters", params={"page": "dictionary"}).json()["items"] == [saved]
    assert desk.get("/filters", params={"page": "other"}).json()["items"] == []
    link = desk.post("/links", json={"state": {"page": "/d/x", "n": 1}}).json()
    assert desk.get(f"/links/{link['id']}").json() == link
    assert desk.get("/links/nope").status_code == 404
    assert desk.put("/settings/theme", json={"value": {"is": "dark"}}).json() == {"values": {"theme": {"is": "dark"}}}
    assert desk.put("/settings/theme", json={"value": {"is": "light"}}).status_code == 200
    assert desk.get("/settings").json() == {"values": {"theme": {"is": "light"}}}
    assert desk.put("/settings/../x", json={"value": {}}).status_code in (404, 405, 422)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/labels", {"dict": "some-run", "feature": 300, "text": "x"}),
        ("/labels", {"dict": "nope", "feature": 1, "text": "x"}),
        ("/labels", {"dict": "some-run", "feature": 1, "text": ""}),
        ("/labels", {"dict": "some-run", "feature": 1, "text": "x" * 2001}),
        ("/labels", {"dict": "some-run", "feature": 1, "text": "a\0b"}),
        ("/labels", {"dict": "some-run", "feature": True, "text": "x"}),
        ("/labels", {"dict": "some-run", "feature": 1, "text": "x", "explanation_id": "0" * 26}),
        ("/labels", {"dict": "some-run", "feature": 1, "text": "x", "author": "eve"}),
        ("/lists", {"name": "a\0"}),
        ("/filters", {"name": "x", "page": "../x", "state": {}}),
        ("/filters", {"name": "x", "page": "d", "state": {"x": "y" * 1_100_000}}),
        ("/links", {"state": []}),
        ("/lists/00000000000000000000000000/items", {"items": [{"dict": "some-run", "feature": 1}]}),
        ("/restore/labels/00000000000000000000000000", None),
        ("/restore/audit/00000000000000000000000000", None),
    ],
)
def test_what_a_row_cannot_hold(desk: httpx.Client, path: str, body: Any) -> None:
    answer = desk.post(path, json=body) if body is not None else desk.post(path)
    assert answer.status_code in (404, 422), answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert len(answer.content) < 2000


def test_two_servers_on_one_workspace_lose_nothing(start: Callable[..., Server], root: Path, tmp_path: Path) -> None:
    db = str(tmp_path / "shared.db")
    one, two = start(root, db=db, author="ada"), start(root, db=db, author="bob")
    with connect(one) as ada, connect(two) as bob:
        ada.post("/labels", json={"dict": "some-run", "feature": 1, "text": "hers"})
        assert feature(bob, 1)["label"]["text"] == "hers"
        assert rows(bob, "label", "=", "hers") == [1]
        shared = ada.post("/notes", json={"target_kind": "page", "target_id": "home", "markdown": ""}).json()
        wins: list[str] = []

        def write(client: httpx.Client, name: str) -> None:
            for i in range(10):
                while True:
                    now = client.get("/notes", params={"target_kind": "page", "target_id": "home"}).json()["items"][0]
                    text = now["markdown"] + f"{name}{i} "
                    answer = client.put(
                        f"/notes/{shared['id']}", json={"markdown": text}, headers={"If-Match": f'"{now["etag"]}"'}
                    )
                    if answer.status_code == 200:
                        wins.append(f"{name}{i}")
                        break
                    assert answer.status_code == 412, answer.text
                mine = {"dict": "some-run", "feature": 100 + i, "text": name}
                assert client.post("/labels", json=mine).status_code == 201

        threads = [threading.Thread(target=write, args=pair) for pair in ((ada, "a"), (bob, "b"))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert len(wins) == 20
        (note,) = ada.get("/notes", params={"target_kind": "page", "target_id": "home"}).json()["items"]
        assert sorted(note["markdown"].split()) == sorted(wins)
        for client in (ada, bob):
            assert len(client.get("/labels", params={"dict": "some-run", "limit": 1000}).json()["items"]) == 21
            assert rows(client, "label", "in", ["a", "b"]) == list(range(100, 110))


def test_a_workspace_that_cannot_be_opened_takes_nothing_from_reading(
    start: Callable[..., Server], root: Path, tmp_path: Path
) -> None:
    (tmp_path / "broken.db").write_bytes(b"this is no database" * 100)
    with connect(start(root, db=str(tmp_path / "broken.db"))) as client:
        assert feature(client)["label"] is None
        assert client.get("/library").status_code == 200
        answer = client.post("/labels", json={"dict": "some-run", "feature": 1, "text": "x"})
        assert (answer.status_code, "cannot be used" in answer.json()["detail"]) == (503, True)
        assert client.get("/meta").json()["workspace"]
