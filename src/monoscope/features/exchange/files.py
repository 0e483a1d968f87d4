"""JSON of other tools, read within bounds: no file above 1 GB, nothing nested deeper than 32, no NaN."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from monoscope.core.errors import DataError

MAX_BYTES, MAX_DEPTH = 2**30, 32


def read_json(path: Path) -> Any:
    """The value of a JSON file, ``.gz`` or plain."""
    return parsed(_bytes(path), path)


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a file of JSON lines, ``.gz`` or plain."""
    for number, line in enumerate(_bytes(path).split(b"\n"), start=1):
        if line.strip():
            value = parsed(line, f"{path}, line {number}")
            if not isinstance(value, dict):
                raise DataError(f"{path}, line {number} holds a {type(value).__name__}, not an object")
            yield value


def parsed(data: bytes, where: Path | str) -> Any:
    """The value of JSON text. Raises DataError, saying where, for what is not JSON or nests too deep."""
    try:
        value = json.loads(data, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where} is not JSON that can be read: {error}") from None
    if _depth(value) > MAX_DEPTH:
        raise DataError(f"{where} is nested deeper than {MAX_DEPTH}")
    return value


def inflate(data: bytes, where: Path | str) -> bytes:
    """Uncompressed bytes of a zlib stream, within bounds."""
    stream = zlib.decompressobj()
    try:
        out = stream.decompress(data, MAX_BYTES)
    except zlib.error as error:
        raise DataError(f"{where} is not a zlib stream: {error}") from None
    if stream.unconsumed_tail:
        raise DataError(f"{where} unpacks to more than {MAX_BYTES:,} bytes")
    return out


def _bytes(path: Path) -> bytes:
    try:
        if path.suffix != ".gz":
            if (size := path.stat().st_size) > MAX_BYTES:
                raise DataError(f"{path} has {size:,} bytes, and {MAX_BYTES:,} is the most that is read")
            return path.read_bytes()
        with gzip.open(path) as file:
            data = file.read(MAX_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {error}") from None
    if len(data) > MAX_BYTES:
        raise DataError(f"{path} unpacks to more than {MAX_BYTES:,} bytes")
    return data


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def _depth(value: Any) -> int:
    deepest, level = 0, [value]
    while level and deepest <= MAX_DEPTH:
        deepest += 1
        inner: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                inner += [v for v in item.values() if isinstance(v, (dict, list))]
            elif isinstance(item, list):
                inner += [v for v in item if isinstance(v, (dict, list))]
        level = inner
    return deepest
