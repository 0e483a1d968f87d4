"""Activations on disk: safetensors shards, and a manifest that says what they are.

    path/manifest.json              schema monoscope.activations: source, sites, dtype, every shard's rows and SHA-256
    path/shard-00000.safetensors    rows of each tensor of the batches: activations/SITE, tokens, mask, positions, ...

A row is a window where the source yields windows, and a token where it yields tokens. While it is written the store
is ``path.partial`` and holds whole shards and ``progress.json``, which says where to go on; it becomes ``path`` when
it is complete.
"""

from __future__ import annotations

import copy
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from monoscope.core.batch import ActivationBatch
from monoscope.core.errors import DataError
from monoscope.core.io import fingerprint, read_manifest, sha256_file
from monoscope.core.site import Site
from monoscope.harvest.source import ActivationSource, check_same, dtype_name, first_not_finite, part_rows

SCHEMA, VERSION = "monoscope.activations", 1
FIELDS = ("tokens", "mask", "positions", "documents")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
DtypeName = Literal["fp32", "bf16", "fp16"]


@dataclass(frozen=True)
class Shard:
    """One file of a store."""

    file: str
    rows: int
    bytes: int
    sha256: str


class ActivationStore(ActivationSource):
    """Activations that ``harvest`` wrote, read lazily: the same batches as the source they came from.

    Opening checks that every shard is there, whole in size and laid out as the manifest says; the first read of a
    shard checks its SHA-256. Raises DataError naming the shard, and for NaN or infinity its row.

    path: directory of the store
    rows_per_batch: windows (or tokens, where rows are tokens) in a batch; by default those of the original batches
    dtype: of the activations handed out, whatever they are stored in
    """

    def __init__(
        self, path: Path | str, *, rows_per_batch: int | None = None, dtype: torch.dtype = torch.float32
    ) -> None:
        assert rows_per_batch is None or rows_per_batch >= 1, f"a batch holds at least one row, found {rows_per_batch}"
        self.path, self.dtype = Path(path), dtype
        self.manifest = _read_manifest(self.path)
        self.fingerprint: str = self.manifest["fingerprint"]
        self.rows_per_batch: int = rows_per_batch or self.manifest["rows_per_batch"]
        self.shards = [Shard(**shard) for shard in self.manifest["shards"]]
        self.widths = {Site.parse(name): width for name, width in self.manifest["sites"].items()}
        self.sites = tuple(self.widths)
        self.n_tokens = self.manifest["n_tokens"]
        self._ends = list(accumulate(shard.rows for shard in self.shards))
        self._verified: set[str] = set()
        self._open: tuple[str, Any] | None = None
        self._rows_read = slice(0, self._ends[-1])
        self._row = 0
        for shard in self.shards:
            self._check_layout(shard)

    @property
    def info(self) -> dict[str, Any]:
        """Provenance: that of the source, and the store's own fingerprint."""
        dtype = dtype_name(DTYPES[self.manifest["dtype"]])
        stored = {"kind": "store", "dtype": dtype, "fingerprint": self.fingerprint}
        is_whole = self._rows_read == slice(0, self._ends[-1])  # what was left out of a part is not on record
        return {**self.manifest["source"], **stored, **({"excluded": self.manifest["excluded"]} if is_whole else {})}

    def __iter__(self) -> Iterator[ActivationBatch]:
        """Batches of ``rows_per_batch`` rows; the last of a pass may be smaller."""
        while self._row < self._rows_read.stop:
            end = min(self._row + self.rows_per_batch, self._rows_read.stop)
            batch = self._read(self._row, end)
            self._row = end
            yield batch
        self._row = self._rows_read.start

    def state_dict(self) -> dict[str, Any]:
        """The number of the next row."""
        rows = [self._rows_read.start, self._rows_read.stop]
        return {"fingerprint": self.fingerprint, "rows": rows, "row": self._row}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Move to a position."""
        check_same(state, fingerprint=self.fingerprint, rows=[self._rows_read.start, self._rows_read.stop])
        self._row = state["row"]

    def part(self, number: int, of: int) -> ActivationStore:
        """One of several consecutive parts; how many of its tokens count is not known before reading."""
        rows = self._rows_read
        own = part_rows(rows.stop - rows.start, self.rows_per_batch, number, of)
        part = copy.copy(self)
        part._rows_read = slice(rows.start + own.start, rows.start + own.stop)
        part._row = part.first_row = part._rows_read.start
        part.n_tokens, part._verified, part._open = None, set(), None
        return part

    def _read(self, first: int, end: int) -> ActivationBatch:
        tensors = self._rows(first, end)
        fields = {name: tensors.get(name) for name in FIELDS}
        activations = {site: tensors[f"activations/{site}"].to(self.dtype) for site in self.sites}
        for site, x in activations.items():
            if bad := first_not_finite(x, fields["mask"]):
                shard, row = self._locate(first + bad[0])
                place = f"row {row}" + (f", position {bad[1]}" if len(bad) > 1 else "")
                raise DataError(f"{self.path / shard.file}, {place}: activations at {site} are NaN or infinite")
        return ActivationBatch(activations, **fields)

    def _rows(self, first: int, end: int) -> dict[str, Tensor]:
        pieces: list[dict[str, Tensor]] = []
        while first < end:
            shard, row = self._locate(first)
            n = min(end - first, shard.rows - row)
            file = self._file(shard)
            pieces.append({name: file.get_slice(name)[row : row + n] for name in self.manifest["tensors"]})
            first += n
        if len(pieces) == 1:
            return pieces[0]
        return {name: torch.cat([piece[name] for piece in pieces]) for name in pieces[0]}

    def _locate(self, row: int) -> tuple[Shard, int]:
        """The shard that holds a row of the store, and the row's number there."""
        number = bisect_right(self._ends, row)
        return self.shards[number], row - self._ends[number] + self.shards[number].rows

    def _file(self, shard: Shard) -> Any:
        path = self.path / shard.file
        if shard.file not in self._verified:
            if sha256_file(path) != shard.sha256:
                raise DataError(f"{path} was changed after it was written: its SHA-256 differs; harvest again")
            self._verified.add(shard.file)
        if self._open is None or self._open[0] != shard.file:
            self._open = (shard.file, safe_open(path, framework="pt"))
        return self._open[1]

    def _check_layout(self, shard: Shard) -> None:
        check_size(self.path, shard)
        path = self.path / shard.file
        try:
            with safe_open(path, framework="pt") as file:
                found = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise DataError(f"{path} is not a safetensors file ({error}); harvest again") from None
        expected = {name: [shard.rows, *shape] for name, shape in self.manifest["tensors"].items()}
        if found != expected:
            raise DataError(f"{path} holds {found}, and the manifest says {expected}; harvest again")


def check_size(directory: Path, shard: Shard) -> None:
    """Raises DataError unless a shard's file is there and has the size it was written with."""
    path = directory / shard.file
    if not path.is_file():
        raise DataError(f"{path} is missing; harvest again")
    if (size := path.stat().st_size) != shard.bytes:
        raise DataError(f"{path} is not whole: {size:,} of {shard.bytes:,} bytes; harvest again")


def _read_manifest(path: Path) -> dict[str, Any]:
    if not path.exists():
        partial = path.with_name(f"{path.name}.partial")
        hint = f"; {partial} is an unfinished harvest" if partial.exists() else ""
        raise DataError(f"no activation store at {path}{hint}")
    manifest = read_manifest(path, SCHEMA, VERSION)
    head = ("schema", "schema_version", "generator", "fingerprint")
    body = {key: value for key, value in manifest.items() if key not in head}
    if manifest.get("fingerprint") != fingerprint(body):
        raise DataError(f"the manifest of {path} was changed after it was written; harvest again")
    return manifest
