"""The result of a comparison, as routes give it: its numbers, and pages of features."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from monoscope.server.jobs.service import Jobs
from monoscope.server.problems import ProblemError
from monoscope.server.wire.compare import CompareMetrics, ComparePair, CompareRow, CompareRows, Comparison, RowKind

if TYPE_CHECKING:
    from monoscope.features.workspace.job_records import Job

Labels = Callable[[str, Sequence[int]], Mapping[int, str]]


def comparison(jobs: Jobs, id: str) -> Comparison:
    """The numbers of a comparison. Raises ProblemError for a job that is none, or is not done."""
    job, result = _done(jobs, id)
    nearest = result["nearest"]
    return Comparison(
        job=id,
        by=job.config["by"],
        threshold=job.config["threshold"],
        n_tokens=result["n_tokens"],
        metrics=[CompareMetrics.model_validate(row | {"nearest": nearest[row["id"]]}) for row in result["metrics"]],
        pairs=[ComparePair.model_validate(row) for row in result["pairs"]],
    )


def rows_of(jobs: Jobs, id: str, pair: int, kind: RowKind, offset: int, limit: int, labels: Labels) -> CompareRows:
    """A page of features of one pair of dictionaries."""
    _, result = _done(jobs, id)
    if pair >= len(result["pairs"]):
        raise ProblemError(422, f"no pair {pair}", found=pair, expected=f"0 to {len(result['pairs']) - 1}")
    name = f"{pair}.{kind}"
    arrays = jobs.tables.load(id, name, f"{name}.cosine", f"{name}.correlation")
    edges = arrays[name]
    firsts = _families(edges, kind)
    page = range(offset, min(offset + limit, len(firsts) - 1))
    about = result["pairs"][pair]
    rows = [_row(arrays, name, kind, int(firsts[i]), int(firsts[i + 1])) for i in page]
    known = {side: dict(labels(about[side], sorted({f for row in rows for f in row[side]}))) for side in ("a", "b")}
    return CompareRows(
        total=len(firsts) - 1,
        offset=offset,
        rows=[
            CompareRow(
                **row,
                labels_a=[known["a"].get(feature) for feature in row["a"]],
                labels_b=[known["b"].get(feature) for feature in row["b"]],
            )
            for row in rows
        ],
    )


def _families(edges: np.ndarray, kind: RowKind) -> np.ndarray:
    """Where each row of the page begins among the pairs, and where the last one ends."""
    n = edges.shape[1]
    if kind not in ("splits", "merges"):
        return np.arange(n + 1)
    parents = edges[0 if kind == "splits" else 1]
    return np.concatenate([[0], np.flatnonzero(np.diff(parents)) + 1, [n]]) if n else np.zeros(1, np.int64)


def _row(arrays: dict[str, np.ndarray], name: str, kind: RowKind, start: int, stop: int) -> dict[str, Any]:
    a, b = (side[start:stop].tolist() for side in arrays[name])
    measured = {key: arrays.get(f"{name}.{key}") for key in ("cosine", "correlation")}
    row: dict[str, Any] = {
        key: [None] * (stop - start) if values is None else [round(float(value), 5) for value in values[start:stop]]
        for key, values in measured.items()
    }
    return row | {"a": a[:1] if kind == "splits" else a, "b": b[:1] if kind == "merges" else b}


def _done(jobs: Jobs, id: str) -> tuple[Job, dict[str, Any]]:
    job = jobs.queue.get(id)
    if job.kind != "compare":
        raise ProblemError(404, f"job {id} is no comparison", found=job.kind)
    if job.state != "done" or job.result is None:
        raise ProblemError(
            409, f"the comparison is {job.state}", hint=job.error or f"its progress is at jobs/{id}/events"
        )
    return job, job.result
