"""Files of tensors: read as their own libraries read them, and refused where they lie or would harm."""

from __future__ import annotations

import io
import json
import os
import struct
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from monoscope.formats.blob import FileBlob
from monoscope.formats.lazy import Lazy
from monoscope.formats.tensor_files import MOST_HEADER, pickled, tensors_of

W = torch.randn(6, 10, generator=torch.Generator().manual_seed(1))
TENSORS = {
    "W": W,
    "half": W.half(),
    "bf": W.bfloat16(),
    "n": torch.tensor([3, 1], dtype=torch.int64),
    "u": torch.tensor([7, 65535], dtype=torch.uint16),
    "on": torch.tensor([True, False]),
    "scalar": torch.tensor(2.5, dtype=torch.float64),
    "none": torch.zeros(0, 4),
}


def made(kind: str, path: Path) -> dict[str, torch.Tensor]:
    tensors = dict(TENSORS)
    if kind == "safetensors":
        save_file(tensors, path)
    elif kind.endswith("npz"):
        del tensors["bf"]
        save = np.savez_compressed if kind.startswith("packed") else np.savez
        with path.open("wb") as file:
            save(file, **{name: tensor.numpy() for name, tensor in tensors.items()}, T=np.asfortranarray(W.numpy()))
        tensors["T"] = W
    else:
        tensors |= {"T": W.T, "part": W[2:4, 1:]}
        del tensors["u"]  # the old pickles do not know it
        torch.save(tensors, path, _use_new_zipfile_serialization=not kind.startswith("old"))
    return tensors


@pytest.mark.parametrize("kind", ["safetensors", "npz", "packed.npz", "pt", "old.pt"])
def test_every_tensor_is_read_as_it_was_written(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"x.{kind}"
    expected = made(kind, path)
    found = tensors_of(FileBlob(path))
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        lazy = found[name]
        assert (lazy.shape, lazy.dtype) == (tuple(tensor.shape), tensor.dtype), name
        assert torch.equal(lazy.read(), tensor), name
        if tensor.ndim == 2 and len(tensor) > 1:
            assert torch.equal(lazy.rows([1]), tensor[1:2]), name


def test_what_is_no_file_of_tensors_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("words")
    with pytest.raises(ValueError, match=r"x\.txt is no file of tensors"):
        tensors_of(FileBlob(tmp_path / "x.txt"))


@pytest.mark.parametrize("kind", ["safetensors", "npz", "packed.npz", "pt", "old.pt"])
def test_a_file_cut_short_is_refused_by_name(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"x.{kind}"
    made(kind, path)
    for left in (0, 3, 40, path.stat().st_size // 2, path.stat().st_size - 1):
        path.write_bytes(path.read_bytes()[:left])
        with pytest.raises(ValueError, match=rf"x\.{kind}"):
            for lazy in tensors_of(FileBlob(path)).values():
                lazy.read()
        made(kind, path)


def header(path: Path, table: Any, data: bytes = b"", length: int | None = None) -> FileBlob:
    text = table if isinstance(table, bytes) else json.dumps(table).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return FileBlob(path)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (b"{not json", "its header is not JSON"),
        (b"[" * 5000, "its header is not JSON"),
        ([1], "not a table of tensors"),
        ({"x": 3}, "a dtype, a shape and data_offsets are expected"),
        ({"x": {"dtype": "F4", "shape": [1], "data_offsets": [0, 4]}}, "dtype F4"),
        ({"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}, "8 bytes, but has 4"),
        ({"x": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}, "declares the shape"),
        ({"x": {"dtype": "F32", "shape": [1] * 9, "data_offsets": [0, 4]}}, "declares the shape"),
        ({"x": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}, "is cut short"),
        ({"x": {"dtype": "F32", "shape": [], "data_offsets": [-4, 0]}}, "4 bytes, but has 4"),
        ({}, "bytes that its header does not account for"),
    ],
)
def test_safetensors_that_contradict_themselves_are_refused(table: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=said):
        tensors_of(header(tmp_path / "x.safetensors", table, b"\0\0\0\0"))


def test_a_header_of_a_hundred_megabytes_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    header(path, b"{}", length=100_000_000)
    os.truncate(path, 200_000_000)
    with pytest.raises(ValueError, match=f"header of 100,000,000 bytes, and {MOST_HEADER:,}"):
        tensors_of(FileBlob(path))


class Harm:
    """Unpickled, it would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return subprocess.call, (["touch", str(self.path)],)


@pytest.mark.parametrize("modern", [True, False])
def test_a_pickle_with_code_is_refused_and_not_run(modern: bool, tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    torch.save({"W": W, "more": Harm(tmp_path / "ran")}, path, _use_new_zipfile_serialization=modern)
    with pytest.raises(ValueError, match=r"x\.pt holds more than tensors and plain values"):
        tensors_of(FileBlob(path))
    assert not (tmp_path / "ran").exists()


class Settings:
    """A class that a layout may allow."""

    def __init__(self, k: int) -> None:
        self.k = k


def test_classes_are_opened_where_a_layout_names_them(tmp_path: Path) -> None:
    torch.save({"W": W, "cfg": {"k": 3, "of": [Settings(4), W]}}, tmp_path / "x.pt")
    with pytest.raises(ValueError, match="Settings"):
        pickled(FileBlob(tmp_path / "x.pt"))
    value = pickled(FileBlob(tmp_path / "x.pt"), [Settings])
    assert value["cfg"]["k"] == 3
    assert value["cfg"]["of"][0].k == 4
    assert isinstance(value["cfg"]["of"][1], Lazy)


def test_numbers_that_repeat_do_not_grow_a_file(tmp_path: Path) -> None:
    torch.save({"W": torch.zeros(1).expand(10**12)}, tmp_path / "x.pt")
    with pytest.raises(ValueError, match="cut short"):
        tensors_of(FileBlob(tmp_path / "x.pt"))


def test_an_npz_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    big = io.BytesIO()
    np.lib.format.write_array_header_1_0(big, {"descr": "<f4", "fortran_order": False, "shape": (50_000_000,)})
    with zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_DEFLATED) as archive, archive.open("W.npy", "w") as out:
        out.write(big.getvalue())
        for _ in range(200):
            out.write(bytes(1_000_000))
    with pytest.raises(ValueError, match=r"'W.npy' in .*x\.npz would grow from .* to 200,000,\d\d\d bytes"):
        tensors_of(FileBlob(tmp_path / "x.npz"))


def test_npz_members_that_lie_are_refused(tmp_path: Path) -> None:
    def written(name: str, data: bytes) -> FileBlob:
        with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
            archive.writestr(name, data)
        return FileBlob(tmp_path / "x.npz")

    good = io.BytesIO()
    np.save(good, np.zeros(3, np.float32))
    objects = io.BytesIO()
    np.save(objects, np.array([{}], dtype=object), allow_pickle=True)
    for name, data, said in [
        ("W.txt", good.getvalue(), "is not an array"),
        ("../W.npy", good.getvalue(), "is not an array"),
        ("W.npy", good.getvalue()[:-4], "12 bytes, but has"),
        ("W.npy", b"words, and more of them", "not a numpy array"),
        ("W.npy", objects.getvalue(), "only plain numbers"),
        ("W.npy", good.getvalue().replace(b"<f4", b"<q4"), "only plain numbers"),
    ]:
        with pytest.raises(ValueError, match=said):
            tensors_of(written(name, data))


def test_a_packed_or_foreign_zip_is_no_pt(tmp_path: Path) -> None:
    torch.save({"W": W}, tmp_path / "good.pt")
    with zipfile.ZipFile(tmp_path / "good.pt") as good, zipfile.ZipFile(tmp_path / "x.pt", "w", 8) as packed:
        for member in good.infolist():
            packed.writestr(member.filename, good.read(member))
    with pytest.raises(ValueError, match="compressed"):
        tensors_of(FileBlob(tmp_path / "x.pt"))
    with zipfile.ZipFile(tmp_path / "y.pt", "w") as foreign:
        foreign.writestr("words.txt", "words")
    with pytest.raises(ValueError, match=r"no data\.pkl"):
        tensors_of(FileBlob(tmp_path / "y.pt"))


@pytest.mark.parametrize("kind", ["pt", "npz"])
def test_headers_cost_no_numbers(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, big = tmp_path / f"x.{kind}", torch.ones(1000, 1000)
    if kind == "pt":
        torch.save({"W": big}, path)
    else:
        np.savez(path, W=big.numpy())
    read: list[int] = []
    into = FileBlob.into

    def counting(self: FileBlob, spans: Any, buffer: memoryview) -> None:
        read.append(len(buffer))
        into(self, spans, buffer)

    monkeypatch.setattr(FileBlob, "into", counting)
    lazy = tensors_of(FileBlob(path))["W"]
    assert sum(read) < 200_000 < big.nbytes
    read.clear()
    assert torch.equal(lazy.t().rows([3]), big[:1])
    assert sum(read) == 4000
