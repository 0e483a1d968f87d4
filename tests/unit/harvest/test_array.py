from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from monoscope.core.errors import DataError, MismatchError
from monoscope.core.site import Site
from monoscope.harvest import ActivationSource, from_array


def rows(source: ActivationSource) -> torch.Tensor:
    return torch.cat([batch.activations[source.sites[0]] for batch in source])


def test_rows_come_in_order() -> None:
    x = torch.randn(10, 3)
    source = from_array(x, batch_tokens=4)
    batches = list(source)
    assert [batch.n_tokens for batch in batches] == [4, 4, 2]
    assert torch.equal(rows(source), x)
    assert source.n_tokens == 10
    assert source.widths == {source.sites[0]: 3}


def test_a_seed_shuffles_every_pass_anew() -> None:
    x = torch.arange(100.0)[:, None]
    source = from_array(x, seed=0, batch_tokens=30)
    first, second = rows(source), rows(source)
    assert not torch.equal(first, second)
    assert torch.equal(first.sort(0).values, x)
    assert torch.equal(rows(from_array(x, seed=0)), first)


def test_numpy_arrays_and_memory_maps_are_read(tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((50, 4)).astype(np.float16)
    np.save(tmp_path / "x.npy", x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    for seed in (None, 1):
        a, b = rows(from_array(x, seed=seed, batch_tokens=8)), rows(from_array(mapped, seed=seed, batch_tokens=8))
        assert a.dtype == torch.float32
        assert torch.equal(a, b)
    assert torch.equal(rows(from_array(mapped)), torch.from_numpy(x).float())


def test_the_site_can_be_named() -> None:
    assert from_array(torch.zeros(2, 3)).sites == (Site(None, "out", module="x"),)
    assert from_array(torch.zeros(2, 3), "3.mlp_out").sites == (Site(3, "mlp_out"),)


@pytest.mark.parametrize("seed", [None, 5])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_row_that_is_not_finite_is_named(seed: int | None, value: float) -> None:
    x = torch.zeros(20, 3)
    x[13, 1] = value
    with pytest.raises(DataError, match="row 13 of the array is NaN or infinite"):
        rows(from_array(x, seed=seed, batch_tokens=6))


@pytest.mark.parametrize("shape", [(3,), (2, 3, 4), (0, 4), (4, 0)])
def test_other_shapes_are_errors(shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match="an array .n, d. that is not empty, found shape"):
        from_array(torch.zeros(shape))


def test_a_position_in_another_array_is_refused() -> None:
    with pytest.raises(MismatchError, match=r"its shape is \[4, 2\], here it is \[5, 2\]"):
        from_array(torch.zeros(5, 2)).load_state_dict(from_array(torch.zeros(4, 2)).state_dict())
