"""Lazy tensors: views equal what torch makes of the whole, and cost the bytes of what is asked for."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from monoscope.formats.blob import FileBlob
from monoscope.formats.lazy import Lazy
from monoscope.formats.tensor_files import safetensors


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Bytes of every read of a blob."""
    reads: list[int] = []
    preadv = os.preadv

    def counting(*args: object) -> int:
        reads.append(preadv(*args))  # type: ignore[arg-type]
        return reads[-1]

    monkeypatch.setattr("monoscope.formats.blob.os.preadv", counting)
    return reads


def stored(tmp_path: Path, tensor: torch.Tensor) -> Lazy:
    save_file({"x": tensor}, tmp_path / "x.safetensors")
    return safetensors(FileBlob(tmp_path / "x.safetensors"))["x"]


WHOLE = torch.randn(24, 40, generator=torch.Generator().manual_seed(0))
VIEWS: dict[str, tuple[Callable[[Lazy], Lazy], Callable[[torch.Tensor], torch.Tensor]]] = {
    "as it lies": (lambda x: x, lambda x: x),
    "t": (lambda x: x.t(), lambda x: x.T),
    "narrow": (lambda x: x.narrow(1, 3, 9), lambda x: x[:, 3:9]),
    "narrow rows": (lambda x: x.narrow(0, 3, 20), lambda x: x[3:20]),
    "t of narrow": (lambda x: x.narrow(1, 3, 30).t(), lambda x: x[:, 3:30].T),
    "scaled": (lambda x: x.scaled(0.3), lambda x: x * 0.3),
    "scaled along": (
        lambda x: x.t().scaled_along(0, torch.arange(40.0)),
        lambda x: x.T * torch.arange(40.0)[:, None],
    ),
    "cast": (lambda x: x.cast(torch.float64), lambda x: x.double()),
    "elementwise": (lambda x: x.elementwise(torch.exp), lambda x: x.exp()),
    "reshape": (lambda x: x.reshape(24, 5, 8), lambda x: x.reshape(24, 5, 8)),
    "reshape of all": (lambda x: x.reshape(40, 24), lambda x: x.reshape(40, 24)),
    "permute": (lambda x: x.reshape(24, 5, 8).permute(2, 0, 1), lambda x: x.reshape(24, 5, 8).permute(2, 0, 1)),
    "select": (lambda x: x.reshape(24, 5, 8).select(1, 2), lambda x: x.reshape(24, 5, 8)[:, 2]),
    "expand": (lambda x: x.narrow(1, 4, 5).expand(24, 7), lambda x: x[:, 4:5].expand(24, 7)),
    "map": (lambda x: x.map(lambda w: w.cumsum(0), (24, 40)), lambda x: x.cumsum(0)),
    "stack": (lambda x: Lazy.stack([x, x.scaled(2.0)]), lambda x: torch.stack([x, 2 * x])),
}


@pytest.mark.parametrize("name", VIEWS)
@pytest.mark.parametrize("where", ["file", "memory"])
def test_views_are_what_torch_makes_of_the_whole(name: str, where: str, tmp_path: Path) -> None:
    lazy = stored(tmp_path, WHOLE) if where == "file" else Lazy.of(WHOLE)
    view, expected = VIEWS[name][0](lazy), VIEWS[name][1](WHOLE)
    assert view.shape == tuple(expected.shape)
    assert view.dtype == expected.dtype
    assert torch.equal(view.read(), expected)
    some = [0, 1, len(expected) - 1, 1]
    assert torch.equal(view.rows(some), expected[some])
    assert view.nbytes == expected.numel() * expected.itemsize


def test_rows_refuse_what_there_is_not() -> None:
    with pytest.raises(IndexError, match="row 24 of 24"):
        Lazy.of(WHOLE).rows([24])
    assert Lazy.of(WHOLE).rows([]).shape == (0, 40)


def test_bf16_scaled_is_computed_in_fp32(tmp_path: Path) -> None:
    narrow = WHOLE.bfloat16()
    lazy = stored(tmp_path, narrow).scaled(0.1)
    assert torch.equal(lazy.read(), narrow.float() * 0.1)


@pytest.mark.parametrize("transposed", [False, True])
def test_one_row_costs_its_own_bytes(transposed: bool, tmp_path: Path, counted: list[int]) -> None:
    wide = torch.arange(256.0 * 4096).reshape(256, 4096)
    lazy = stored(tmp_path, wide)
    counted.clear()
    if transposed:
        assert torch.equal(lazy.t().rows([17])[0], wide[:, 17])
        assert sum(counted) == 256 * 4
    else:
        assert torch.equal(lazy.rows([17])[0], wide[17])
        assert sum(counted) == 4096 * 4


def test_a_file_that_shrank_meanwhile_is_an_error(tmp_path: Path) -> None:
    lazy = stored(tmp_path, WHOLE)
    with (tmp_path / "x.safetensors").open("r+b") as file:
        file.truncate(100)
    with pytest.raises(ValueError, match="cut short"):
        lazy.read()
