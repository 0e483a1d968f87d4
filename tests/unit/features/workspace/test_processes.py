"""Two servers on one workspace, each a process of its own, write at the same time: nothing is lost or done twice."""

from __future__ import annotations

import multiprocessing
import multiprocessing.synchronize
import pickle
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import pytest

from monoscope.features.workspace import BusyError, ConflictError, LostError, MissingError, Workspace
from monoscope.features.workspace.job_records import JobDraft
from monoscope.features.workspace.records import ExplanationDraft, FeatureRef, ListDraft, ScoreDraft

Together = Callable[..., list[Any]]
FP = "ab" * 32
EACH, JOBS = 20, 12


@pytest.fixture(scope="module")
def together() -> Iterator[Together]:
    """Starts the same work in two processes at the same moment, and returns what they return."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, spawn, _begin, (spawn.Barrier(2),)) as pool:

        def run(url: str, *arguments: Any) -> list[Any]:
            return [future.result(120) for future in [pool.submit(_run, i, url, *arguments) for i in range(2)]]

        yield run


def _begin(barrier: multiprocessing.synchronize.Barrier) -> None:
    global _barrier
    _barrier = barrier


def _run(number: int, url: str, work: Callable[..., Any], *arguments: Any) -> Any:
    _barrier.wait(60)
    with Workspace.open(url, author=f"server {number}") as workspace:
        return work(workspace, number, *arguments)


def open_only(workspace: Workspace, number: int) -> str:
    return workspace.install_id


def write(workspace: Workspace, number: int, counter: str, list_id: str, explanation_id: str) -> dict[str, Any]:
    refused = 0
    for i in range(EACH):
        workspace.labels.write(FP, i, f"{number}: {i}")
        workspace.items.add(list_id, [FeatureRef(dictionary_fp=FP, feature=1000 * number + i)])
        workspace.feature_tags.mark(FP, i, "shared")
        if i % 5 == 0:
            score = ScoreDraft(explanation_id=explanation_id, scorer=f"{number}, {i}", value=float(i))
            workspace.scores.create(score)
        while True:
            standing = workspace.lists.get(counter)
            try:
                workspace.lists.update(counter, etag=standing.etag, name=str(int(standing.name) + 1))
                break
            except ConflictError:
                refused += 1
    return {"refused": refused}


def shuffle(workspace: Workspace, number: int, moved: str, others: list[str]) -> None:
    for i in range(EACH):
        workspace.items.move(moved, others[(i + number) % len(others)])


def do_jobs(workspace: Workspace, number: int) -> list[str]:
    done = []
    while (job := workspace.jobs.claim()) is not None:
        for step in range(3):
            workspace.jobs.log(job, "info", {"step": step, "by": number})
        workspace.jobs.finish(job, result={"by": number})
        done.append(job.id)
    return done


def test_a_new_workspace_is_made_once(workspace_url: str, together: Together) -> None:
    first, second = together(workspace_url, open_only)
    assert first == second


def test_two_servers_lose_nothing(workspace_url: str, together: Together) -> None:
    with Workspace.open(workspace_url) as workspace:
        counter = workspace.lists.create(ListDraft(name="0")).id
        list_id = workspace.lists.create(ListDraft(name="features")).id
        draft = ExplanationDraft(dictionary_fp=FP, feature=9999, text="x", method="m")
        explanation = workspace.explanations.create(draft).id
        together(workspace_url, write, counter, list_id, explanation)

        assert workspace.lists.get(counter).name == str(2 * EACH)
        labels = Counter((row.author, row.text) for i in range(EACH) for row in workspace.labels.of(FP, i))
        expected = {(f"server {n}", f"{n}: {i}") for n in range(2) for i in range(EACH)}
        assert labels == Counter(expected)
        items = workspace.items.of(list_id)
        assert sorted(item.feature for item in items) == [*range(EACH), *range(1000, 1000 + EACH)]
        assert len({item.position for item in items}) == 2 * EACH
        assert workspace.feature_tags.all(FP) == {i: ("shared",) for i in range(EACH)}
        assert len(workspace.tags.page()) == 1
        assert len(workspace.scores.of(explanation)) == 8
        assert workspace.explanations.get(explanation).score == 7.5
        # 40 labels, an explanation and 8 scores: each change has its own serial
        assert workspace.labels.serial(FP) == 2 * EACH + 1 + 8
        assert len(workspace.audit(f"lists/{counter}", limit=1000)) == 2 * EACH


def test_two_servers_move_one_item(workspace_url: str, together: Together) -> None:
    with Workspace.open(workspace_url) as workspace:
        made = workspace.lists.create(ListDraft(name="features")).id
        refs = [FeatureRef(dictionary_fp=FP, feature=i) for i in range(4)]
        moved, *others = [item.id for item in workspace.items.add(made, refs)]
        together(workspace_url, shuffle, moved, others)
        assert workspace.items.get(moved).version == 1 + 2 * EACH


def test_two_workers_do_each_job_once(workspace_url: str, together: Together) -> None:
    with Workspace.open(workspace_url) as workspace:
        queued = [workspace.jobs.enqueue(JobDraft(kind="x")).id for _ in range(JOBS)]
        first, second = together(workspace_url, do_jobs)
        assert sorted(first + second) == sorted(queued)
        for id in queued:
            job, events = workspace.jobs.get(id), workspace.jobs.events(id)
            assert (job.state, job.attempt) == ("done", 1)
            assert [event.seq for event in events] == list(range(1, 7))
            assert {event.body["by"] for event in events[2:5]} == {job.result["by"]}


def test_errors_travel_between_processes() -> None:
    for error in (BusyError("x"), ConflictError("x", None), LostError("x"), MissingError("x")):
        assert str(pickle.loads(pickle.dumps(error))) == "x"
