"""Geometry on planted directions."""

from __future__ import annotations

import pytest
import torch

from monoscope.core.errors import DataError
from monoscope.evals.geometry import nearest_directions, neighbors, splitting

E = torch.eye(8)


def test_nearest_of_others_and_of_its_own() -> None:
    rows = torch.stack([E[0], 5 * (E[0] + 0.1 * E[1]), E[2], -E[2]])
    cosines, indices = nearest_directions(rows)
    assert indices[:2].tolist() == [1, 0]
    assert cosines.tolist() == pytest.approx([1.01**-0.5, 1.01**-0.5, 0, 0], abs=1e-6)
    cosines, indices = nearest_directions(rows, E)
    assert indices[:3].tolist() == [0, 0, 2]
    assert cosines[2].item() == 1.0
    assert cosines[3].item() == 0.0  # the opposite direction is not near


def test_more_rows_than_are_compared_at_once() -> None:
    rows = torch.randn(2500, 4, generator=torch.Generator().manual_seed(1))
    cosines, indices = nearest_directions(rows)
    assert not (indices == torch.arange(2500)).any()
    unit = torch.nn.functional.normalize(rows.double(), dim=1)
    everything = (unit @ unit.T).fill_diagonal_(-2)
    assert torch.allclose(cosines, everything.max(1).values)


def test_planted_splits() -> None:
    def near(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return 0.8 * a + 0.6 * b  # cosine 0.8 to a

    narrow = 3 * E[:4]
    wide = torch.stack([near(E[0], E[4]), near(E[0], E[5]), near(E[0], E[6]), E[1], E[4], E[5]])
    found = splitting(narrow, wide, threshold=0.7)
    assert (found.n_narrow, found.n_wide) == (4, 6)
    assert found.kept_share == 0.5  # the first two; nothing is near the others
    assert found.children == 2.0  # three of one and one of another
    assert found.split_share == 0.25
    assert found.new_share == pytest.approx(2 / 6)
    strict = splitting(narrow, wide, threshold=0.9)
    assert (strict.kept_share, strict.split_share) == (0.25, 0.0)


def test_chance_says_what_few_dimensions_do() -> None:
    generator = torch.Generator().manual_seed(3)
    few = splitting(*(torch.randn(n, 3, generator=generator) for n in (50, 500)))
    assert few.chance_kept_share > 0.99
    many = splitting(*(torch.randn(n, 200, generator=generator) for n in (50, 500)))
    assert many.chance_kept_share == 0
    assert many.chance_new_share == 1
    assert few.kept_share == pytest.approx(few.chance_kept_share, abs=0.02)


def test_neighbors_and_norms() -> None:
    rows = torch.cat([2 * E[:6], 4 * (E[:1] + 0.01 * E[7:])])
    found = neighbors(rows)
    assert found.n == 7
    assert found.near_share == pytest.approx(2 / 7)
    assert found.nearest[1] == pytest.approx(0, abs=1e-6)
    assert found.norms[1] == pytest.approx(2)
    assert found.norms[2] > 2
    with pytest.raises(DataError, match="need others"):
        neighbors(E[:1])
