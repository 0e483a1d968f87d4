"""Files are whole or absent, and refusals say what to do."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import SafetensorError

from monoscope.core import io
from monoscope.core.errors import DataError, OutputError


def listing(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.iterdir())


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file.txt"
    io.write_text(path, "old")
    with pytest.raises(RuntimeError), io.atomic_path(path) as partial:
        partial.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert listing(path.parent) == ["file.txt"]


def test_a_killed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    io.write_tensors(path, {"x": torch.zeros(3)})
    script = (
        "import os, pathlib, sys; from monoscope.core.io import atomic_path\n"
        "with atomic_path(pathlib.Path(sys.argv[1])) as partial:\n"
        "    partial.write_bytes(b'half'); os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(path)], check=False)
    assert done.returncode == -9
    assert io.read_tensors(path)["x"].tolist() == [0.0, 0.0, 0.0]


def test_tensors_read_back(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    tensors = {
        "transposed": torch.arange(6.0).view(2, 3).T,
        "half": torch.ones(2, dtype=torch.bfloat16),
        "scalar": torch.tensor(3),
        "empty": torch.zeros(0, 4),
        "grad": torch.ones(2, requires_grad=True),
    }
    io.write_tensors(path, tensors, {"note": "a"})
    back = io.read_tensors(path)
    assert back.keys() == tensors.keys()
    assert all(torch.equal(back[name], tensor) and back[name].dtype == tensor.dtype for name, tensor in tensors.items())


def test_truncated_and_foreign_tensors(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    with pytest.raises(DataError, match="no file at"):
        io.read_tensors(path)
    io.write_tensors(path, {"x": torch.zeros(100)})
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(DataError, match="not a whole safetensors file"):
        io.read_tensors(path)
    path.write_bytes(b"PK\x03\x04 something else")
    with pytest.raises(DataError, match="not a whole safetensors file"):
        io.read_tensors(path)


def test_json_refuses_what_json_cannot_say(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    with pytest.raises(ValueError, match="JSON"):
        io.write_json(path, {"fvu": float("nan")})
    assert listing(tmp_path) == []


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    path = tmp_path / "file.txt"
    io.write_text(path, "old")

    def full(_: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match=r"disk that holds .*file.txt is full"):
        io.write_text(path, "new")
    assert path.read_text() == "old"
    assert listing(tmp_path) == ["file.txt"]


def test_a_disk_that_fills_under_tensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "w.safetensors"

    def full(*_: object) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    with pytest.raises(OutputError, match=r"disk that holds .*w.safetensors is full"):
        io.write_tensors(path, {"x": torch.zeros(3)})
    assert listing(tmp_path) == []


def test_tensors_are_as_readable_as_other_files(tmp_path: Path) -> None:
    io.write_tensors(tmp_path / "w.safetensors", {"x": torch.zeros(3)})
    (tmp_path / "plain").touch()
    assert (tmp_path / "w.safetensors").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_file_in_the_way_of_a_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"cannot write .*choose another place"):
        io.write_text(tmp_path / "file" / "x.txt", "")
    with pytest.raises(OutputError, match="cannot write"), io.output_directory(tmp_path / "file" / "run"):
        pass
    with pytest.raises(OutputError, match="cannot write"), io.owned(tmp_path / "file"):
        pass


def test_a_name_too_long(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="too long"):
        io.write_text(tmp_path / ("x" * 300), "")


def test_an_unreadable_input_is_not_blamed_on_the_output(tmp_path: Path) -> None:
    source = tmp_path / "elsewhere" / "text.txt"
    with pytest.raises(PermissionError), io.output_directory(tmp_path / "out" / "run"):
        raise PermissionError(errno.EACCES, "Permission denied", str(source))


def test_output_directories_are_whole_or_absent(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(RuntimeError), io.output_directory(out) as partial:
        (partial / "half").write_text("")
        raise RuntimeError
    assert listing(tmp_path) == []
    with io.output_directory(out) as partial:
        (partial / "a").write_text("1")
        assert not out.exists()
    assert listing(out) == ["a"]
    assert listing(tmp_path) == ["run"]


def test_what_exists_is_kept_unless_forced(tmp_path: Path) -> None:
    out = tmp_path / "run"
    out.mkdir()
    with io.output_directory(out) as partial:  # an empty directory is nothing
        (partial / "a").write_text("1")
    with pytest.raises(OutputError, match="--force"), io.output_directory(out):
        pass
    with pytest.raises(RuntimeError), io.output_directory(out, force=True):
        raise RuntimeError
    assert listing(out) == ["a"]
    with io.output_directory(out, force=True) as partial:
        (partial / "b").write_text("2")
    assert listing(out) == ["b"]
    assert listing(tmp_path) == ["run"]


def test_a_file_is_replaced_only_by_force(tmp_path: Path) -> None:
    out = tmp_path / "run"
    out.write_text("a file")
    with pytest.raises(OutputError, match="exists"), io.output_directory(out):
        pass
    with io.output_directory(out, force=True) as partial:
        (partial / "a").write_text("1")
    assert listing(out) == ["a"]


@pytest.mark.parametrize("name", [".", "..", "../.."])
def test_the_current_directory_is_never_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    here = tmp_path / "a" / "b"
    here.mkdir(parents=True)
    monkeypatch.chdir(here)
    with pytest.raises(OutputError, match="where this command runs"), io.output_directory(Path(name), force=True):
        pass
    assert here.is_dir()


def test_one_owner_at_a_time(tmp_path: Path) -> None:
    directory = tmp_path / "run"
    script = (
        "import pathlib, sys; from monoscope.core.io import owned; from monoscope.core.errors import OutputError\n"
        "try:\n"
        "    with owned(pathlib.Path(sys.argv[1])): print('mine')\n"
        "except OutputError as error: print(error)\n"
    )

    def other() -> str:
        return subprocess.run([sys.executable, "-c", script, str(directory)], capture_output=True, text=True).stdout

    with io.owned(directory):
        assert f"in use by process {os.getpid()}" in other()
    assert other() == "mine\n"


def test_an_owner_that_leaves_nothing_leaves_no_directory(tmp_path: Path) -> None:
    directory = tmp_path / "run"
    with pytest.raises(RuntimeError), io.owned(directory):
        raise RuntimeError
    assert listing(tmp_path) == []
    with io.owned(directory):
        (directory / "weights").write_text("")
    assert listing(directory) == [".lock", "weights"]
    (directory / "weights").unlink()
    io.refuse_existing(directory)  # what a killed process left behind is nothing
    with io.owned(directory):
        pass
    assert listing(tmp_path) == ["run"]


def test_remove(tmp_path: Path) -> None:
    (tmp_path / "d" / "e").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "d")
    io.remove(tmp_path / "link")
    assert (tmp_path / "d").is_dir()
    io.remove(tmp_path / "d")
    io.remove(tmp_path / "absent")
    assert listing(tmp_path) == []


def test_manifests(tmp_path: Path) -> None:
    io.write_manifest(tmp_path, "monoscope.test", 2, {"n": 3})
    manifest = io.read_manifest(tmp_path, "monoscope.test", 2)
    assert manifest["n"] == 3
    assert manifest["generator"]["name"] == "monoscope"
    with pytest.raises(DataError, match=r"holds 'monoscope.test', not 'monoscope.other'"):
        io.read_manifest(tmp_path, "monoscope.other", 2)
    with pytest.raises(DataError, match="version 2, and this monoscope reads up to 1; it was written by monoscope"):
        io.read_manifest(tmp_path, "monoscope.test", 1)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "no manifest.json"),
        ("{", "not JSON"),
        ("[]", "holds 'list'"),
        ('{"schema": "monoscope.test"}', "states no schema_version"),
        ('{"schema": "monoscope.test", "schema_version": "1"}', "states no schema_version; found '1'"),
    ],
)
def test_broken_manifests(tmp_path: Path, content: str | None, says: str) -> None:
    if content is not None:
        (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(DataError, match=says):
        io.read_manifest(tmp_path, "monoscope.test", 1)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(json_values)
def test_fingerprints_survive_files(value: object) -> None:
    assert io.fingerprint(json.loads(json.dumps(value))) == io.fingerprint(value)


def test_fingerprints_ignore_the_order_of_keys_and_nothing_else() -> None:
    assert io.fingerprint({"a": 1, "b": 2}) == io.fingerprint({"b": 2, "a": 1})
    assert len({io.fingerprint(value) for value in ({"a": 1}, {"a": 1.0}, {"a": "1"}, [1], 1, None)}) == 6


def test_fingerprints_of_tensors() -> None:
    x = torch.arange(4.0)
    same = io.fingerprint_tensors({"a": x, "b": torch.tensor(1.5)})
    assert same == io.fingerprint_tensors({"b": torch.tensor(1.5), "a": x.clone()})
    assert same == io.fingerprint_tensors({"b": torch.tensor(1.5), "a": torch.stack([x, x], 1)[:, 0]})
    others = [
        {"a": x},
        {"a": x, "c": torch.tensor(1.5)},
        {"a": x.view(2, 2), "b": torch.tensor(1.5)},
        {"a": x.double(), "b": torch.tensor(1.5)},
        {"a": x + 1, "b": torch.tensor(1.5)},
        {"a": x.bfloat16(), "b": torch.tensor(1.5)},
    ]
    assert len({same, *(io.fingerprint_tensors(other) for other in others)}) == 7


def test_sha256_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"abc")
    assert io.sha256_file(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
