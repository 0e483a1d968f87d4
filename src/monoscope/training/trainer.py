"""The loop. Trains any number of dictionaries in one pass over the activations, since reading them is the cost."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from monoscope.core.batch import ActivationBatch
from monoscope.core.errors import DataError
from monoscope.core.interrupts import interruptible
from monoscope.core.io import remove
from monoscope.core.mesh import ALONE, Mesh
from monoscope.core.progress import progress
from monoscope.harvest.source import ActivationSource, in_step
from monoscope.parallel.mesh import together
from monoscope.training import heap
from monoscope.training.checkpoint import save_checkpoint
from monoscope.training.finished import save_snapshots
from monoscope.training.log import Log, sync_log
from monoscope.training.output import Output
from monoscope.training.run import Run
from monoscope.training.shared import save_shared, shared_checkpoints

GO, SAVE, STOP = range(3)
GIVE_BACK_EVERY = 10  # steps


def fit(
    runs: Sequence[Run],
    source: ActivationSource,
    *,
    start: int,
    config: dict[str, Any],
    out: Output | None,
    mesh: Mesh = ALONE,
) -> None:
    """Train every run from step ``start`` to its end, on flat batches of the source.

    On a mesh every process does so with its own share, and the first of them writes the log.

    Writes a row per run to its log every ``log_every`` steps, and with ``out`` a checkpoint every
    ``checkpoint_every`` seconds and when interrupted, and the ``snapshots`` that were asked for. Raises
    KeyboardInterrupt when asked to stop, once the checkpoint is written, and NotFinite for activations or a loss that
    are NaN or infinite, unless few such are to be left out.
    """
    heap.keep()
    settings = runs[0].settings
    logs = [Log(_directory(out if mesh.is_first else None, run), after_step=start) for run in runs]
    began = time.monotonic()
    clock, logged = began, (began, start)
    with interruptible() as interrupted, progress("train", settings.tokens) as bar:
        bar.advance(start * settings.batch_tokens)
        step = start
        for batch in _until(source, settings.steps - start, mesh):
            step += 1
            is_logged = step % settings.log_every == 0 or step == settings.steps or step == 1
            rows: list[dict[str, Any]] = []
            for run in runs:
                if not run.learn(batch, step - 1):
                    rows.append({"skipped": run.n_skipped})
                elif is_logged:
                    with run.here():
                        rows.append(run.metrics())
                else:
                    rows.append({})
            if step % GIVE_BACK_EVERY == 0:
                heap.give_back()
            if any(rows):
                now = time.monotonic()
                rate = (step - logged[1]) * settings.batch_tokens / max(now - logged[0], 1e-9)
                logged = (now, step)
                for run, log, row in zip(runs, logs, rows, strict=True):
                    head = {"step": step, "tokens": step * settings.batch_tokens, "tokens_per_s": round(rate)}
                    if row:
                        log.write(head | ({"run": run.name} if run.name else {}) | row)
            facts = {name: rows[0][name] for name in ("fvu", "l0", "dead", "skipped") if name in rows[0]}
            bar.advance(settings.batch_tokens, **facts)
            if out is not None:
                save_snapshots(out.directory, runs, source, step, time.monotonic() - began, mesh)
            is_due = out is not None and time.monotonic() - clock > settings.checkpoint_every
            wanted = mesh.every.counted(STOP if interrupted else SAVE if is_due else GO, "max")
            if out is not None and wanted > GO:
                checkpoint(out, runs, source, step, config, mesh)
                clock = time.monotonic()
            if wanted == STOP:
                raise KeyboardInterrupt(f"stopped at step {step} of {settings.steps}")


def checkpoint(
    out: Output,
    runs: Sequence[Run],
    source: ActivationSource,
    step: int,
    config: dict[str, Any],
    mesh: Mesh = ALONE,
) -> None:
    """Write everything that continuing from ``step`` needs."""
    if mesh.is_first:
        for run in runs:
            sync_log(out.directory / run.name)
    state = {
        "step": step,
        "source": source.state_dict(),
        "runs": [run.state_dict() for run in runs],
        "skipped": [run.n_skipped for run in runs],
        "config": config,
    }
    if mesh.every.size > 1:
        save_shared(out, step, state, runs, mesh)
    else:
        save_checkpoint(out.directory, step, state)
        for _, old in shared_checkpoints(out.directory):
            remove(old)


def _directory(out: Output | None, run: Run) -> Path | None:
    return None if out is None else out.directory / run.name


def _until(source: ActivationSource, n_steps: int, mesh: Mesh) -> Iterator[ActivationBatch]:
    stream = iter(source)
    for number in range(n_steps):
        with together(mesh):
            with in_step(source):
                batch = next(stream, None)
            if batch is None:
                left = n_steps - number
                raise DataError(f"the activations ended {left} steps too soon; train on fewer tokens, or repeat them")
        yield batch
