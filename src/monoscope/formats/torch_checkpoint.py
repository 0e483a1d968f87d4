"""A checkpoint of torch.distributed: a directory of pieces, and a ``.metadata`` that says where each lies.

    .metadata        a pickle: for every tensor its dtype, shape and chunks; for every chunk a file, an offset, a length
    __r_i.distcp     chunks one behind the other, each as torch.save writes a tensor

torch reads the metadata with a pickle that may run anything. Here it gets stand-ins that only keep what they are given,
and any other name is refused; chunks are read as .pt files are, lazily.

Source: ``torch.distributed.checkpoint.metadata``, ``torch.distributed.checkpoint.filesystem``.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from monoscope.core.errors import DataError
from monoscope.formats.blob import Blob, Span
from monoscope.formats.folder import Folder
from monoscope.formats.lazy import Lazy, Region
from monoscope.formats.tensor_files import MOST_HEADER, pickled

METADATA = ".metadata"


def checkpoint(folder: Folder, directory: str) -> dict[str, Lazy]:
    """The tensors of a checkpoint by name, unread. Raises DataError for one that is cut short or needs code."""
    name = f"{directory}/{METADATA}"
    where, blob = folder.where(name), folder.blob(name)
    if blob.size > MOST_HEADER:
        raise DataError(f"{where} has {blob.size:,} bytes, and {MOST_HEADER:,} are the most")
    held = _unpickled(blob.read(0, blob.size), where)
    try:
        entries, places = held.state_dict_metadata, held.storage_data
        files = {_key(index): place for index, place in places.items()}
        return {
            fqn: _tensor(folder, directory, fqn, entry, files)
            for fqn, entry in entries.items()
            if getattr(entry, "kind", "") == "TensorStorageMetadata"
        }
    except (AttributeError, TypeError, KeyError, ValueError) as error:
        raise DataError(f"{where} is not the metadata of a checkpoint: {error}") from None


def _key(index: Any) -> tuple[str, tuple[int, ...]]:
    return str(index.fqn), tuple(index.offset or ())


def _tensor(folder: Folder, directory: str, fqn: str, entry: Any, files: dict[Any, Any]) -> Lazy:
    shape, dtype, chunks = tuple(entry.size), entry.properties.dtype, []
    for chunk in entry.chunks:
        offsets, sizes = tuple(chunk.offsets), tuple(chunk.sizes)
        if (fqn, offsets) not in files:
            raise DataError(f"{folder.where(directory)} does not say where {fqn} from {list(offsets)} on lies")
        place = files[fqn, offsets]
        if getattr(place, "transform_descriptors", None):
            raise DataError(f"{folder.where(directory)} is compressed, which is not read")
        blob = folder.blob(folder.check(f"{directory}/{place.relative_path}"))
        lazy = _piece(blob, place, fqn, sizes, dtype)
        if any(a < 0 or a + n > whole for a, n, whole in zip(offsets, sizes, shape, strict=True)):
            raise DataError(f"{fqn} in {folder.where(directory)} has a chunk outside of its shape {list(shape)}")
        chunks.append((offsets, lazy))
    return _joined(shape, dtype, chunks, f"{fqn} in {folder.where(directory)}")


def _piece(blob: Blob, place: Any, fqn: str, sizes: tuple[int, ...], dtype: torch.dtype) -> Lazy:
    """One chunk, whose header is not read before its numbers are."""
    start, stop = int(place.offset), int(place.offset) + int(place.length)
    if not 0 <= start <= stop <= blob.size:
        raise DataError(f"{blob.name} is cut short: {fqn} ends at byte {stop:,} of {blob.size:,}")

    def block(region: Region) -> Tensor:
        held = pickled(_Part(blob, start, stop))
        if not isinstance(held, Lazy) or held.shape != sizes or held.dtype != dtype:
            raise DataError(f"{fqn} in {blob.name} is not the {dtype} of {list(sizes)} that the metadata says")
        return held._block(region)

    return Lazy(sizes, dtype, block)


def _joined(shape: tuple[int, ...], dtype: torch.dtype, chunks: Sequence[tuple[Any, Lazy]], where: str) -> Lazy:
    """A tensor of chunks, of which only those are read that hold some of what is asked for."""

    def block(region: Region) -> Tensor:
        if len(chunks) == 1 and chunks[0][1].shape == shape:
            return chunks[0][1]._block(region)
        out = torch.empty([part.stop - part.start for part in region], dtype=dtype)
        filled = 0
        for offsets, lazy in chunks:
            inner, outer = [], []
            for part, offset, n in zip(region, offsets, lazy.shape, strict=True):
                first, last = max(part.start, offset), min(part.stop, offset + n)
                inner.append(slice(first - offset, last - offset))
                outer.append(slice(first - part.start, last - part.start))
            if all(part.start < part.stop for part in inner):
                piece = lazy._block(tuple(inner))
                out[tuple(outer)] = piece
                filled += piece.numel()
        if filled != out.numel():
            raise DataError(f"{where} is not whole: its chunks hold {filled:,} of {out.numel():,} numbers")
        return out

    return Lazy(shape, dtype, block)


class _Part(Blob):
    """A range of another blob."""

    def __init__(self, whole: Blob, start: int, stop: int) -> None:
        self.whole, self.start, self.size, self.name = whole, start, stop - start, whole.name

    def into(self, spans: Sequence[Span], buffer: memoryview) -> None:
        """Read spans one behind the other into a buffer of just their size."""
        self.whole.into([(self.start + a, self.start + b) for a, b in spans], buffer)


class _Record:
    """Stands in for a class of torch's: keeps its state under the names it has there."""

    kind = ""

    def __new__(cls, *_: Any) -> _Record:
        return super().__new__(cls)

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, tuple) and self.kind == "TensorProperties":
            state = {"dtype": state[0]}
        if not isinstance(state, dict) or any(str(name).startswith("__") for name in state):
            raise pickle.UnpicklingError(f"{self.kind} has a state that it cannot have")
        vars(self).update(state)


def _record(name: str) -> type[_Record]:
    return type(name, (_Record,), {"kind": name})


_CHECKPOINT = "torch.distributed.checkpoint"
_DTYPES = ("float64", "float32", "float16", "bfloat16", "int64", "int32", "bool")
_KNOWN: dict[tuple[str, str], Any] = {
    **{
        (f"{_CHECKPOINT}.metadata", name): _record(name)
        for name in (
            "Metadata", "TensorStorageMetadata", "BytesStorageMetadata", "TensorProperties", "ChunkStorageMetadata",
            "MetadataIndex", "StorageMeta", "_MEM_FORMAT_ENCODING",
        )
    },
    (f"{_CHECKPOINT}.filesystem", "_StorageInfo"): _record("_StorageInfo"),
    ("torch", "Size"): tuple,
    ("torch.serialization", "_get_layout"): str,
    ("pathlib", "PosixPath"): _record("path"),
    ("pathlib", "WindowsPath"): _record("path"),
    **{("torch", kind): getattr(torch, kind) for kind in _DTYPES},
}  # fmt: skip
"""Names that the metadata may hold, and what stands in for them: nothing that does anything."""


class _Refused(Exception):
    """A pickle that asks for more than stand-ins."""


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _KNOWN:
            raise _Refused(f"it needs {module}.{name}")
        return _KNOWN[module, name]

    def persistent_load(self, pid: Any) -> Any:
        raise _Refused("it refers to objects outside of it")


def _unpickled(data: bytes, where: str) -> Any:
    try:
        held = _Unpickler(io.BytesIO(data)).load()
    except _Refused as error:
        raise DataError(f"{where} is not opened, since that would run its code ({error})") from None
    except Exception as error:
        raise DataError(f"{where} is not the metadata of a checkpoint: {type(error).__name__} {error}") from None
    if getattr(held, "kind", "") != "Metadata":
        raise DataError(f"{where} holds a {type(held).__name__}, not the metadata of a checkpoint")
    return held
