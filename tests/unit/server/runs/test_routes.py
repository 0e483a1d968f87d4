from __future__ import annotations

import json
import threading

import pytest
from live_world import events, serving

SETTINGS = '[runs.""]\nreads = ["1.mlp_in"]\n[runs."".training]\ntokens = 1000\n[source]\nkind = "live"\n'


def row(step: int) -> str:
    return json.dumps({"step": step, "tokens": 10 * step, "tokens_per_s": 50, "fvu": 1 / step}) + "\n"


@pytest.fixture
def run(tmp_path):
    """A run that is under way."""
    path = tmp_path / "runs" / "first"
    path.mkdir(parents=True)
    (path / "training.toml").write_text(SETTINGS)
    (path / "metrics.jsonl").write_text(row(1) + row(2))
    other = tmp_path / "runs" / "second"
    other.mkdir()
    (other / "training.toml").write_text(SETTINGS.replace("1000", "2000"))
    (other / "metrics.jsonl").write_text(row(1))
    return path


@pytest.fixture
def client(run, tmp_path):
    with serving([tmp_path / "runs"], db=str(tmp_path / "workspace.db")) as client:
        yield client


def test_a_run_with_its_curves_and_settings(client):
    assert {card["id"] for card in client.get("/runs").json()["runs"]} == {"first", "second"}
    found = client.get("/runs/first").raise_for_status().json()
    assert found["card"]["state"] == "running"
    assert found["config"]["training"] == {"tokens": 1000}
    (log,) = found["logs"]
    assert (log["name"], log["n_rows"]) == ("", 2)
    assert log["curves"]["fvu"] == {"step": [1, 2], "value": [1.0, 0.5]}
    assert found["seconds_left"] == pytest.approx((1000 - 20) / 50)
    assert found["checkpoints"] == []


def test_two_runs_differ_in_a_setting(client):
    found = client.get("/runs/diff", params={"a": "first", "b": "second"}).json()
    assert found["differences"] == [{"key": "training.tokens", "a": 1000, "b": 2000}]
    assert found["n_same"] == 2


def test_a_log_is_followed_until_the_run_ends(client, run):
    end = client.get("/runs/first").json()["logs"][0]["end"]
    found = []
    seen = threading.Event()

    def follow() -> None:
        with client.stream("GET", "/runs/first/events", params={"after": end}) as response:
            for event in events(response):
                found.append(event)
                seen.set()

    thread = threading.Thread(target=follow)
    thread.start()
    with (run / "metrics.jsonl").open("a") as file:
        file.write(row(3))
    assert seen.wait(20)
    for name in ("config.toml", "weights.safetensors"):
        (run / name).write_text("")
    thread.join(20)
    assert [name for name, _, _ in found] == ["rows", "end"]
    assert found[0][1]["rows"] == [{"step": 3, "tokens": 30, "tokens_per_s": 50, "fvu": pytest.approx(1 / 3)}]
    assert found[0][2] == (run / "metrics.jsonl").stat().st_size
    assert found[1][1]["card"]["state"] == "finished"


def test_a_broken_connection_goes_on_where_it_was(client, run):
    for name in ("config.toml", "weights.safetensors"):
        (run / name).write_text("")
    middle = len(row(1))
    with client.stream("GET", "/runs/first/events", headers={"Last-Event-ID": str(middle)}) as response:
        rows = [data["rows"] for name, data, _ in events(response) if name == "rows"]
    assert [[item["step"] for item in some] for some in rows] == [[2]]
    with client.stream("GET", "/runs/first/events", headers={"Last-Event-ID": str(middle + 3)}) as response:
        names = [name for name, _, _ in events(response)]
    assert names == ["reset", "rows", "end"], "that is no place in this log"


@pytest.mark.parametrize(
    "address", ["/runs/none", "/runs/none/events", "/runs/first/events?log=x", "/runs/diff?a=first&b=no"]
)
def test_what_does_not_exist(client, address):
    answer = client.get(address)
    assert answer.status_code == 404, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
