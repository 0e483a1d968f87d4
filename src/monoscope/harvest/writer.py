"""Writing a source's activations to disk, so that an interruption at any moment loses at most one shard."""

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
    owned,
    refuse_existing,
    remove,
    replace_directory,
    sha256_file,
    write_json,
    write_manifest,
    write_tensors,
)
from monoscope.core.progress import progress
from monoscope.harvest.source import ActivationSource, first_not_finite
from monoscope.harvest.store import DTYPES, FIELDS, SCHEMA, VERSION, ActivationStore, DtypeName, Shard, check_size

JOURNAL = "progress.json"


def harvest(
    source: ActivationSource,
    path: Path | str,
    *,
    dtype: DtypeName = "fp32",
    shard_tokens: int = 2**17,
    force: bool = False,
) -> ActivationStore:
    """Write one pass of a source to ``path``, in shards of about ``shard_tokens`` tokens, padding included.

    Interrupted at any moment, it goes on after the last whole shard when called again with the same source and
    settings. Raises OutputError for a place that cannot be written or, without ``force``, holds something already;
    MismatchError for a partial store of something else; DataError for activations that ``dtype`` cannot hold.
    """
    assert shard_tokens >= 1, f"a shard holds at least one token, found {shard_tokens}"
    path = Path(path)
    refuse_existing(path, force=force)
    partial = path.with_name(f"{path.name}.partial")
    job = {
        "source": {key: value for key, value in source.info.items() if key != "excluded"},
        "sites": {str(site): source.widths[site] for site in source.sites},
        "dtype": dtype,
        "shard_tokens": shard_tokens,
    }
    with owned(partial):
        writer = _Writer(partial, job, dtype)
        writer.resume(source, force=force)
        with progress("harvest", source.n_tokens) as bar:
            bar.advance(writer.tokens)
            for batch in source:
                writer.add(batch)
                bar.advance(batch.n_tokens)
                if writer.waiting_tokens >= shard_tokens:
                    writer.flush(source.state_dict())
        writer.flush(source.state_dict())
        writer.finish(source.info.get("excluded", {}))
        replace_directory(partial, path)
        remove(path / JOURNAL)
        remove(path / LOCK)
    return ActivationStore(path)


class _Writer:
    """A store in the making."""

    def __init__(self, directory: Path, job: Mapping[str, Any], dtype: str) -> None:
        self.directory, self.dtype_name, self.dtype = directory, dtype, DTYPES[dtype]
        self.job = json.loads(json.dumps(job))
        self.shards: list[Shard] = []
        self.rows = self.tokens = 0
        self.layout: dict[str, Any] = {}
        self.waiting: list[dict[str, Tensor]] = []
        self.waiting_tokens = 0

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
        kept = {LOCK} | ({JOURNAL, *(shard["file"] for shard in done["shards"])} if done else set())
        for entry in self.directory.iterdir():
            if entry.name not in kept:
                remove(entry)
        if not done:
            return
        self.shards = [Shard(**shard) for shard in done["shards"]]
        for shard in self.shards:
            check_size(self.directory, shard)
        self.rows = sum(shard.rows for shard in self.shards)
        self.tokens, self.layout = done["tokens"], done["layout"]
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
        """Write what is waiting as one shard, and then that it is there."""
        if not self.waiting:
            return
        tensors = {name: torch.cat([batch[name] for batch in self.waiting]) for name in self.waiting[0]}
        path = self.directory / f"shard-{len(self.shards):05d}.safetensors"
        write_tensors(path, tensors)
        rows = self.rows - sum(shard.rows for shard in self.shards)
        self.shards.append(Shard(path.name, rows, path.stat().st_size, sha256_file(path)))
        self.waiting, self.waiting_tokens = [], 0
        write_json(
            self.directory / JOURNAL,
            {
                "job": self.job,
                "state": state,
                "shards": [asdict(shard) for shard in self.shards],
                "tokens": self.tokens,
                "layout": self.layout,
            },
        )

    def finish(self, excluded: Mapping[str, int]) -> None:
        """Write the manifest."""
        if not self.shards:
            raise DataError("the source yielded no activations, so there is nothing to store")
        body = {
            **self.job,
            **self.layout,
            "excluded": dict(excluded),
            "n_rows": self.rows,
            "n_tokens": self.tokens,
            "shards": [asdict(shard) for shard in self.shards],
        }
        write_manifest(self.directory, SCHEMA, VERSION, body | {"fingerprint": fingerprint(body)})


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
