"""Runs that are killed, resumed to their end, and compared with one to which nothing happened."""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from fault_processes import Process, die_at, start
from fault_verbs import Verb, broken, content, steps_lost

MOST_KILLS = 3  # of one run
LAST = ("harvest.toml", "analyze.toml", "progress.json")  # written, or removed, once the output is complete


class Attempt:
    """One run of a verb that is killed now and then, and what was found."""

    def __init__(self, verb: Verb, work: Path, name: str) -> None:
        self.verb, self.work = verb, work
        self.out = work / (f"{name}.mono" if verb.name == "analyze" else name)
        self.kills = 0
        self.broken: list[str] = []
        self.lost: list[int] = []

    def start(self, prepare: Callable[[], None] = lambda: None) -> Process:
        """Begin, or go on."""

        def both() -> None:
            self.verb.prepare()
            prepare()

        return start(self.work, self.verb.args(self.out), both)

    @property
    def is_there(self) -> bool:
        """Whether the output of a verb that makes it at once is complete."""
        return not self.verb.resumes and self.out.exists()

    def after_kill(self, process: Process) -> bool:
        """Look at what a killed process left; whether it was killed, and had not ended by itself."""
        if process.wait() != -signal.SIGKILL:
            return False
        self.kills += 1
        self.broken += broken(self.out)
        if self.verb.resumes and (lost := steps_lost(self.out)) is not None:
            self.lost.append(lost)
        return True

    def finish(self, expected: dict[str, str]) -> dict[str, Any]:
        """Go on to the end, and compare."""
        partial: list[str] = []
        if not self.is_there:
            process = self.start()
            if (code := process.wait()) != 0:
                return self._result(exact=False, why=f"exit code {code}: {process.said[-300:]}")
            partial = [path.name for path in self.work.rglob("*.partial") if path.name.startswith((".", self.out.name))]
        found = content(self.out)
        for name in LAST:
            found.pop(name, None)
        different = sorted(name for name in {*found, *expected} if found.get(name) != expected.get(name))
        why = "; ".join([*(f"differs: {name}" for name in different), *(f"left behind: {name}" for name in partial)])
        return self._result(exact=not why, why=why)

    def _result(self, *, exact: bool, why: str) -> dict[str, Any]:
        for path in (self.out, self.out.with_name(f"{self.out.name}.partial")):
            shutil.rmtree(path, ignore_errors=True)
        for path in self.work.glob("said-*.txt"):
            path.unlink()
        return {"kills": self.kills, "exact": exact, "why": why, "broken": self.broken, "lost": self.lost}


@cache
def undisturbed(verb: Verb, work: Path) -> tuple[dict[str, str], float, int]:
    """What a run yields to which nothing happens; its seconds; how many calls in it change which files there are."""
    attempt, counted = Attempt(verb, work, "whole"), work / "calls.txt"
    process = attempt.start(die_at(0, counted))
    if process.wait() != 0:
        raise RuntimeError(process.said)
    seconds = time.monotonic() - process.started
    expected = content(attempt.out)
    for name in LAST:
        expected.pop(name, None)
    attempt._result(exact=True, why="")
    return expected, seconds, int(counted.read_text())


def kills(verb: Verb, work: Path, runs: int, rng: np.random.Generator, until: float) -> dict[str, Any]:
    """Runs that are killed at random moments, each at least once; none is begun after ``until``."""
    expected, seconds, _ = undisturbed(verb, work)
    results = []
    while len(results) < runs and (not results or time.monotonic() < until):
        attempt = Attempt(verb, work, f"run{len(results)}")
        wanted = int(rng.integers(1, MOST_KILLS + 1))
        while attempt.kills < wanted and not attempt.is_there:
            process = attempt.start()
            process.send(signal.SIGKILL, after=float(rng.uniform(0, seconds)))
            if not attempt.after_kill(process):
                break
        result = attempt.finish(expected)
        if result["kills"]:
            results.append(result)
    return summary(results) | {"seconds_undisturbed": round(seconds, 2)}


def points(verb: Verb, work: Path, numbers: range, rng: np.random.Generator, until: float) -> dict[str, Any]:
    """Runs that die right before one of the calls that change files, each at another; none begins after ``until``.

    numbers: which of all calls, in an order drawn by chance
    """
    expected, _, calls = undisturbed(verb, work)
    results = []
    for number in rng.permutation(calls)[numbers.start : numbers.stop] + 1:
        if results and time.monotonic() > until:
            break
        attempt = Attempt(verb, work, f"point{number}")
        attempt.after_kill(attempt.start(die_at(int(number))))
        results.append(attempt.finish(expected))
    return summary(results) | {"calls": calls}


def summary(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Counts over runs, and what went wrong."""
    lost = [steps for result in results for steps in result["lost"]]
    return {
        "runs": len(results),
        "kills": sum(result["kills"] for result in results),
        "exact": sum(result["exact"] for result in results),
        "broken_files": sum(len(result["broken"]) for result in results),
        **({"intervals_lost_at_most": max(lost)} if lost else {}),
        "failures": [result for result in results if not result["exact"] or result["broken"]],
    }
