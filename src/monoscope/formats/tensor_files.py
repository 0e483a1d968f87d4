"""Tensors of .safetensors, .npz and .pt files: what is in them without reading it, and each as a Lazy.

Nothing in a file is run. Sizes a file declares are compared with the bytes it has before any is read: what does not
fit, or would grow beyond measure when unpacked, is refused. A pickle may hold tensors and plain values, and the classes
a caller names.

    .safetensors   8 bytes n, n bytes of JSON: {name: {dtype, shape, data_offsets}}, the tensors
    .npz           a zip of .npy files, each a header and the numbers; as they are, or compressed
    .pt            a zip of data.pkl and the numbers as they are; before torch 1.6 one pickle, which is read as a whole
"""

from __future__ import annotations

import ast
import json
import math
import pickle
import struct
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from monoscope.core.errors import DataError
from monoscope.formats.blob import Blob
from monoscope.formats.lazy import Lazy

MOST_HEADER = 2**25  # bytes of a safetensors header or of a pickle; 100,000 tensors need about 10 MB
MOST_TENSORS = 100_000
MOST_AXES = 8
MOST_UNPACKED = 2**36  # bytes of a compressed member, and no more than so many times what it takes in the file:
MOST_RATIO = 200

DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_NUMPY: dict[str, torch.dtype] = {
    "<f8": torch.float64,
    "<f4": torch.float32,
    "<f2": torch.float16,
    "<i8": torch.int64,
    "<i4": torch.int32,
    "<i2": torch.int16,
    "|i1": torch.int8,
    "<u8": torch.uint64,
    "<u4": torch.uint32,
    "<u2": torch.uint16,
    "|u1": torch.uint8,
    "|b1": torch.bool,
}


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """What a file says about a tensor before it is read."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


def tensors_of(blob: Blob, allow: Sequence[Any] = ()) -> dict[str, Lazy]:
    """The tensors of a file by name, unread; of a .pt file, those at its first level (see ``pickled``)."""
    kind = blob.name.rsplit(".", 1)[-1].lower()
    if kind == "safetensors":
        return safetensors(blob)
    if kind == "npz":
        return npz(blob)
    if kind in ("pt", "pth", "bin", "ckpt"):
        value = pickled(blob, allow)
        if isinstance(value, Lazy):
            return {"": value}
        if not isinstance(value, dict):
            raise DataError(f"{blob.name} holds a {type(value).__name__}, not tensors by name")
        return {str(name): item for name, item in value.items() if isinstance(item, Lazy)}
    raise DataError(f"{blob.name} is no file of tensors: .safetensors, .npz, .pt and .pth are")


def safetensors(blob: Blob) -> dict[str, Lazy]:
    """The tensors of a safetensors file. Raises DataError for one that is cut short or contradicts itself."""
    if blob.size < 8:
        raise DataError(f"{blob.name} is not a whole safetensors file: it has {blob.size} bytes")
    (length,) = struct.unpack("<Q", blob.read(0, 8))
    if length > MOST_HEADER:
        raise DataError(f"{blob.name} declares a header of {length:,} bytes, and {MOST_HEADER:,} are the most")
    try:
        table = json.loads(blob.read(8, 8 + length))
    except (ValueError, RecursionError):
        raise DataError(f"{blob.name} is not a safetensors file: its header is not JSON") from None
    if not isinstance(table, dict) or len(table) > MOST_TENSORS:
        raise DataError(f"{blob.name} is not a safetensors file: its header is not a table of tensors")
    data, found, end = 8 + length, {}, 0
    for name, entry in table.items():
        if name == "__metadata__":
            continue
        info, start, stop = _entry(entry, f"{name} in {blob.name}")
        if data + stop > blob.size:
            raise DataError(f"{blob.name} is cut short: {name} ends at byte {data + stop:,} of {blob.size:,}")
        found[name], end = Lazy.stored(blob, data + start, info.shape, info.dtype), max(end, stop)
    if data + end != blob.size:
        raise DataError(f"{blob.name} has {blob.size - data - end:,} bytes that its header does not account for")
    return found


def _entry(entry: Any, where: str) -> tuple[TensorInfo, int, int]:
    match entry:
        case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [int(start), int(stop)]}:
            pass
        case _:
            raise DataError(f"{where}: a dtype, a shape and data_offsets are expected, found {str(entry)[:100]}")
    if dtype not in DTYPES:
        raise DataError(f"{where} has dtype {dtype}, which is not read; known: {', '.join(DTYPES)}")
    info = TensorInfo(_shape(shape, where), DTYPES[dtype])
    if not 0 <= start <= stop or stop - start != info.nbytes:
        raise DataError(f"{where} is {list(info.shape)} of {dtype}, {info.nbytes:,} bytes, but has {stop - start:,}")
    return info, start, stop


def _shape(shape: Sequence[Any], where: str) -> tuple[int, ...]:
    if len(shape) > MOST_AXES or not all(type(n) is int and 0 <= n < 2**48 for n in shape):
        raise DataError(f"{where} declares the shape {str(list(shape))[:100]}")
    return tuple(shape)


def npz(blob: Blob) -> dict[str, Lazy]:
    """The arrays of an .npz file. Raises DataError for what is not one, or would grow beyond measure when unpacked."""
    found = {}
    with _zip(blob) as archive:
        for member in archive.infolist():
            name = member.filename.removesuffix(".npy")
            where = f"{name!r} in {blob.name}"
            if name == member.filename or ".." in name.split("/") or name.startswith("/"):
                raise DataError(f"{where} is not an array")
            with archive.open(member) as stream:
                info, fortran, header = _npy_header(stream, where)
            if member.file_size != header + info.nbytes:
                raise DataError(f"{where} is {list(info.shape)}, {info.nbytes:,} bytes, but has {member.file_size:,}")
            strides = [math.prod(info.shape[:axis]) for axis in range(len(info.shape))] if fortran else []
            if member.compress_type == zipfile.ZIP_STORED:
                start = _data_of(blob, member) + header
                found[name] = Lazy.stored(blob, start, info.shape, info.dtype, strides)
            else:
                found[name] = _packed(blob, member, info, header, strides)
    return found


def _npy_header(stream: Any, where: str) -> tuple[TensorInfo, bool, int]:
    try:
        magic = stream.read(8)
        if magic[:6] != b"\x93NUMPY" or magic[6] not in (1, 2, 3):
            raise ValueError("it does not begin like one")
        width = 2 if magic[6] == 1 else 4
        length = int.from_bytes(stream.read(width), "little")
        if length > 2**16:
            raise ValueError(f"its header is {length:,} bytes")
        table = ast.literal_eval(stream.read(length).decode("latin1"))
        kind, fortran, shape = table["descr"], table["fortran_order"], table["shape"]
    except (ValueError, SyntaxError, KeyError, TypeError, IndexError, MemoryError, zipfile.BadZipFile) as error:
        raise DataError(f"{where} is not a numpy array: {error}") from None
    if kind not in _NUMPY:
        raise DataError(f"{where} has dtype {kind!r}; only plain numbers are read, little-endian")
    return TensorInfo(_shape(list(shape), where), _NUMPY[kind]), bool(fortran), 8 + width + length


def _packed(blob: Blob, member: zipfile.ZipInfo, info: TensorInfo, header: int, strides: Sequence[int]) -> Lazy:
    """A compressed array, unpacked as a whole for any part of it."""
    where = f"{member.filename!r} in {blob.name}"
    if member.file_size > min(MOST_UNPACKED, max(2**20, MOST_RATIO * member.compress_size)):
        raise DataError(f"{where} would grow from {member.compress_size:,} to {member.file_size:,} bytes: refused")

    def read(region: tuple[slice, ...]) -> Tensor:
        with _zip(blob) as archive, archive.open(member) as stream:
            try:
                data = stream.read(member.file_size + 1)
            except (zipfile.BadZipFile, EOFError, ValueError, OSError, NotImplementedError) as error:
                raise DataError(f"{where} cannot be unpacked: {error}") from None
        if len(data) != member.file_size:
            raise DataError(f"{where} unpacks to another size than it declares")
        flat = torch.frombuffer(bytearray(data[header:]) or bytearray(1), dtype=torch.uint8)[: info.nbytes]
        flat = flat.view(info.dtype)
        whole = flat.as_strided(info.shape, strides) if strides else flat.view(info.shape)
        return whole[region].contiguous()

    return Lazy(info.shape, info.dtype, read)


def pickled(blob: Blob, allow: Sequence[Any] = ()) -> Any:
    """What a .pt file holds, with a Lazy in the place of every tensor. Raises DataError for one that needs code.

    ``allow`` names the classes, beside plain values, that a pickle of this layout may hold.
    """
    if not _is_zip(blob):
        return _lazily(_load(blob, allow, "cpu"), lambda tensor: Lazy.of(tensor.detach()))
    with _zip(blob) as archive:
        members = archive.infolist()
        if any(member.compress_type != zipfile.ZIP_STORED for member in members):
            raise DataError(f"{blob.name} is compressed, which torch does not write: refused")
        if sum(member.file_size for member in members) > blob.size:
            raise DataError(f"{blob.name} declares more bytes than it has: refused")
        if any(m.filename.endswith("data.pkl") and m.file_size > MOST_HEADER for m in members):
            raise DataError(f"{blob.name} has a pickle of more than {MOST_HEADER:,} bytes beside its tensors: refused")
        if not any(member.filename.endswith("data.pkl") for member in members):
            raise DataError(f"{blob.name} is a zip, but not one of torch's: it has no data.pkl")

    def lazy(tensor: Tensor) -> Lazy:
        storage: Any = tensor.untyped_storage()
        start = storage._checkpoint_offset + tensor.storage_offset() * tensor.dtype.itemsize
        extent = sum((n - 1) * step for n, step in zip(tensor.shape, tensor.stride(), strict=True)) + 1
        stop = start + (extent if tensor.numel() else 0) * tensor.dtype.itemsize
        whole = tensor.numel() * tensor.dtype.itemsize <= blob.size  # else numbers repeat, and could grow without end
        if not 0 <= start <= stop <= blob.size or not whole:
            raise DataError(f"{blob.name} is cut short: a tensor of {list(tensor.shape)} ends at byte {stop:,}")
        return Lazy.stored(blob, start, tensor.shape, tensor.dtype, tensor.stride())

    return _lazily(_load(blob, allow, "meta"), lazy)


def _load(blob: Blob, allow: Sequence[Any], device: str) -> Any:
    stream: Any = blob.stream()
    with stream, torch.serialization.safe_globals(list(allow)):
        try:
            return torch.load(stream, map_location=device, weights_only=True)
        except pickle.UnpicklingError as error:
            reason = str(error).partition("WeightsUnpickler error:")[2].strip().split("\n")[0]
            raise DataError(
                f"{blob.name} holds more than tensors and plain values, and is not opened, since that would run its "
                f"code ({reason or 'unpickling refused it'})"
            ) from None
        except DataError:
            raise
        except Exception as error:
            first = (str(error).splitlines() or [type(error).__name__])[0]
            raise DataError(f"{blob.name} is not a whole file of torch's: {first[:200]}") from None


def _lazily(value: Any, lazy: Callable[[Tensor], Lazy], depth: int = 0) -> Any:
    if depth > 8:
        raise DataError("a .pt file nests tables more than 8 deep: refused")
    if isinstance(value, Tensor):
        if value.layout != torch.strided:
            raise DataError("a .pt file holds a sparse tensor, where dense ones are expected")
        return lazy(value)
    if isinstance(value, Mapping):
        return {key: _lazily(item, lazy, depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_lazily(item, lazy, depth + 1) for item in value]
    return value.item() if isinstance(value, np.generic) else value


def _is_zip(blob: Blob) -> bool:
    return blob.size >= 4 and blob.read(0, 4) == b"PK\x03\x04"


def _zip(blob: Blob) -> zipfile.ZipFile:
    try:
        archive = zipfile.ZipFile(blob.stream())  # type: ignore[arg-type]
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError) as error:
        raise DataError(f"{blob.name} is not a whole zip file: {error}") from None
    if len(archive.infolist()) > MOST_TENSORS:
        raise DataError(f"{blob.name} holds {len(archive.infolist()):,} members, and {MOST_TENSORS:,} are the most")
    return archive


def _data_of(blob: Blob, member: zipfile.ZipInfo) -> int:
    """Byte at which a member's data begins, behind the header that stands before it."""
    head = blob.read(member.header_offset, member.header_offset + 30)
    if head[:4] != b"PK\x03\x04":
        raise DataError(f"{member.filename!r} is not where {blob.name} says it is")
    names, extra = struct.unpack("<HH", head[26:30])
    start = member.header_offset + 30 + names + extra
    if start + member.file_size > blob.size:
        raise DataError(f"{blob.name} is cut short: {member.filename!r} ends after its last byte")
    return start
