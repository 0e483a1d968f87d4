"""How kernels are built and kept, and what happens where they cannot be."""

from __future__ import annotations

import logging
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from monoscope import ops
from monoscope.ops import reference
from monoscope.ops.native import Kernels, building, loading
from monoscope.ops.native.building import Unavailable


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, in a process that has not asked for kernels yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("MONOSCOPE_NATIVE", raising=False)
    monkeypatch.setattr(loading, "_loaded", [])
    return tmp_path / "cache" / "monoscope" / "native"


@pytest.fixture
def compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A compiler that takes its time, counts its calls, and writes what it was asked for."""
    script = tmp_path / "compiler"
    lines = ["#!/bin/sh", f"echo called >> {tmp_path}/calls", "sleep 0.3"]
    lines += ['while [ "$1" != -o ]; do shift; done', 'echo built > "$2"']
    script.write_text("\n".join(lines) + "\n")
    script.chmod(0o755)
    monkeypatch.setenv("CXX", str(script))
    return script


def _encode() -> None:
    torch.manual_seed(0)
    x, W, b = torch.randn(30, 8), torch.randn(40, 8).T, torch.randn(40)
    acts = ops.encode(x, W, b, ops.TopKPerToken(4))
    torch.testing.assert_close(acts.dense(), reference.encode(x, W, b, ops.TopKPerToken(4)))
    torch.testing.assert_close(ops.decode(acts, W.T), acts.dense() @ W.T)


def test_without_a_compiler_pytorch_serves_and_says_so_once(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    _encode()
    _encode()
    assert loading.kernels() is None
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "no C++ compiler (c++, g++ or clang++) is on PATH; install one" in record.getMessage()
    assert not cache.exists()


def test_a_compiler_that_fails_is_quoted(cache: Path, compiler: Path, caplog: pytest.LogCaptureFixture) -> None:
    compiler.write_text("#!/bin/sh\necho 'kernels.cpp:1:1: error: no such flag' >&2\nexit 1\n")
    _encode()
    (record,) = caplog.records
    assert "kernels.cpp:1:1: error: no such flag" in record.getMessage()
    assert not list(cache.iterdir())


def test_what_is_no_library_of_this_system_is_not_loaded(
    cache: Path, compiler: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _encode()
    (record,) = caplog.records
    assert "could not be loaded" in record.getMessage()


def test_asked_for_none_nothing_is_built_and_nothing_said(
    cache: Path, compiler: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MONOSCOPE_NATIVE", "0")
    _encode()
    assert loading.kernels() is None
    assert not caplog.records
    assert not cache.exists()


def test_kernels_can_be_left_out_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "_loaded", [])
    some = object.__new__(Kernels)
    monkeypatch.setattr(loading, "_load_or_say_why", lambda: some)
    for _ in range(2):
        with loading.pure_pytorch():
            assert loading.kernels() is None
        assert loading.kernels() is some


def test_a_build_is_kept_and_another_compiler_or_instruction_set_is_another_build(
    cache: Path, compiler: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = building.build("portable")
    assert building.build("portable") == first
    assert (tmp_path / "calls").read_text().count("called") == 1
    other = building.build("AVX2")
    second = shutil.copy2(compiler, tmp_path / "other")
    monkeypatch.setenv("CXX", str(second))
    assert len({first, other, building.build("portable")}) == 3
    assert [path.suffix for path in cache.iterdir()] == [".so"] * 3


def test_processes_that_build_at_once_leave_one_whole_library(cache: Path, compiler: Path) -> None:
    code = "from monoscope.ops.native import building; print(building.build('portable').read_text())"
    both = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.communicate(timeout=60)[0].strip() for process in both] == ["built"] * 2
    assert [path.suffix for path in cache.iterdir()] == [".so"]


def test_a_cache_that_others_may_write_to_is_not_trusted(cache: Path, compiler: Path) -> None:
    cache.mkdir(parents=True)
    cache.chmod(0o777)
    with pytest.raises(Unavailable, match="can be written to by others"):
        building.build("portable")


def test_a_cache_that_cannot_be_made_is_named(cache: Path, compiler: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(Unavailable, match="cannot be made"):
        building.build("portable")


def test_while_torch_compiles_there_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert loading.kernels() is None
