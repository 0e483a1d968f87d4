"""What is derived from a bundle so that it can be searched: made once, in a directory of arrays that are mapped.

manifest.json         schema, the bundle's fingerprint
fires|raises|lowers   of every token, the features whose top tokens, promoted or suppressed logits have it, inverted
  .offset i64 [V + 1], .feature u32 [n], .value f32 [n]
norm f32 [F]          length of each feature's direction
text.bin              the stored sequences as UTF-8, one behind the other, a NUL after each
token i64 [n + 1]     where each of their tokens begins in it;  sequence i64 [S + 1]: where each begins, in tokens
context.offset i64 [S + 1], .feature, .start, .stop, .peak u32 [c]   contexts by sequence, their places in tokens
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from jaxtyping import Float16, Float32, Int64

from monoscope.core.errors import DataError
from monoscope.core.io import output_directory, read_manifest, write_manifest
from monoscope.core.progress import progress
from monoscope.features.bundle import FeatureBundle

SCHEMA, VERSION = "monoscope.search", 1
KINDS = {
    "fires": ("token_ids", "token_share"),
    "raises": ("pos_tokens", "pos_values"),
    "lowers": ("neg_tokens", "neg_values"),
}
MOST_TEXT = 256 * 2**20  # bytes of sequences above which contexts are not searched
NEGATIVE = -2  # the interval of windows in which a feature does not fire
BLOCK = 8192
_one_at_a_time = threading.Lock()  # of the threads of this process, which would share a temporary directory


def directory_of(root: Path, bundle: FeatureBundle) -> Path:
    """Where a bundle's derived arrays are, or will be."""
    return root / str(bundle.manifest["fingerprint"])[:32]


def is_derived(root: Path, bundle: FeatureBundle) -> bool:
    """Whether the arrays are there, whole, and of this bundle."""
    try:
        manifest = read_manifest(directory_of(root, bundle), SCHEMA, VERSION)
    except DataError:
        return False
    return manifest["schema_version"] == VERSION and manifest.get("bundle") == bundle.manifest["fingerprint"]


def derive(root: Path, bundle: FeatureBundle) -> None:
    """Make a bundle's arrays, unless they are there."""
    out_of = directory_of(root, bundle)
    with _one_at_a_time:
        if is_derived(root, bundle):
            return
        bar_of = progress("index features", 2 * len(bundle), "features")
        with output_directory(out_of, force=True) as out, bar_of as bar:
            _tokens(bundle, out)
            _norms(bundle, out)
            bar.advance(len(bundle))
            if (bundle.path / "sequences.safetensors").stat().st_size <= MOST_TEXT:
                _contexts(bundle, out)
            bar.advance(len(bundle))
            write_manifest(out, SCHEMA, VERSION, {"bundle": bundle.manifest["fingerprint"]})


class Arrays:
    """The arrays of one directory, each mapped when it is first asked for."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._open: dict[str, np.ndarray] = {}

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._open:
            self._open[name] = np.load(self.path / f"{name}.npy", mmap_mode="r", allow_pickle=False)
        return self._open[name]

    def __contains__(self, name: str) -> bool:
        return (self.path / f"{name}.npy").is_file()


def spans(start: Int64[np.ndarray, " m"], stop: Int64[np.ndarray, " m"]) -> tuple[np.ndarray, np.ndarray]:
    """All numbers of several ranges, one range behind the other, and which range each is of."""
    lengths = stop - start
    which = np.repeat(np.arange(len(start)), lengths)
    first = np.repeat(start - (np.cumsum(lengths) - lengths), lengths)
    return first + np.arange(len(which)), which


def _save(out: Path, name: str, values: np.ndarray) -> None:
    np.save(out / f"{name}.npy", np.ascontiguousarray(values), allow_pickle=False)


def _tokens(bundle: FeatureBundle, out: Path) -> None:
    columns = ["feature", *(name for pair in KINDS.values() for name in pair)]
    with pq.ParquetFile(bundle.path / "details.parquet", memory_map=True) as file:
        there = [name for name in columns if name in file.schema_arrow.names]
        table = file.read(columns=there)
    feature = table.column("feature").to_numpy().astype(np.uint32)
    for kind, (tokens, values) in KINDS.items():
        lists = table.column(tokens).combine_chunks()
        lengths = np.diff(lists.offsets.to_numpy()).astype(np.int64)
        token = lists.flatten().to_numpy().astype(np.int64)
        rank = np.arange(len(token)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        value = 1 / (1 + rank)  # where a bundle of an older release says no share
        if values in there:
            given = table.column(values).combine_chunks().flatten().to_numpy(zero_copy_only=False)
            value = np.abs(given) if len(given) == len(token) else value
        order = np.argsort(token, kind="stable")
        size = max(len(bundle.vocabulary), int(token.max(initial=-1)) + 1)
        _save(out, f"{kind}.offset", np.searchsorted(token[order], np.arange(size + 1)).astype(np.int64))
        _save(out, f"{kind}.feature", np.repeat(feature, lengths)[order])
        _save(out, f"{kind}.value", value[order].astype(np.float32))


def _norms(bundle: FeatureBundle, out: Path) -> None:
    directions = mapped_directions(bundle)
    if directions is not None:
        _save(out, "norm", np.concatenate([np.linalg.norm(block, axis=1) for _, block in blocks(directions)]))


def mapped_directions(bundle: FeatureBundle) -> Float16[np.ndarray, "F d"] | None:
    """Feature directions mapped from their file, none of them read; None where the bundle has none.

    A safetensors file is the length of its header, u64, the header in JSON, and the tensors.
    """
    path = bundle.path / "decoder.safetensors"
    if not path.is_file():
        return None
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        entry = json.loads(file.read(length))["W_dec"]
    if entry["dtype"] != "F16" or len(entry["shape"]) != 2:
        raise DataError(f"{path} holds directions of type {entry['dtype']} and shape {entry['shape']}, not F16 [F, d]")
    return np.memmap(path, np.float16, "r", 8 + length + entry["data_offsets"][0], tuple(entry["shape"]))


def blocks(directions: np.ndarray) -> Iterator[tuple[int, Float32[np.ndarray, "n d"]]]:
    """Directions in single precision, some thousand at a time, with the number of the first."""
    for start in range(0, len(directions), BLOCK):
        yield start, np.asarray(directions[start : start + BLOCK], np.float32)


def _contexts(bundle: FeatureBundle, out: Path) -> None:
    tokens, length = bundle.tokens(), bundle._sequences.get_tensor("length").astype(np.int64)
    spelled = pq.read_table(bundle.path / "vocab.parquet", columns=["bytes"]).column("bytes").to_pylist()
    size = np.array([len(token) for token in spelled], np.int64)
    sequence = np.concatenate([[0], np.cumsum(length)])
    flat = np.concatenate([row[:n] for row, n in zip(tokens, length, strict=True)] or [np.empty(0, np.uint32)])
    place = np.concatenate([[0], np.cumsum(size[flat])])
    # A NUL after each sequence keeps a match from running into the next one.
    place += np.searchsorted(sequence[1:], np.arange(len(place)), side="right")
    _save(out, "token", place)
    with (out / "text.bin").open("wb") as file:
        for row, n in zip(tokens, length, strict=True):
            file.write(b"".join(spelled[token] for token in row[:n].tolist()).replace(b"\0", b" ") + b"\0")
    _context_places(bundle, out, sequence)


def _context_places(bundle: FeatureBundle, out: Path, sequence: Int64[np.ndarray, " s"]) -> None:
    names = ["feature", "interval", "seq", "start", "stop", "max_pos"]
    parts: list[list[np.ndarray]] = []
    for path in sorted((bundle.path / "contexts").glob("*.parquet")):
        table = pq.read_table(path, columns=names)
        columns = {name: table.column(name).to_numpy() for name in names}
        kept = columns["interval"] > NEGATIVE
        seq = columns["seq"][kept].astype(np.int64)
        places = (columns[name][kept].astype(np.int64) + sequence[seq] for name in ("start", "stop", "max_pos"))
        parts.append([columns["feature"][kept], *(place.astype(np.uint32) for place in places)])
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    order = np.argsort(columns[-1], kind="stable")
    for name, column in zip(("feature", "start", "stop", "peak"), columns, strict=True):
        _save(out, f"context.{name}", column[order])
