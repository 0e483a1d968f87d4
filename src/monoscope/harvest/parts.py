"""Parts of a store, each written by a process of its own, and what makes them one.

    OUT.partial/progress.json                        of one process: its shards, and where to go on
    OUT.partial/part-00001-of-00004/progress.json    of one of several

A part is whole once its ``progress.json`` says what was ``excluded``, in place of where to go on. At the URL of a
store, where nothing can be renamed, OUT itself takes the place of OUT.partial; it is a store once its manifest is
there, which is written last.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from monoscope.core.errors import MismatchError, OutputError
from monoscope.core.io import LOCK, MANIFEST, refuse_existing, remove
from monoscope.core.stores.claims import held
from monoscope.core.stores.remote import CLAIM, Location, sizes
from monoscope.harvest.shards import NAME
from monoscope.harvest.source import summed

JOURNAL = "progress.json"
LOCKS = (LOCK, CLAIM)


def in_the_making(store: Location) -> Location:
    """Where a store is written."""
    return store.with_name(f"{store.name}.partial") if isinstance(store, Path) else store


def refuse(store: Location, *, force: bool) -> None:
    """Raises OutputError if something other than an unfinished store is in the place of one, unless ``force``."""
    if isinstance(store, Path):
        refuse_existing(store, force=force)
        return
    names = store.sizes()
    ours = [name for name in names if NAME.fullmatch(name) or name.rpartition("/")[2] in (JOURNAL, *LOCKS)]
    if not force and len(ours) < len(names):
        raise OutputError(f"{store} exists; choose another place, or replace it with --force")


def directory_of(store: Location, number: int, of: int) -> Location:
    """Where a process writes its part of a store."""
    return store if of == 1 else store / _name(number, of)


def _name(number: int, of: int) -> str:
    return f"part-{number:05d}-of-{of:05d}"


def journal_of(store: Location, number: int, of: int) -> dict[str, Any]:
    """How far a part has come; empty where it has not begun."""
    path = directory_of(store, number, of) / JOURNAL
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def clear(store: Location, of: int, *, force: bool) -> None:
    """Remove what is of another store. Raises MismatchError for what other processes left, without ``force``."""
    own = {""} if of == 1 else {_name(number, of) for number in range(of)}
    left = [name for name in sizes(store) if name.rpartition("/")[0] not in own and name not in LOCKS]
    if isinstance(store, Path):  # what has no file in it yet
        left += [entry.name for entry in store.iterdir() if entry.is_dir() and entry.name not in own]
    if MANIFEST in left or (store / MANIFEST).is_file():
        remove(store / MANIFEST)  # first of all, so that nobody reads what is about to go
    others = sorted({name.partition("/")[0] for name in left})
    if not force and any("part-" in name or JOURNAL in name for name in others):
        raise MismatchError(
            f"{store} is an unfinished harvest by another number of processes ({others[0]}); go on with as many, or "
            "start over with --force"
        )
    for name in others:
        if name.startswith("part-"):
            with held(store / name):  # by nobody else
                remove(store / name)
        else:
            remove(store / name)


def joined(store: Location, of: int) -> dict[str, Any]:
    """What the manifest says of the parts as one store. Raises MismatchError for parts of different jobs."""
    journals = [journal_of(store, number, of) for number in range(of)]
    first = journals[0]
    for number, journal in enumerate(journals):
        if journal["job"] != first["job"] or journal["layout"]["tensors"] != first["layout"]["tensors"]:
            raise MismatchError(
                f"{directory_of(store, number, of)} holds other activations than the first part: the processes were "
                "told different things, or read different text; start over with --force"
            )
    shards, excluded = [], None
    for number, journal in enumerate(journals):
        within = "" if of == 1 else f"{_name(number, of)}/"
        shards += [shard | {"file": f"{within}{shard['file']}"} for shard in journal["shards"]]
        excluded = summed(excluded, journal["excluded"])
    return {
        **first["job"],
        **first["layout"],
        "excluded": excluded,
        "n_rows": sum(shard["rows"] for shard in shards),
        "n_tokens": sum(shard["tokens"] for shard in shards),
        "shards": shards,
    }
