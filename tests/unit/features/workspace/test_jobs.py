"""The queue: each job is done once, by one worker, and tells what happens in order."""

from __future__ import annotations

from datetime import timedelta

import pytest

from monoscope.core.errors import DataError
from monoscope.features.workspace import LostError, MissingError, Workspace
from monoscope.features.workspace.job_records import JobDraft

AT_ONCE = timedelta(0)


def states(workspace: Workspace, id: str) -> list[str]:
    return [event.body["state"] for event in workspace.jobs.events(id) if event.level == "state"]


def test_jobs_are_claimed_in_order_and_once(workspace: Workspace) -> None:
    first, second = (workspace.jobs.enqueue(JobDraft(kind="compare", config={"n": i})) for i in range(2))
    assert workspace.jobs.claim(["analyze"]) is None
    one, two = workspace.jobs.claim(["compare", "analyze"]), workspace.jobs.claim()
    assert one is not None
    assert two is not None
    assert (one.id, two.id, workspace.jobs.claim()) == (first.id, second.id, None)
    assert (one.state, one.config, one.attempt, one.author) == ("running", {"n": 0}, 1, "local")
    assert one.claim != two.claim
    assert [job.id for job in workspace.jobs.page(state="running")] == [second.id, first.id]
    assert workspace.jobs.page(kind="analyze") == []


def test_a_job_reports_and_ends(workspace: Workspace) -> None:
    workspace.jobs.enqueue(JobDraft(kind="compare"))
    job = workspace.jobs.claim()
    assert job is not None
    assert workspace.jobs.beat(job, {"done": 3, "total": 10}) is False
    assert workspace.jobs.log(job, "info", {"message": "half-way"}) == 3
    assert workspace.jobs.get(job.id).progress == {"done": 3, "total": 10}
    ended = workspace.jobs.finish(job, result={"path": "x"})
    assert (ended.state, ended.result, ended.error) == ("done", {"path": "x"}, None)
    assert ended.finished is not None
    assert [(event.seq, event.level) for event in workspace.jobs.events(job.id)] == [
        (1, "state"), (2, "state"), (3, "info"), (4, "state"),
    ]  # fmt: skip
    assert [event.seq for event in workspace.jobs.events(job.id, after=2)] == [3, 4]
    assert [event.seq for event in workspace.jobs.events(job.id, after=2, limit=1)] == [3]
    with pytest.raises(LostError, match="has ended"):
        workspace.jobs.beat(job)
    with pytest.raises(DataError, match="ends as one of cancelled, done, failed"):
        workspace.jobs.finish(job, "queued")
    assert workspace.jobs.cancel(job.id).state == "done"
    workspace.jobs.delete(job.id)
    with pytest.raises(MissingError):
        workspace.jobs.get(job.id)


def test_cancel_takes_a_job_from_the_queue_and_asks_a_running_one_to_stop(workspace: Workspace) -> None:
    waiting = workspace.jobs.enqueue(JobDraft(kind="x"))
    assert workspace.jobs.cancel(waiting.id).state == "cancelled"
    assert workspace.jobs.claim() is None
    workspace.jobs.enqueue(JobDraft(kind="x"))
    job = workspace.jobs.claim()
    assert job is not None
    with pytest.raises(DataError, match="cancel it first"):
        workspace.jobs.delete(job.id)
    assert workspace.jobs.cancel(job.id).cancelling
    assert workspace.jobs.beat(job) is True
    ended = workspace.jobs.finish(job, "cancelled")
    assert (ended.state, ended.cancelling) == ("cancelled", False)


def test_a_silent_worker_loses_its_job_and_cannot_write_any_more(workspace: Workspace) -> None:
    queued = workspace.jobs.enqueue(JobDraft(kind="x"))
    lost = workspace.jobs.claim()
    assert lost is not None
    assert workspace.jobs.recover() == []
    assert [job.id for job in workspace.jobs.recover(AT_ONCE)] == [queued.id]
    for call in (workspace.jobs.beat, workspace.jobs.finish, workspace.jobs.give_back):
        with pytest.raises(LostError):
            call(lost)
    with pytest.raises(LostError):
        workspace.jobs.log(lost, "info", {})
    again = workspace.jobs.claim()
    assert again is not None
    assert (again.id, again.attempt) == (queued.id, 2)
    with pytest.raises(LostError):
        workspace.jobs.finish(lost, error="late")
    assert workspace.jobs.finish(again).state == "done"
    assert states(workspace, queued.id) == ["queued", "running", "queued", "running", "done"]


def test_a_job_that_kills_three_workers_has_failed(workspace: Workspace) -> None:
    queued = workspace.jobs.enqueue(JobDraft(kind="x"))
    for state in ("queued", "queued", "failed"):
        assert workspace.jobs.claim() is not None
        (job,) = workspace.jobs.recover(AT_ONCE)
        assert job.state == state
    assert "3 times" in str(workspace.jobs.get(queued.id).error)
    workspace.jobs.enqueue(JobDraft(kind="y"))
    job = workspace.jobs.claim()
    assert job is not None
    workspace.jobs.cancel(job.id)
    assert [job.state for job in workspace.jobs.recover(AT_ONCE)] == ["cancelled"]


def test_a_worker_that_stops_in_order_gives_its_job_back(workspace: Workspace) -> None:
    workspace.jobs.enqueue(JobDraft(kind="x"))
    job = workspace.jobs.claim()
    assert job is not None
    workspace.jobs.give_back(job)
    again = workspace.jobs.claim()
    assert again is not None
    assert (again.id, again.attempt) == (job.id, 1)
