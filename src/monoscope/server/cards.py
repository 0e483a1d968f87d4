"""Cards: what the library shows of a bundle, of a run, and of what cannot be read."""

from __future__ import annotations

import time
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from monoscope.core.errors import UserError
from monoscope.core.site import Site
from monoscope.server.library.library import Entry, Fault, Run
from monoscope.server.library.runlog import tail
from monoscope.server.library.slugs import title
from monoscope.server.state import State
from monoscope.server.wire.base import Number
from monoscope.server.wire.library import Broken, Card, RunCard, Stats

FRESH = 120.0  # seconds without a new row after which a run no longer counts as running


def cards(state: State, entries: Iterable[Entry]) -> list[Card]:
    """Bundles, each in one view."""
    labeled = state.desk.counts()
    return [
        Card(**card_fields(state, entry, None if labeled is None else labeled.get(entry.dictionary_fp, 0)))
        for entry in entries
    ]


def card_fields(state: State, entry: Entry, n_labels: int | None) -> dict[str, Any]:
    """The fields of a card, which the page of the dictionary has too."""
    manifest = entry.manifest
    dictionary = manifest.dictionary
    return {
        "id": entry.id,
        "name": title(entry.path),
        "path": str(entry.path),
        "fingerprint": manifest.fingerprint,
        "dictionary_fp": dictionary.fingerprint,
        "model": manifest.model.id,
        "layer": _layer(dictionary.reads),
        "reads": dictionary.reads,
        "writes": dictionary.writes,
        "wiring": dictionary.wiring,
        "function": dictionary.function,
        "k": dictionary.k,
        "n_features": dictionary.n_features,
        "d_model": dictionary.d_model,
        "stats": Stats(**{name: manifest.stats.get(name) for name in Stats.model_fields}),
        "n_tokens": manifest.data.n_tokens,
        "bytes": sum(file.bytes for file in manifest.files),
        "created": manifest.created,
        "live": state.library.is_live(entry),
        "chat": state.library.has_chat(entry),
        "n_labels": n_labels,
    }


def broken_card(fault: Fault) -> Broken:
    """Something that cannot be read."""
    return Broken(id=fault.id, name=fault.path.name, path=str(fault.path), kind=fault.kind, problem=fault.problem)


def run_card(state: State, run: Run) -> RunCard:
    """A training run in one view."""
    log = run.path / "metrics.jsonl"
    last = tail(log)
    updated = _changed(log) or _changed(run.path)
    finished = (run.path / "config.toml").is_file() and (run.path / "weights.safetensors").is_file()
    fresh = updated is not None and time.time() - updated < FRESH
    numbers: dict[str, Number] = {
        name: value for name, value in last.items() if isinstance(value, (int, float)) and not isinstance(value, bool)
    }
    return RunCard(
        id=run.id,
        name=title(run.path),
        path=str(run.path),
        state="finished" if finished else "running" if fresh else "stopped",
        step=_whole(last.get("step")),
        tokens=_whole(last.get("tokens")),
        total_tokens=_total(run.path, _changed(run.path / "training.toml")),
        updated=None if updated is None else datetime.fromtimestamp(updated, UTC).isoformat(timespec="seconds"),
        last=numbers,
        dictionaries=[entry.id for entry in state.library.described(run.path)],
    )


def _layer(reads: list[str]) -> int | None:
    try:
        return Site.parse(reads[0]).layer if reads else None
    except UserError:
        return None


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _changed(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except OSError:
        return None


@lru_cache(1024)
def _total(path: Path, changed: float | None) -> int | None:
    """Tokens the run is to see, from its settings; ``changed`` makes a rewritten file read again."""
    from monoscope.core.config import read_toml

    try:
        runs = read_toml(path / "training.toml")["runs"]
        return max(int(run["training"]["tokens"]) for run in runs.values())
    except (UserError, KeyError, TypeError, ValueError, AttributeError):
        return None
