"""A job's log keeps so many lines of so many characters, however much a worker says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path
from typing import Any

from monoscope.features.workspace import Workspace
from monoscope.features.workspace.job_records import JobDraft
from monoscope.server.jobs.runner import MOST_CHARACTERS, MOST_LINES, Handler, Runner
from monoscope.server.worker.client import Message, Worker


class Talker(Worker):
    """Says more than anybody reads, and is done."""

    async def stream(
        self, task: str, body: Mapping[str, Any], *, seconds: float | None = None, background: bool = False
    ) -> AsyncGenerator[Message]:
        yield Message("event", "log", {"level": "critical", "text": "x" * (MOST_CHARACTERS + 1)}, {})
        for n in range(MOST_LINES + 20):
            yield Message("event", "log", {"level": "warning", "text": f"line {n}"}, {})
        yield Message("done", "", {"made": 1}, {})


def test_a_log_ends_where_it_grows_too_long(tmp_path: Path) -> None:
    queue = Workspace.open(str(tmp_path / "workspace.db"), author="ada").jobs
    job = queue.enqueue(JobDraft(kind="talk"))
    handler = Handler(lambda config: config, lambda job, message: message.body)

    async def run() -> None:
        runner = Runner(lambda: queue, Talker(memory=1e9), {"talk": handler})
        runner.start()
        while queue.get(job.id).state != "done":
            await asyncio.sleep(0.01)
        await runner.close()

    asyncio.run(run())
    said = [event for event in queue.events(job.id, progress=False) if event.level != "state"]
    assert len(said) == MOST_LINES + 1
    assert said[0].level == "info"
    assert said[0].body["text"] == "x" * MOST_CHARACTERS + "…"
    assert said[1].body["text"] == "line 0"
    assert "further ones are left out" in said[-1].body["text"]
