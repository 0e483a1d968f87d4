"""The table of features as a file: CSV that no spreadsheet takes for formulas, and an Arrow stream."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
from jaxtyping import UInt32

from monoscope.server.table.added import Added
from monoscope.server.table.columns import ADDED, indices

BLOCK = 10_000
FORMULA = ("=", "+", "-", "@", "\t", "\r")
TYPES = {"tags": pa.list_(pa.string()), "score": pa.float64(), "bookmarked": pa.bool_()}


def blocks(table: pa.Table, added: Added, names: list[str], order: UInt32[np.ndarray, " n"]) -> Iterator[pa.Table]:
    """The rows of an order, a few thousand at a time; one empty block where there are none."""
    for start in range(0, max(len(order), 1), BLOCK):
        rows = order[start : start + BLOCK]
        ids = rows.tolist()
        picked = table.select([name for name in names if name not in ADDED]).take(indices(rows))
        columns: dict[str, pa.Array | pa.ChunkedArray] = {"feature": indices(rows)}
        for name in names:
            is_added = name in ADDED
            columns[name] = (
                pa.array(added.column(name, ids), TYPES.get(name, pa.string())) if is_added else picked.column(name)
            )
        yield pa.table(columns)


def csv_stream(table: pa.Table, added: Added, names: list[str], order: UInt32[np.ndarray, " n"]) -> Iterator[bytes]:
    """CSV with a header; tags with semicolons between them."""
    yield _line(["feature", *names])
    for block in blocks(table, added, names, order):
        columns = [_shortest(column) for column in block.columns]
        yield b"".join(_line([_cell(value) for value in row]) for row in zip(*columns, strict=True))


def arrow_stream(table: pa.Table, added: Added, names: list[str], order: UInt32[np.ndarray, " n"]) -> Iterator[bytes]:
    """Record batches in Arrow's stream format."""
    sink = io.BytesIO()
    writer = None
    for block in blocks(table, added, names, order):
        writer = writer or pa.ipc.new_stream(sink, block.schema)
        writer.write_table(block)
        yield _taken(sink)
    if writer is not None:
        writer.close()
    yield _taken(sink)


def safe_cell(text: str) -> str:
    """Text that a spreadsheet shows and does not run: an apostrophe stands before what would begin a formula."""
    return f"'{text}" if text.lstrip().startswith(FORMULA) or text.startswith(FORMULA) else text


def _cell(value: object) -> object:
    if isinstance(value, list):
        value = ";".join(map(str, value))
    return safe_cell(value) if isinstance(value, str) else "" if value is None else value


def _shortest(column: pa.ChunkedArray) -> list[object]:
    """Values in the fewest digits that give them back."""
    if pa.types.is_float32(column.type):
        return [None if text == "nan" else float(text) for text in column.to_numpy().astype(str).tolist()]
    return column.to_pylist()


def _line(cells: list[object] | list[str]) -> bytes:
    out = io.StringIO()
    csv.writer(out, lineterminator="\r\n").writerow(cells)
    return out.getvalue().encode("utf-8", "replace")


def _taken(sink: io.BytesIO) -> bytes:
    data = sink.getvalue()
    sink.seek(0)
    sink.truncate()
    return data
