from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from monoscope.core.errors import DataError
from monoscope.harvest.text import files
from monoscope.harvest.text.files import find_files, read_documents

TEXTS = ["first", "zweiter Ä", "third\nwith a line"]


def jsonl(texts: list[str], field: str = "text") -> str:
    return "".join(json.dumps({"id": i, field: text}) + "\n" for i, text in enumerate(texts))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "deep").mkdir()
    (tmp_path / "b.txt").write_text("second file", encoding="utf-8")
    (tmp_path / "a.txt").write_text("first file", encoding="utf-8")
    (tmp_path / "deep" / "c.txt").write_text("deep file", encoding="utf-8")
    (tmp_path / "rows.jsonl").write_text(jsonl(TEXTS), encoding="utf-8")
    with gzip.open(tmp_path / "rows.jsonl.gz", "wt", encoding="utf-8") as file:
        file.write(jsonl(TEXTS))
    parquet.write_table(pa.table({"text": TEXTS, "n": [1, 2, 3]}), tmp_path / "rows.parquet")
    return tmp_path


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz", "rows.parquet"])
def test_every_row_is_a_document(folder: Path, name: str) -> None:
    assert list(read_documents(folder / name, "text")) == TEXTS


def test_globs_cross_directories_in_order_and_name_each_file_once(folder: Path) -> None:
    found = find_files([str(folder / "b.txt"), str(folder / "**/*.txt")])
    assert [path.name for path in found] == ["b.txt", "a.txt", "c.txt"]


def test_a_file_whose_name_looks_like_a_glob_is_that_file(tmp_path: Path) -> None:
    (tmp_path / "x[1].txt").write_text("text")
    assert [path.name for path in find_files([str(tmp_path / "x[1].txt")])] == ["x[1].txt"]


def test_a_byte_order_mark_and_carriage_returns_are_not_text(tmp_path: Path) -> None:
    (tmp_path / "w.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo\r\n")
    assert list(read_documents(tmp_path / "w.txt", "text")) == ["one\ntwo\n"]


def test_a_long_text_file_is_read_in_pieces_that_end_at_line_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "PIECE_BYTES", 100)
    text = "".join(f"line {i}\n" for i in range(100))
    (tmp_path / "long.txt").write_text(text)
    pieces = list(read_documents(tmp_path / "long.txt", "text"))
    assert "".join(pieces) == text
    assert len(pieces) > 5
    assert all(piece.endswith("\n") and len(piece) < 120 for piece in pieces)


def test_documents_are_read_one_at_a_time(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(jsonl(["good"]) + "broken\n")
    documents = read_documents(tmp_path / "rows.jsonl", "text")
    assert next(documents) == "good"
    with pytest.raises(DataError, match="line 2, is not JSON"):
        next(documents)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"good\n\xff\xfebad\n", "a.txt, line 2: byte 0xff is not UTF-8"),
        ("a.txt", b"", "a.txt holds no text"),
        ("a.jsonl", b'{"text": "x"}\n\n{"text": "\xff"}\n', "a.jsonl, line 3: byte 0xff is not UTF-8"),
        ("a.jsonl", b'{"text": "x"}\n{"text": 1}\n', "a.jsonl, line 2: field 'text' is a number, not text"),
        ("a.jsonl", b'{"text": null}\n', "a.jsonl, line 1: field 'text' is null"),
        ("a.jsonl", b'{"txt": "x"}\n', "a.jsonl, line 1: no field 'text'; did you mean 'txt'"),
        ("a.jsonl", b'["x"]\n', "a.jsonl, line 1: expected an object with a field 'text', found a list"),
        ("a.jsonl", b'{"text": ""}\n\n', "a.jsonl holds no text"),
        ("a.jsonl.gz", gzip.compress(b'{"text": "x"}\n' * 999, mtime=0)[:-9], "not a whole gzip file"),
        ("a.jsonl.gz", b"not gzip", "not a whole gzip file"),
        ("a.parquet", b"PAR1 but no more", "not a whole Parquet file"),
    ],
)
def test_bad_files_are_named_with_the_line(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message.replace("(", r"\(")):
        list(read_documents(tmp_path / name, "text"))


def test_bad_columns_of_parquet_are_named(folder: Path) -> None:
    with pytest.raises(DataError, match="no field 'texts'; did you mean 'text'"):
        list(read_documents(folder / "rows.parquet", "texts"))
    with pytest.raises(DataError, match="field 'n' is int64, not text"):
        list(read_documents(folder / "rows.parquet", "n"))
    parquet.write_table(pa.table({"text": ["a", None]}), folder / "null.parquet")
    with pytest.raises(DataError, match="null.parquet, row 1: field 'text' is null"):
        list(read_documents(folder / "null.parquet", "text"))


def test_bytes_in_parquet_that_are_not_utf8_are_an_error(tmp_path: Path) -> None:
    texts = pa.array([b"good", b"\xff"], pa.binary()).cast(pa.string(), safe=False)
    column = pa.Array.from_buffers(pa.string(), 2, texts.buffers())
    parquet.write_table(pa.table({"text": column}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="field 'text' is not UTF-8"):
        list(read_documents(tmp_path / "a.parquet", "text"))


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("missing.txt", "no file at .*missing.txt"),
        ("row.jsonl", "no file at .*row.jsonl; did you mean 'rows.jsonl'"),
        ("nowhere/a.txt", "nor a directory at"),
        ("*.text", "no file matches"),
        ("deep", "is a directory; name its files"),
    ],
)
def test_paths_that_lead_nowhere_are_errors(folder: Path, pattern: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        find_files([str(folder / pattern)])


def test_a_suffix_that_is_not_understood_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_text("x")
    with pytest.raises(DataError, match=r"a.pdf is none of .txt, .jsonl, .jsonl.gz, .parquet"):
        find_files([str(tmp_path / "a.pdf")])
