from __future__ import annotations

import asyncio
import os
import signal
import time
from contextlib import aclosing

import numpy as np
import pytest
from live_world import MODEL

from monoscope.server.worker import client as ends
from monoscope.server.worker.client import Worker
from monoscope.server.worker.errors import Refused, Stopped, TooBusy, TooLate, WorkerError
from monoscope.server.worker.protocol import HEADER, MOST_HEAD, Told, arrays_of, lengths, packed

pytestmark = pytest.mark.slow  # a server and its worker process are started


@pytest.fixture(scope="module")
def target(shelf_path):
    path = shelf_path / "topk"
    return {
        "name": "topk",
        "path": str(path / "dictionary"),
        "model": str(MODEL),
        "model_name": "bundled",
        "bundle": str(path / "features.mono"),
    }


def text(content: str) -> dict:
    return {"text": content, "messages": None, "most_tokens": 1000}


def steering(target, n: int) -> dict:
    edit = {"name": "topk", "feature": 1, "op": "add", "strength": 0.1, "unit": "local"}
    return {
        "id": "x",
        "targets": {"topk": target},
        "prompt": text("import os"),
        "edits": [edit | {"where": {"prompt": "all", "generation": "all"}}],
        "max_tokens": n,
        "temperature": 0.0,
        "top_k": None,
        "seed": 0,
        "guard": False,
    }


def one(target, content: str = "for i in x:") -> dict:
    return {"target": target, "prompt": text(content), "feature": 3}


def with_worker(body) -> None:
    """Run a test with a worker of its own, which ends with it."""

    async def run() -> None:
        worker = Worker(memory=4e9, device="cpu")
        try:
            async with asyncio.timeout(120):
                await body(worker)
        finally:
            await worker.close()

    asyncio.run(run())


def test_a_killed_worker_is_told_of_and_started_again(target, monkeypatch):
    monkeypatch.setattr(ends, "BACK_OFF", 0.05)

    async def body(worker: Worker) -> None:
        assert worker.state.phase == "cold"
        await worker.ask("activate one feature", one(target))
        first = worker.pid
        assert first is not None
        with pytest.raises(Stopped, match=r"the worker stopped \(signal 9, Killed.*while this ran: steer; it is being"):
            async with aclosing(worker.stream("steer", steering(target, 200))) as messages:
                async for message in messages:
                    if message.name == "steered.token":
                        os.kill(first, signal.SIGKILL)
        assert worker.state.phase in ("crashed", "loading")
        answer = await worker.ask("activate one feature", one(target))
        assert len(answer.body["acts"]) == len(answer.body["tokens"])
        assert worker.pid not in (None, first)
        assert worker.state.restarts == 1
        # and while nobody asks for anything
        os.kill(worker.pid or 0, signal.SIGKILL)
        while worker.state.restarts == 1:
            await asyncio.sleep(0.01)
        assert (await worker.ask("activate one feature", one(target))).body["acts"] == answer.body["acts"]
        assert worker.state.restarts == 2

    with_worker(body)


def test_the_life_of_a_worker(target):
    """Cancellation, deadlines, what two ask at once, and errors, with one process for all."""

    async def body(worker: Worker) -> None:
        phases = []

        async def watch() -> None:
            async for status in worker.state.changes():
                phases.append(status.state)

        watching = asyncio.create_task(watch())
        # two who ask for the same share the answer; others are served in turn
        same = [worker.ask("activate one feature", one(target)) for _ in range(3)]
        other = worker.ask("activate one feature", one(target, "while True:"))
        *answers, different = await asyncio.gather(*same, other)
        assert answers[0] is answers[1] is answers[2]
        assert different.body["tokens"] != answers[0].body["tokens"]
        # whoever leaves stops the generation, and the next is served at once
        async with aclosing(worker.stream("steer", steering(target, 240))) as messages:
            async for message in messages:
                if message.name == "steered.token":
                    break
        began = time.monotonic()
        await worker.ask("activate one feature", one(target, "a = 1"))
        assert time.monotonic() - began < 1.0, "a whole generation takes longer"
        # one of two who share an answer may leave
        leaving = asyncio.create_task(worker.ask("activate one feature", one(target, "b = 2")))
        staying = asyncio.create_task(worker.ask("activate one feature", one(target, "b = 2")))
        await asyncio.sleep(0)
        leaving.cancel()
        assert (await staying).body["acts"]
        # deadlines
        with pytest.raises(TooLate, match=r"not done within 0.05 s"):
            async with aclosing(worker.stream("steer", steering(target, 240), seconds=0.05)) as messages:
                async for _ in messages:
                    pass
        # errors end one task alone
        with pytest.raises(Refused, match="no feature 600"):
            await worker.ask("activate one feature", one(target) | {"feature": 600})
        with pytest.raises(WorkerError, match="KeyError while nonsense"):
            await worker.ask("nonsense", {})
        with pytest.raises(WorkerError, match="there is no dictionary at"):
            await worker.ask("activate one feature", one(target | {"path": "/nowhere"}))
        assert (await worker.ask("activate one feature", one(target))).body["acts"] == answers[0].body["acts"]
        status = worker.state.status()
        assert {model.kind for model in status.models} == {"model", "dictionary"}
        watching.cancel()
        assert phases[0] == "cold"
        assert {"loading", "ready", "busy"} <= set(phases)
        assert status.restarts == 0

    with_worker(body)


def test_a_background_task_lets_others_pass(target, shelf_path):
    async def body(worker: Worker) -> None:
        roots = [str(shelf_path)]
        evaluate = {"target": target, "tokens": 50_000, "roots": roots}
        told = []

        async def long() -> None:
            async with aclosing(worker.stream("evaluate", evaluate, background=True)) as messages:
                async for message in messages:
                    told.append(message)

        await worker.ask("activate one feature", one(target))
        running = asyncio.create_task(long())
        while not any(message.name == "progress" and message.body["done"] for message in told):
            assert not running.done()
            await asyncio.sleep(0.01)
        waits = []
        for n in range(5):
            began = time.monotonic()
            await worker.ask("activate one feature", one(target, f"x = {n}"))
            waits.append(time.monotonic() - began)
        assert not running.done(), "the others were served while it ran"
        assert sorted(waits)[2] < 5.0
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    with_worker(body)


def test_too_many_are_turned_away(target, monkeypatch):
    monkeypatch.setattr(ends, "MOST_WAITING", 1)

    async def body(worker: Worker) -> None:
        first = asyncio.create_task(worker.ask("activate one feature", one(target)))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        with pytest.raises(TooBusy, match="1 tasks wait already"):
            await worker.ask("activate one feature", one(target, "y"))
        await first

    with_worker(body)


def test_a_worker_that_cannot_start_says_so(monkeypatch):
    monkeypatch.setattr(ends.sys, "executable", "/bin/false")
    monkeypatch.setattr(ends, "BACK_OFF", 0.01)

    async def body(worker: Worker) -> None:
        for _ in range(2):
            with pytest.raises(Stopped, match="exit code 1"):
                await worker.ask("warm", {"targets": []}, seconds=20)
        await asyncio.sleep(0.2)
        assert worker.state.restarts == 0, "nobody waits for it"

    with_worker(body)


def test_arrays_cross_the_wire_as_they_are():
    arrays = {"a": np.arange(6, dtype=np.int32).reshape(2, 3), "b": np.array([1.5], np.float32), "c": np.zeros((0, 2))}
    frame = packed(Told(kind="done", id=1, body={"x": 1}), arrays)
    head, size = lengths(frame[: HEADER.size])
    told = Told.model_validate_json(frame[HEADER.size : HEADER.size + head])
    payload = frame[HEADER.size + head :]
    assert len(payload) == size
    found = arrays_of(told, payload)
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype
    with pytest.raises(ValueError, match="a payload of"):
        arrays_of(told, payload + b"x")
    with pytest.raises(ValueError, match="is no frame"):
        lengths(HEADER.pack(MOST_HEAD + 1, 0))
