"""Every method on every world whose truth is known, at the same L0 and on the same seeds.

    python benchmarks/bench_worlds.py [--worlds W1 W3] [--out benchmarks/results/bench_worlds.json] [--page docs/...]

Methods are rows of ``monoscope.evals.worlds.methods``. Results are written world by world, so a bench that was
stopped goes on where it was. ``--keep`` starts from the results of the last whole run and measures only rows whose
settings have changed since, such as those of a new method. Processes of one thread each share the worlds.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import signal
import textwrap
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from queue import Empty
from typing import Any

from worlds_page import page

from monoscope.core.io import write_text
from monoscope.core.progress import progress
from monoscope.evals.worlds import WORLDS
from monoscope.evals.worlds.compare import LIMITS, SEEDS, Budget, bounds, compare, l0_calibration
from monoscope.evals.worlds.methods import METHODS, Method

ROOT = Path(__file__).parents[1]
ROW_DEPTH = 4  # rows, world, kind, label
GRID = (0.5, 0.8, 1.0, 1.25, 2.0)  # of the true L0, for its calibration
CALIBRATED, CALIBRATED_ON = ("TopK", "BatchTopK", "JumpReLU, target L0"), "W1"

_told: Any = None  # the queue that a worker tells of its progress


def _start(queue: Any) -> None:
    global _told
    import torch

    torch.set_num_threads(1)
    _told = queue


def _work(kind: str, world: str, labels: list[str], budget: Budget) -> tuple[float, dict[str, Any]]:
    """Measure rows of one world, in a process of its own; also how long its processor took."""
    began = time.process_time()
    methods = {label: METHODS[label] for label in labels if label in METHODS}
    if kind == "bounds":
        found = {label: row.to_dict() for label, row in bounds(world, budget=budget).items()}
    elif kind == "methods":
        rows = compare(world, methods, budget=budget, done=_told.put)
        found = {label: row.to_dict() for label, row in rows.items()}
    else:
        found = _calibrate(world, methods, budget)
    return time.process_time() - began, found


def _calibrate(world: str, methods: Mapping[str, Method], budget: Budget) -> dict[str, Any]:
    """F1 over a grid of L0 on one seed, and where it peaks."""
    true_l0 = float(WORLDS[world].build(0).probabilities().sum())
    curves: dict[str, list[Any]] = {label: [] for label in methods}
    for share in GRID:
        rows = compare(world, methods, seeds=SEEDS[:1], budget=budget, l0=share * true_l0, done=_told.put)
        for label, row in rows.items():
            curves[label].append(row.scores[0])
    return {
        label: {
            "l0_over_true": [s["l0_over_true"] for s in curve],
            "f1": [s["f1"] for s in curve],
            "peak": l0_calibration(curve),
        }
        for label, curve in curves.items()
    }


def fingerprint(kind: str, world: str, label: str, budget: Budget) -> str:
    """Of everything that decides a row but the code itself."""
    method = METHODS.get(label)
    said = {
        "kind": kind,
        "world": WORLDS[world].build(0).to_dict(),
        "l0": WORLDS[world].l0,
        "recipes": None if method is None else method.recipes(world, WORLDS[world]),
        "training": None if method is None else budget.training(method, 0).to_dict(),
        "held_out": budget.held_out,
        "seeds": SEEDS,
    }
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]


def tasks(worlds: list[str]) -> list[tuple[str, str, list[str]]]:
    """Kind, world and rows of everything there is to measure, longest first."""
    found = [("methods", name, [label for label, m in METHODS.items() if m.applies(name)]) for name in worlds]
    found.sort(key=lambda task: -len(task[2]) * WORLDS[task[1]].n_features)
    if CALIBRATED_ON in worlds:
        found.append(("calibration", CALIBRATED_ON, list(CALIBRATED)))
    return found + [("bounds", name, list(LIMITS)) for name in worlds]


def n_dictionaries(kind: str, world: str, labels: list[str]) -> int:
    """Dictionaries that a task trains."""
    if kind == "bounds":
        return 0
    times = len(SEEDS) if kind == "methods" else len(GRID)
    return times * sum(len(METHODS[label].recipes(world, WORLDS[world])) for label in labels)


def measure(results: dict[str, Any], out: Path, worlds: list[str], budget: Budget, processes: int) -> None:
    """Fill in what is missing, writing the results after every task."""
    rows = results.setdefault("rows", {})
    todo = []
    for kind, world, labels in tasks(worlds):
        known = rows.setdefault(world, {}).setdefault(kind, {})
        prints = {label: fingerprint(kind, world, label, budget) for label in labels}
        missing = [label for label in labels if known.get(label, {}).get("fingerprint") != prints[label]]
        if missing:
            todo.append((kind, world, missing, prints))
    total = sum(n_dictionaries(kind, world, labels) for kind, world, labels, _ in todo)
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    with (
        progress("worlds", total, "dictionaries") as bar,
        context.Pool(processes, _start, (queue,)) as pool,  # leaving the block, however, ends the processes
    ):
        waiting = {i: pool.apply_async(_work, (*task[:3], budget)) for i, task in enumerate(todo)}
        while waiting:
            with suppress(Empty):
                bar.advance(queue.get(timeout=2))
            for i in [i for i, task in waiting.items() if task.ready()]:
                kind, world, _, prints = todo[i]
                seconds, found = waiting.pop(i).get()
                for label, row in found.items():
                    rows[world][kind][label] = row | {"fingerprint": prints[label]}
                results["cpu_seconds"][f"{world} {kind}"] = round(seconds)
                write_text(out, lines_of(results, ROW_DEPTH) + "\n")


def lines_of(value: Any, depth: int) -> str:
    """JSON whose tables lie open down to a depth and fill one line each below it."""
    if not depth or not isinstance(value, dict) or not value:
        return json.dumps(value)
    entries = ",\n".join(f"{json.dumps(key)}: {lines_of(inner, depth - 1)}" for key, inner in value.items())
    return "{\n" + textwrap.indent(entries, " ") + "\n}"


def main() -> None:
    """Measure what is missing and render the page."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the processes end with this one
    parser = argparse.ArgumentParser()
    parser.add_argument("--worlds", nargs="+", choices=list(WORLDS), default=list(WORLDS))
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/bench_worlds.json")
    parser.add_argument("--page", type=Path, default=ROOT / "docs/reference/worlds.md")
    parser.add_argument("--tokens", type=int, help="of training, for each dictionary")
    parser.add_argument("--processes", type=int, default=2, help="worlds measured at a time, one thread each")
    parser.add_argument("--keep", action="store_true", help="measure only rows that are new since the last whole run")
    args = parser.parse_args()
    budget = Budget() if args.tokens is None else replace(Budget(), tokens=args.tokens)
    partial, results = args.out.with_suffix(".partial.json"), {"cpu_seconds": {}}
    known = partial if partial.exists() else args.out if args.keep else None
    if known is not None:
        print(f"going on from {known}")
        results = json.loads(known.read_text())
    results |= {"budget": asdict(budget), "seeds": SEEDS, "cores": os.cpu_count()}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    measure(results, partial, args.worlds, budget, args.processes)
    write_text(args.out, lines_of(results, ROW_DEPTH) + "\n")
    partial.unlink(missing_ok=True)
    write_text(args.page, page(results))
    print(f"wrote {args.out} and {args.page}")


if __name__ == "__main__":
    main()
