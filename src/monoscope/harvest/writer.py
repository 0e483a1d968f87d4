"""Writing a source's activations to a store, so that an interruption at any moment loses at most one shard.

Several processes each write a part, and the first, once all are whole, writes the manifest that makes them one store.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from monoscope.core.batch import ActivationBatch
from monoscope.core.errors import DataError, MismatchError
from monoscope.core.io import (
    LOCK,
    fingerprint,
    remove,
    replace_directory,
    write_json,
    write_manifest,
    write_tensors,
)
from monoscope.core.progress import progress
from monoscope.core.ranks import wait_for
from monoscope.core.stores.claims import Claim, held
from monoscope.core.stores.remote import Location, location, sizes, staged
from monoscope.harvest.parts import JOURNAL, LOCKS, clear, directory_of, in_the_making, joined, journal_of, refuse
from monoscope.harvest.shards import Shard, check_size, checksum
from monoscope.harvest.source import ActivationSource, first_not_finite, in_step
from monoscope.harvest.store import DTYPES, FIELDS, SCHEMA, VERSION, ActivationStore, DtypeName


def harvest(
    source: ActivationSource,
    path: Location | str,
    *,
    dtype: DtypeName = "fp32",
    shard_tokens: int = 2**17,
    ranks: int = 1,
    force: bool = False,
) -> ActivationStore:
    """Write one pass of a source to ``path``, in shards of about ``shard_tokens`` tokens, padding included.

    path: a directory, or the URL of one, as s3://bucket/acts
    ranks: processes that each write a part: this is the first, which waits for the others; see ``harvest_part``

    Interrupted at any moment, it goes on after the last whole shard when called again with the same source and
    settings. Raises OutputError for a place that cannot be written or, without ``force``, holds something already;
    MismatchError for a partial store of something else; DataError for activations that ``dtype`` cannot hold.
    """
    path = location(path)
    refuse(path, force=force)
    partial = in_the_making(path)
    _write_part(source, partial, 0, ranks, dtype, shard_tokens, force=force)
    wait_for(ranks, lambda number: "excluded" in journal_of(partial, number, ranks))
    with held(partial):
        body = joined(partial, ranks)
        write_manifest(partial, SCHEMA, VERSION, body | {"fingerprint": fingerprint(body)})
        if isinstance(path, Path) and isinstance(partial, Path):
            replace_directory(partial, path)
            remove(path / LOCK)
        for number in range(ranks):
            remove(directory_of(path, number, ranks) / JOURNAL)
            remove(directory_of(path, number, ranks) / LOCK)
    return ActivationStore(path)


def harvest_part(
    source: ActivationSource,
    path: Location | str,
    rank: int,
    ranks: int,
    *,
    dtype: DtypeName = "fp32",
    shard_tokens: int = 2**17,
    force: bool = False,
) -> None:
    """Write the part of process ``rank`` of a harvest by several, and leave it for the first of them, which joins them.

    ``source`` is the whole; each process reads another of its parts. Interrupted, it goes on as ``harvest`` does.
    """
    assert 0 < rank < ranks, f"the first process calls harvest; the others are 1 to {ranks - 1}, found {rank}"
    path = location(path)
    refuse(path, force=force)
    _write_part(source, in_the_making(path), rank, ranks, dtype, shard_tokens, force=force)


def _write_part(
    source: ActivationSource, partial: Location, rank: int, ranks: int, dtype: str, shard_tokens: int, *, force: bool
) -> None:
    assert shard_tokens >= 1, f"a shard holds at least one token, found {shard_tokens}"
    job = {
        "source": {key: value for key, value in source.info.items() if key != "excluded"},
        "sites": {str(site): source.widths[site] for site in source.sites},
        "dtype": dtype,
        "shard_tokens": shard_tokens,
    }
    own = source if ranks == 1 else source.part(rank, ranks)
    title = "harvest" if ranks == 1 else f"harvest part {rank + 1} of {ranks}"
    directory = directory_of(partial, rank, ranks)
    with held(directory) as claim:
        if rank == 0:
            clear(partial, ranks, force=force)
        writer = _Writer(directory, job, dtype, claim)
        writer.resume(own, force=force)
        with progress(title, own.n_tokens) as bar, in_step(own):
            bar.advance(writer.tokens)
            for batch in () if writer.is_complete else own:
                writer.add(batch)
                bar.advance(batch.n_tokens)
                if writer.waiting_tokens >= shard_tokens:
                    writer.flush({"state": own.state_dict()})
        if not writer.is_complete:
            writer.flush({"excluded": own.info.get("excluded", {})})


class _Writer:
    """A store in the making, or a part of one."""

    def __init__(self, directory: Location, job: Mapping[str, Any], dtype: str, claim: Claim | None) -> None:
        self.directory, self.dtype_name, self.dtype, self.claim = directory, dtype, DTYPES[dtype], claim
        self.job = json.loads(json.dumps(job))
        self.shards: list[Shard] = []
        self.rows = self.tokens = 0
        self.layout: dict[str, Any] = {}
        self.waiting: list[dict[str, Tensor]] = []
        self.waiting_tokens = 0
        self.is_complete = False

    def resume(self, source: ActivationSource, *, force: bool) -> None:
        """Go on where an interrupted run of the same job stopped, if there was one."""
        journal = self.directory / JOURNAL
        done = json.loads(journal.read_text(encoding="utf-8")) if journal.is_file() else {}
        if done and done["job"] != self.job:
            if not force:
                raise MismatchError(
                    f"{self.directory} is an unfinished harvest of something else: "
                    f"{_differences(done['job'], self.job)}; go on with its settings, or start over with --force"
                )
            done = {}
        kept = {*LOCKS} | ({JOURNAL, *(shard["file"] for shard in done["shards"])} if done else set())
        found = sizes(self.directory)
        for name in found:
            if name not in kept and "/" not in name:  # what stands deeper is other processes' parts
                remove(self.directory / name)
        if not done:
            return
        self.shards = [Shard.of(shard) for shard in done["shards"]]
        for shard in self.shards:
            check_size(self.directory, shard, found)
        self.rows = sum(shard.rows for shard in self.shards)
        self.tokens, self.layout = sum(shard.tokens or 0 for shard in self.shards), done["layout"]
        self.is_complete = "excluded" in done
        if not self.is_complete:
            source.load_state_dict(done["state"])

    def add(self, batch: ActivationBatch) -> None:
        """Take in a batch."""
        tensors = {}
        for site, x in batch.activations.items():
            x = x.to("cpu", self.dtype)
            if bad := first_not_finite(x, batch.mask):
                place = f"row {self.rows + bad[0]}" + (f", position {bad[1]}" if len(bad) > 1 else "")
                raise DataError(
                    f"activations at {site} are not finite in {self.dtype_name}: {place}; store bf16 or fp32"
                )
            tensors[f"activations/{site}"] = x
        tensors |= {name: x.cpu() for name in FIELDS if (x := getattr(batch, name)) is not None}
        rows = len(next(iter(tensors.values())))
        shapes = {name: list(x.shape[1:]) for name, x in tensors.items()}
        if not self.layout:
            self.layout = {"rows_per_batch": rows, "tensors": shapes}
        if shapes != self.layout["tensors"]:
            raise MismatchError(
                "a store holds rows of one length, and these are sequences of several, as conversations are; store "
                "their tokens: harvest(shuffle(source), path)"
            )
        self.waiting.append(tensors)
        self.waiting_tokens += next(iter(tensors.values()))[..., 0].numel()
        self.tokens += batch.n_tokens
        self.rows += rows

    def flush(self, state: Mapping[str, Any]) -> None:
        """Write what is waiting as one shard, and then that it is there, and where to go on."""
        if self.waiting:
            tensors = {name: torch.cat([batch[name] for batch in self.waiting]) for name in self.waiting[0]}
            path = self.directory / f"shard-{len(self.shards):05d}.safetensors"
            if self.claim is not None:
                self.claim.check()
            with staged(path) as file:
                write_tensors(file, tensors)
                size, digest = file.stat().st_size, checksum(file)
            rows = self.rows - sum(shard.rows for shard in self.shards)
            tokens = self.tokens - sum(shard.tokens or 0 for shard in self.shards)
            self.shards.append(Shard(path.name, rows, tokens, size, digest))
            self.waiting, self.waiting_tokens = [], 0
        if not self.shards:
            raise DataError("the source yielded no activations, so there is nothing to store")
        shards = [asdict(shard) for shard in self.shards]
        write_json(self.directory / JOURNAL, {"job": self.job, **state, "shards": shards, "layout": self.layout})


def _differences(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> str:
    """What changed between two tables, as a phrase."""
    parts = []
    for key in sorted(before.keys() | now.keys()):
        old, new = before.get(key), now.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            parts.append(_differences(old, new, f"{prefix}{key}."))
        elif old != new:
            parts.append(f"{prefix}{key} was {old!r}, now {new!r}")
    return "; ".join(part for part in parts if part)
