"""Activations on disk: safetensors shards, and a manifest that says what they are.

    path/manifest.json              schema monoscope.activations: source, sites, dtype, every shard's rows and checksum
    path/shard-00000.safetensors    rows of each tensor of the batches: activations/SITE, tokens, mask, positions, ...

A row is a window where the source yields windows, and a token where it yields tokens. Rows stand in the order of the
source; where several processes harvested, the first one's part comes first, so that the order is that of one process.
While it is written the store is ``path.partial`` and holds whole shards and ``progress.json``, which says where to go
on; it becomes ``path`` when it is complete.
"""

from __future__ import annotations

import copy
import logging
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from monoscope.core.batch import ActivationBatch
from monoscope.core.errors import CorruptError, DataError, MismatchError
from monoscope.core.io import MANIFEST, fingerprint, read_manifest
from monoscope.core.site import Site
from monoscope.core.stores.remote import Location, Remote, location, sizes
from monoscope.harvest.copies import Copies
from monoscope.harvest.shards import NAME, Shard, check_size, open_shard
from monoscope.harvest.source import ActivationSource, check_same, dtype_name, first_not_finite, part_rows

log = logging.getLogger("monoscope.harvest")

SCHEMA, VERSION = "monoscope.activations", 1
FIELDS = ("tokens", "mask", "positions", "documents")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
DtypeName = Literal["fp32", "bf16", "fp16"]
OnCorrupt = Literal["stop", "skip"]


class ActivationStore(ActivationSource):
    """Activations that ``harvest`` wrote, read lazily: the same batches as the source they came from.

    Opening checks that every shard is there and whole in size; the first read of a shard checks its checksum. Raises
    CorruptError naming the shard, and for NaN or infinity in a whole one DataError with its row.

    path: directory of the store, or its URL, as s3://bucket/acts: shards are then fetched one ahead of the reading
    rows_per_batch: windows (or tokens, where rows are tokens) in a batch; by default those of the original batches
    dtype: of the activations handed out, whatever they are stored in
    on_corrupt: "skip" leaves corrupt shards out: one warning for each, ``skipped`` names them,
        ``info["excluded"]["corrupt"]`` counts their tokens, and positions carry them, so that a resumed reading leaves
        out the same
    """

    def __init__(
        self,
        path: Location | str,
        *,
        rows_per_batch: int | None = None,
        dtype: torch.dtype = torch.float32,
        on_corrupt: OnCorrupt = "stop",
    ) -> None:
        assert rows_per_batch is None or rows_per_batch >= 1, f"a batch holds at least one row, found {rows_per_batch}"
        self.path, self.dtype, self.on_corrupt = location(path), dtype, on_corrupt
        self.manifest = _read_manifest(self.path)
        self.fingerprint: str = self.manifest["fingerprint"]
        self.rows_per_batch: int = rows_per_batch or self.manifest["rows_per_batch"]
        self.shards = [Shard.of(shard) for shard in self.manifest["shards"]]
        self.widths = {Site.parse(name): width for name, width in self.manifest["sites"].items()}
        self.sites = tuple(self.widths)
        self.n_tokens = self.manifest["n_tokens"]
        self._ends = list(accumulate(shard.rows for shard in self.shards))
        self._verified: set[str] = set()
        self._corrupt: dict[str, None] = {}
        self._open: tuple[str, Any] | None = None
        self._copies: Copies | None = None
        self._rows_read = slice(0, self._ends[-1])
        self._row = 0
        found = sizes(self.path)
        for shard in self.shards:
            try:
                check_size(self.path, shard, found)
            except CorruptError as error:
                self._leave_out(shard, error)

    @property
    def info(self) -> dict[str, Any]:
        """Provenance: that of the source, and the store's own fingerprint."""
        dtype = dtype_name(DTYPES[self.manifest["dtype"]])
        stored = {"kind": "store", "dtype": dtype, "fingerprint": self.fingerprint}
        is_whole = self._rows_read == slice(0, self._ends[-1])  # what was left out of a part is not on record
        excluded = {**(self.manifest["excluded"] if is_whole else {}), **self._left_out()}
        return {**self.manifest["source"], **stored, **({"excluded": excluded} if is_whole or excluded else {})}

    @property
    def skipped(self) -> tuple[str, ...]:
        """Names of the shards that were found corrupt and are left out."""
        return tuple(self._corrupt)

    def __iter__(self) -> Iterator[ActivationBatch]:
        """Batches of ``rows_per_batch`` rows; the last of a pass, and before a shard left out, may be smaller."""
        while self._row < self._rows_read.stop:
            first, pieces = self._row, []
            self._row = self._read(first, min(first + self.rows_per_batch, self._rows_read.stop), pieces)
            if pieces:
                yield self._batch(first, pieces)
        self._row = self._rows_read.start

    def state_dict(self) -> dict[str, Any]:
        """The number of the next row, and which shards are left out."""
        rows = [self._rows_read.start, self._rows_read.stop]
        corrupt = {"corrupt": list(self._corrupt)} if self._corrupt else {}
        return {"fingerprint": self.fingerprint, "rows": rows, "row": self._row, **corrupt}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Move to a position."""
        check_same(state, fingerprint=self.fingerprint, rows=[self._rows_read.start, self._rows_read.stop])
        left_out = dict.fromkeys(state.get("corrupt", ()))
        if left_out and self.on_corrupt == "stop":
            raise MismatchError(
                f"{self.path} was read without its corrupt shards ({', '.join(left_out)}) up to here; go on with "
                'on_corrupt = "skip"'
            )
        self._row, self._corrupt = state["row"], self._corrupt | left_out

    def part(self, number: int, of: int) -> ActivationStore:
        """One of several consecutive parts; how many of its tokens count is not known before reading."""
        rows = self._rows_read
        own = part_rows(rows.stop - rows.start, self.rows_per_batch, number, of)
        part = copy.copy(self)
        part._rows_read = slice(rows.start + own.start, rows.start + own.stop)
        part._row = part.first_row = part._rows_read.start
        part.n_tokens, part._open, part._copies = None, None, None
        part._verified, part._corrupt = set(), dict(self._corrupt)
        return part

    def _batch(self, first: int, pieces: list[dict[str, Tensor]]) -> ActivationBatch:
        tensors = pieces[0]
        if len(pieces) > 1:
            tensors = {name: torch.cat([piece[name] for piece in pieces]) for name in tensors}
        fields = {name: tensors.get(name) for name in FIELDS}
        activations = {site: tensors[f"activations/{site}"].to(self.dtype) for site in self.sites}
        for site, x in activations.items():
            if bad := first_not_finite(x, fields["mask"]):
                shard, row = self._locate(first + bad[0])
                place = f"row {row}" + (f", position {bad[1]}" if len(bad) > 1 else "")
                raise DataError(f"{self.path / shard.file}, {place}: activations at {site} are NaN or infinite")
        return ActivationBatch(activations, **fields)

    def _read(self, first: int, end: int, pieces: list[dict[str, Tensor]]) -> int:
        """Read rows into ``pieces``, up to a shard that is left out; the row that comes next."""
        while first < end:
            shard, row = self._locate(first)
            file = self._file(shard)
            if file is None:
                return first if pieces else min(first + shard.rows - row, self._rows_read.stop)
            n = min(end - first, shard.rows - row)
            pieces.append({name: file.get_slice(name)[row : row + n] for name in self.manifest["tensors"]})
            first += n
        return first

    def _locate(self, row: int) -> tuple[Shard, int]:
        """The shard that holds a row of the store, and the row's number there."""
        number = bisect_right(self._ends, row)
        return self.shards[number], row - self._ends[number] + self.shards[number].rows

    def _file(self, shard: Shard) -> Any:
        """The shard's file, None where it is left out."""
        if shard.file in self._corrupt:
            return None
        if self._open is None or self._open[0] != shard.file:
            place = self.path / shard.file
            try:
                path = place if isinstance(place, Path) else self._copy(shard)
                verify = isinstance(place, Remote) or shard.file not in self._verified
                file = open_shard(path, shard, self.manifest["tensors"], verify=verify, place=place)
            except CorruptError as error:
                self._leave_out(shard, error)
                return None
            self._verified.add(shard.file)
            self._open = (shard.file, file)
        return self._open[1]

    def _copy(self, shard: Shard) -> Path:
        """A copy of a shard of a store elsewhere, on this machine; the shard behind it is sent for meanwhile."""
        assert isinstance(self.path, Remote), "what is here needs no copy"
        self._copies = self._copies or Copies(self.path)
        after = self._ends[self.shards.index(shard)]
        return self._copies.of(shard, self._locate(after)[0] if after < self._rows_read.stop else None)

    def _leave_out(self, shard: Shard, error: CorruptError) -> None:
        """Note a corrupt shard, or raise its error."""
        if self.on_corrupt == "stop":
            raise CorruptError(f'{error}, or leave it out with on_corrupt = "skip"') from None
        self._corrupt[shard.file] = None
        if len(self._corrupt) == len(self.shards):
            raise CorruptError(f"{self.path} holds not one whole shard; harvest again")
        log.warning("%s; its %s rows are left out", error, f"{shard.rows:,}")

    def _left_out(self) -> dict[str, int]:
        """Tokens of the part that is read which corrupt shards hold, where there are such; about, where it cuts one."""
        tokens = 0
        for shard, end in zip(self.shards, self._ends, strict=True):
            if shard.file in self._corrupt:
                rows = max(0, min(end, self._rows_read.stop) - max(end - shard.rows, self._rows_read.start))
                of_shard = shard.tokens or self.manifest["n_tokens"] * shard.rows // self._ends[-1]
                tokens += of_shard * rows // shard.rows
        return {"corrupt": tokens} if self._corrupt else {}


def _read_manifest(path: Location) -> dict[str, Any]:
    if isinstance(path, Path) and not path.exists():
        partial = path.with_name(f"{path.name}.partial")
        hint = f"; {partial} is an unfinished harvest" if partial.exists() else ""
        raise DataError(f"no activation store at {path}{hint}")
    if isinstance(path, Remote) and not (path / MANIFEST).is_file():
        is_begun = any(NAME.fullmatch(name) for name in path.sizes())
        raise DataError(f"no activation store at {path}{'; it is an unfinished harvest' if is_begun else ''}")
    manifest = read_manifest(path, SCHEMA, VERSION)
    head = ("schema", "schema_version", "generator", "fingerprint")
    body = {key: value for key, value in manifest.items() if key not in head}
    if manifest.get("fingerprint") != fingerprint(body):
        raise DataError(f"the manifest of {path} was changed after it was written; harvest again")
    return manifest
