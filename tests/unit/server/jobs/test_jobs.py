from __future__ import annotations

import os
import shutil
import signal
import time

import pytest
from live_world import events, language_model, library, serving

from monoscope.dictionaries import load
from monoscope.evals import evaluate
from monoscope.evals.correspondence import by_direction
from monoscope.features.workspace import Workspace
from monoscope.harvest import StandardLibrary
from monoscope.server.library.discover import discover

pytestmark = pytest.mark.slow  # a server and its worker process are started


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return library(tmp_path_factory.mktemp("library"))


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    return tmp_path_factory.mktemp("workspace") / "workspace.db"


@pytest.fixture(scope="module")
def client(path, database):
    with serving([path], db=str(database)) as client:
        yield client


def started(client, address: str, body: dict) -> dict:
    answer = client.post(address, json=body)
    assert answer.status_code == 201, answer.text
    assert answer.json()["state"] == "queued"
    return answer.json()


def followed(client, job: str, seen: int | None = None) -> list[tuple]:
    """Events of a job until its end."""
    headers = {} if seen is None else {"Last-Event-ID": str(seen)}
    with client.stream("GET", f"/jobs/{job}/events", headers=headers) as response:
        assert response.status_code == 200, response.read()
        return list(events(response))


def until(client, job: str, wanted: str) -> dict:
    end = time.monotonic() + 90
    while time.monotonic() < end:
        found = client.get(f"/jobs/{job}").json()
        if found["state"] == wanted or (wanted == "progress" and found["progress"]):
            return found
        assert found["state"] in ("queued", "running"), found
        time.sleep(0.05)
    raise AssertionError(f"the job never was {wanted}: {found}")


@pytest.fixture(scope="module")
def compared(client):
    """A comparison of the two that is done."""
    job = started(client, "/compare", {"dicts": ["topk", "jump"], "threshold": 0.6, "tokens": 1024})
    *_, (name, last, _) = followed(client, job["id"])
    assert (name, last["state"]) == ("end", "done"), last
    return last


def test_a_comparison_says_what_the_library_says(client, compared, path):
    rows = [load(path / name / "dictionary").W_dec for name in ("topk", "jump")]
    expected = by_direction(rows[0], rows[1], 0.6)
    result = client.get(f"/compare/{compared['id']}").raise_for_status().json()
    (pair,) = result["pairs"]
    assert (pair["a"], pair["b"], pair["number"]) == ("topk", "jump", 0)
    assert pair["n_matched"] == expected.pairs.shape[1] > 0
    assert pair["nearest_a"] == pytest.approx(float(expected.best_a.mean()), rel=1e-5)
    assert 0.1 < pair["chance"] < pair["nearest_a"]
    assert pair["n_splits"] == 1
    assert sum(pair["histogram"]) == 512
    assert [row["id"] for row in result["metrics"]] == ["topk", "jump"]
    assert result["metrics"][0]["k"] == 16
    assert result["metrics"][0]["nearest"] == pytest.approx(result["pairs"][0]["chance"], abs=0.05)
    assert result["n_tokens"] >= 256
    page = client.get(f"/compare/{compared['id']}/rows", params={"limit": 7, "offset": 2}).json()
    assert page["total"] == expected.pairs.shape[1]
    found = [(row["a"][0], row["b"][0]) for row in page["rows"]]
    assert found == [tuple(pair) for pair in expected.pairs[:, 2:9].T.tolist()]
    cosines = [row["cosine"][0] for row in page["rows"]]
    assert cosines == pytest.approx(expected.similarity[2:9].tolist(), abs=1e-4)
    assert all(-1 <= row["correlation"][0] <= 1 for row in page["rows"])


@pytest.mark.parametrize("kind", ["splits", "merges", "only_a", "only_b"])
def test_pages_of_every_kind(client, compared, kind):
    numbers = client.get(f"/compare/{compared['id']}").json()["pairs"][0]
    page = client.get(f"/compare/{compared['id']}/rows", params={"kind": kind, "limit": 1000}).json()
    assert page["total"] == len(page["rows"]) == numbers[f"n_{kind}"]
    for row in page["rows"]:
        sizes = len(row["a"]), len(row["b"])
        if kind == "splits":
            assert sizes[0] == 1 < sizes[1]
        elif kind == "merges":
            assert sizes[1] == 1 < sizes[0]
        else:
            assert sizes == (1, 1)
        assert len(row["cosine"]) == len(row["correlation"]) == max(sizes)


def test_comparing_by_activations(client):
    job = started(client, "/compare", {"dicts": ["topk", "jump"], "by": "activations", "threshold": 0.5, "tokens": 512})
    last = followed(client, job["id"])[-1][1]
    assert last["state"] == "done", last
    rows = client.get(f"/compare/{job['id']}/rows").json()["rows"]
    assert rows
    assert all(row["correlation"][0] >= 0.5 - 1e-4 for row in rows)


def test_a_broken_connection_goes_on_where_it_was(client, compared):
    whole = followed(client, compared["id"])
    numbers = [ident for _, _, ident in whole if ident is not None]
    assert numbers == list(range(1, len(numbers) + 1))
    assert whole[0][0] == "state"
    assert {data["body"]["state"] for name, data, _ in whole if name == "state"} == {"queued", "running", "done"}
    rest = followed(client, compared["id"], seen=2)
    assert [ident for _, _, ident in rest if ident is not None] == numbers[2:]
    assert rest[-1][0] == "end"
    assert [name for name, _, _ in followed(client, compared["id"], seen=10**9)] == ["end"]


def test_an_evaluation_is_that_of_the_library(client, path):
    job = started(client, "/jobs", {"kind": "evaluate", "dict": "topk", "tokens": 1000})
    last = followed(client, job["id"])[-1][1]
    assert last["state"] == "done", last
    lm = language_model()
    windows = StandardLibrary(split="held_out").windows(lm, context=64, tokens=1000)
    expected = evaluate(lm, load(path / "topk" / "dictionary"), windows).to_dict()
    assert last["result"]["fidelity"]["fvu"] == pytest.approx(expected["fidelity"]["fvu"], rel=1e-4)
    assert last["result"]["losses"] == pytest.approx(expected["losses"], rel=1e-3)


def test_a_running_job_is_called_off(client):
    job = started(client, "/jobs", {"kind": "evaluate", "dict": "topk", "tokens": 500_000})
    until(client, job["id"], "running")
    answer = client.delete(f"/jobs/{job['id']}").json()
    assert answer["cancelling"]
    assert until(client, job["id"], "cancelled")["finished"]
    assert client.post("/activate", json={"dicts": ["topk"], "text": "x"}).status_code == 200
    again = client.delete(f"/jobs/{job['id']}").json()
    assert again["state"] == "cancelled"
    assert [row["id"] for row in client.get("/jobs", params={"state": "cancelled"}).json()["jobs"]] == [job["id"]]


def test_pages_stay_quick_while_a_job_runs(client):
    job = started(client, "/jobs", {"kind": "evaluate", "dict": "topk", "tokens": 500_000})
    until(client, job["id"], "progress")
    waits = []
    for feature in range(20):
        began = time.monotonic()
        client.get(f"/dictionaries/topk/features/{feature}").raise_for_status()
        waits.append(time.monotonic() - began)
    assert sorted(waits)[18] < 1.0
    body = {"dict": "topk", "feature": 3, "text": "while it runs"}
    assert client.post("/activate/feature", json=body).status_code == 200
    assert client.get(f"/jobs/{job['id']}").json()["state"] == "running"
    client.delete(f"/jobs/{job['id']}")
    until(client, job["id"], "cancelled")


def test_a_job_whose_worker_is_killed_has_failed(client):
    job = started(client, "/jobs", {"kind": "evaluate", "dict": "topk", "tokens": 500_000})
    until(client, job["id"], "progress")
    os.kill(client.state.worker.pid, signal.SIGKILL)
    failed = until(client, job["id"], "failed")
    assert "the worker stopped (signal 9" in failed["error"]
    assert client.get("/worker").json()["restarts"] == 1
    assert client.post("/activate", json={"dicts": ["topk"], "text": "x"}).status_code == 200


def test_a_job_keeps_what_the_worker_said(client):
    job = started(client, "/jobs", {"kind": "evaluate", "dict": "jump", "tokens": 2_000})
    until(client, job["id"], "done")
    with client.stream("GET", f"/jobs/{job['id']}/events", params={"progress": False}) as response:
        said = [(name, data) for name, data, _ in events(response)]
    assert [name for name, _ in said[:2] + said[-2:]] == ["state", "state", "state", "end"]
    lines = [data["body"]["text"] for name, data in said if name == "info"]
    assert any("tokens in" in line and line.endswith("/s") for line in lines), lines
    assert not [name for name, _ in said if name == "progress"]


def test_a_new_bundle_is_in_the_library(client, path):
    job = started(
        client, "/jobs", {"kind": "analyze", "path": str(path / "topk" / "dictionary"), "name": "again", "tokens": 2000}
    )
    last = followed(client, job["id"])[-1][1]
    assert last["state"] == "done", last
    made = last["result"]["dictionary"]
    assert client.get(f"/dictionaries/{made}").json()["n_tokens"] >= 1900
    again = client.post("/jobs", json={"kind": "analyze", "path": str(path / "topk" / "dictionary"), "name": "again"})
    assert again.status_code == 422
    assert "exists" in again.json()["detail"]


def test_a_snapshot_of_a_run_under_way_is_described(client, path):
    run = path / "under way"
    run.mkdir()
    (run / "training.toml").write_text("")
    (run / "metrics.jsonl").write_text('{"step": 1, "tokens": 4096}\n')
    (found,) = client.post("/library", json={"path": str(run)}).raise_for_status().json()["runs"]
    for tokens in ("4096", "40960", "other"):
        shutil.copytree(path / "topk" / "dictionary", run / "snapshots" / tokens)

    def points() -> list[dict]:
        return client.get(f"/runs/{found['id']}").raise_for_status().json()["checkpoints"]

    assert [(point["kind"], point["tokens"], point["dictionary"]) for point in points()] == [
        ("snapshot", 40960, None),
        ("snapshot", 4096, None),
    ]
    job = started(client, "/jobs", {"kind": "analyze", "path": points()[1]["path"], "tokens": 2000})
    last = followed(client, job["id"])[-1][1]
    assert last["state"] == "done", last
    client.state.library.matched.wait(30)
    assert points()[1]["dictionary"] == last["result"]["dictionary"]
    # What a later server finds: the snapshots of a run that is finished too.
    for name in ("config.toml", "weights.safetensors"):
        shutil.copy(path / "topk" / "dictionary" / name, run)
    after = discover(run)
    assert [bundle.name for bundle in after.bundles] == ["4096-features.mono"]
    assert run / "snapshots" / "40960" in after.dictionaries
    shutil.rmtree(run)


@pytest.mark.parametrize(
    ("address", "body", "status"),
    [
        ("/compare", {"dicts": ["topk"]}, 422),
        ("/compare", {"dicts": ["topk", "topk"]}, 422),
        ("/compare", {"dicts": ["topk", "nothing"]}, 404),
        ("/compare", {"dicts": ["topk", "jump"], "threshold": 0}, 422),
        ("/jobs", {"kind": "evaluate", "dict": "nothing"}, 404),
        ("/jobs", {"kind": "train"}, 422),
        ("/jobs", {"kind": "analyze", "path": "/etc"}, 422),
        ("/jobs", {"kind": "analyze", "path": "topk/../../../etc"}, 422),
        ("/jobs", {"kind": "analyze", "path": "x\u0000y"}, 422),
    ],
)
def test_jobs_that_cannot_be_are_refused_at_once(client, address, body, status):
    answer = client.post(address, json=body)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"


def test_jobs_that_do_not_exist(client, compared):
    nobody = "0" * 26
    for address in (f"/jobs/{nobody}", f"/jobs/{nobody}/events", f"/compare/{nobody}", f"/compare/{nobody}/rows"):
        assert client.get(address).status_code == 404, address
    assert client.delete(f"/jobs/{nobody}").status_code == 404
    assert client.get("/jobs/..%2f..%2fetc").status_code in (404, 422)
    assert client.get(f"/compare/{compared['id']}/rows", params={"pair": 5}).status_code == 422


def test_a_job_goes_back_to_the_queue_when_its_server_stops(path, tmp_path):
    database = tmp_path / "workspace.db"
    with serving([path], db=str(database)) as client:
        job = started(client, "/jobs", {"kind": "evaluate", "dict": "topk", "tokens": 500_000})
        until(client, job["id"], "running")
    workspace = Workspace.open(database)
    try:
        assert workspace.jobs.get(job["id"]).state == "queued"
    finally:
        workspace.close()
