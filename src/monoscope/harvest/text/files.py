"""Documents of text files, streamed: .txt, .jsonl, .jsonl.gz, .parquet. What is wrong is named by file and line."""

from __future__ import annotations

import glob
import gzip
import json
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from monoscope.core.errors import DataError, nearest

PIECE_BYTES = 2**20  # a longer .txt file is read as several documents, each ending at a line end


def find_files(patterns: Iterable[str]) -> list[Path]:
    """Files of paths and globs (``**`` crosses directories), each once, those of a glob sorted by name.

    Raises DataError for a path that is missing, a glob that matches no file, and a suffix that is not understood.
    """
    found: dict[Path, None] = {}
    for pattern in patterns:
        if glob.has_magic(pattern) and not Path(pattern).exists():
            matches = [Path(name) for name in sorted(glob.glob(pattern, recursive=True)) if Path(name).is_file()]
            if not matches:
                raise DataError(f"no file matches {pattern!r}")
        elif Path(pattern).is_dir():
            raise DataError(f"{pattern} is a directory; name its files, as in '{pattern.rstrip('/')}/**/*.txt'")
        elif not Path(pattern).is_file():
            raise DataError(f"no file at {pattern}; {_neighbors(Path(pattern))}")
        else:
            matches = [Path(pattern)]
        found |= dict.fromkeys(matches)
    for path in found:
        _reader(path)
    return list(found)


def read_documents(path: Path, field: str) -> Iterator[str]:
    """The documents of one file: the whole of a .txt, the ``field`` of each line or row otherwise.

    Documents without any character are skipped. Raises DataError for bytes that are not UTF-8, lines that are not
    JSON, a field that is missing or no text, and a file that is broken or holds no text at all.
    """
    empty = True
    try:
        for text in _reader(path)(path, field):
            if text:
                empty = False
                yield text
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from None
    if empty:
        raise DataError(f"{path} holds no text")


def _reader(path: Path) -> Callable[[Path, str], Iterator[str]]:
    for suffix, reader in READERS.items():
        if path.name.endswith(suffix):
            return reader
    raise DataError(f"{path} is none of {', '.join(READERS)}; rename or convert it")


def _neighbors(path: Path) -> str:
    if not path.parent.is_dir():
        return f"nor a directory at {path.parent}"
    return nearest(path.name, [other.name for other in path.parent.iterdir()] or ["nothing"])


def _decode(data: bytes, path: Path, line: int) -> str:
    try:
        return data.decode("utf-8-sig" if line == 1 else "utf-8")
    except UnicodeDecodeError as error:
        line += data.count(b"\n", 0, error.start)
        raise DataError(
            f"{path}, line {line}: byte 0x{data[error.start]:02x} is not UTF-8; convert the file to UTF-8"
        ) from None


def _read_txt(path: Path, field: str) -> Iterator[str]:
    line = 1
    with path.open("rb") as file:
        while lines := file.readlines(PIECE_BYTES):
            yield _decode(b"".join(lines), path, line).replace("\r\n", "\n")
            line += len(lines)


def read_values(path: Path, field: str) -> Iterator[tuple[str, Any]]:
    """What ``field`` holds in each line of a .jsonl or .jsonl.gz file, behind the place of the line in words.

    Raises DataError for bytes that are not UTF-8, lines that are not JSON objects, a field that is missing, and a file
    that is broken.
    """
    try:
        with gzip.open(path, "rb") if path.name.endswith(".gz") else path.open("rb") as lines:
            yield from _json_values(lines, path, field)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path} is not a whole gzip file ({error}); copy or make it again") from None
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from None


def _json_values(lines: Iterable[bytes], path: Path, field: str) -> Iterator[tuple[str, Any]]:
    for line, data in enumerate(lines, start=1):
        text = _decode(data, path, line)
        if not text.strip():
            continue
        try:
            row = json.loads(text)
        except json.JSONDecodeError as error:
            raise DataError(f"{path}, line {line}, is not JSON: {error.msg} at column {error.colno}") from None
        if not isinstance(row, dict):
            raise DataError(f"{path}, line {line}: expected an object with a field {field!r}, found {_kind(row)}")
        if field not in row:
            raise DataError(f"{path}, line {line}: no field {field!r}; {nearest(field, row)}")
        yield f"{path}, line {line}", row[field]


def _read_jsonl(path: Path, field: str) -> Iterator[str]:
    for place, value in read_values(path, field):
        if not isinstance(value, str):
            raise DataError(f"{place}: field {field!r} is {_kind(value)}, not text")
        yield value


def _read_parquet(path: Path, field: str) -> Iterator[str]:
    import pyarrow
    from pyarrow import parquet

    row = 0
    try:
        with parquet.ParquetFile(path) as file:
            schema = file.schema_arrow
            if field not in schema.names:
                raise DataError(f"{path}: no field {field!r}; {nearest(field, schema.names)}")
            kind = schema.field(field).type
            if not (pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind)):
                raise DataError(f"{path}: field {field!r} is {kind}, not text")
            for batch in file.iter_batches(batch_size=1024, columns=[field]):
                for text in batch.column(0).to_pylist():
                    if text is None:
                        raise DataError(f"{path}, row {row}: field {field!r} is null, not text")
                    yield text
                    row += 1
    except pyarrow.ArrowInvalid as error:
        raise DataError(f"{path} is not a whole Parquet file ({str(error).splitlines()[0]})") from None
    except UnicodeDecodeError:
        raise DataError(f"{path}, after row {row}: field {field!r} is not UTF-8") from None


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "a boolean", int: "a number", float: "a number"}
    return names.get(type(value), "null")


READERS: dict[str, Callable[[Path, str], Iterator[str]]] = {
    ".txt": _read_txt,
    ".jsonl": _read_jsonl,
    ".jsonl.gz": _read_jsonl,
    ".parquet": _read_parquet,
}
