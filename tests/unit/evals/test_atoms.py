"""The theory of atoms, on dictionaries whose coherence is known."""

from __future__ import annotations

import math

import pytest
import torch

from monoscope.core.errors import DataError
from monoscope.dictionaries import Dictionary, Recipe
from monoscope.evals.atoms import (
    atomic_product,
    coherence,
    examine_atoms,
    rip_bound,
    threshold_window,
    uniqueness_quantile,
    whitened,
)
from monoscope.harvest import World, from_array, synthetic


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def skewed(d: int) -> torch.Tensor:
    """A change of coordinates far from a rotation."""
    return torch.randn(d, d, generator=generator(7), dtype=torch.float64) + 2 * torch.eye(d)


def angles(*cosines: float) -> torch.Tensor:
    """Pairs of unit rows, each in a plane of its own, with the cosines given."""
    rows = torch.zeros(2 * len(cosines), 2 * len(cosines), dtype=torch.float64)
    for i, cosine in enumerate(cosines):
        rows[2 * i, 2 * i] = 1
        rows[2 * i + 1, 2 * i : 2 * i + 2] = torch.tensor([cosine, math.sqrt(1 - cosine**2)])
    return rows


def test_cosines_do_not_depend_on_coordinates() -> None:
    x = torch.randn(5000, 8, generator=generator(), dtype=torch.float64)
    rows, T = torch.randn(20, 8, generator=generator(1), dtype=torch.float64), skewed(8)
    here = whitened(rows, atomic_product(x, shrink=False))
    there = whitened(rows @ T.T, atomic_product(x @ T.T, shrink=False))
    torch.testing.assert_close(here @ here.T, there @ there.T)
    plain = torch.nn.functional.normalize(rows @ T.T, dim=1)
    assert (plain @ plain.T - here @ here.T).abs().max() > 0.1


def test_planted_atoms_are_orthogonal_in_their_own_product() -> None:
    atoms = skewed(10)
    acts = torch.randn(200_000, 10, generator=generator(), dtype=torch.float64)
    acts *= torch.rand(acts.shape, generator=generator(1)) < 0.3
    mu = coherence(whitened(atoms, atomic_product(acts @ atoms, shrink=False)))
    assert mu.max() < 0.02
    assert coherence(torch.nn.functional.normalize(atoms, dim=1)).min() > 0.1


def test_more_atoms_than_dimensions_are_scaled_to_unit_length() -> None:
    atoms = torch.randn(40, 10, generator=generator(), dtype=torch.float64)
    ideal = torch.linalg.inv(atoms.T @ atoms)
    squares = ((atoms @ ideal) * atoms).sum(1)
    assert squares.mean().item() == pytest.approx(10 / 40)
    torch.testing.assert_close(whitened(atoms, ideal).norm(dim=1), torch.ones(40, dtype=torch.float64))


def test_shrinkage_helps_where_tokens_are_few_and_costs_nothing_where_they_are_many() -> None:
    spread = torch.linspace(0.5, 2, 20, dtype=torch.float64)
    true = torch.diag(1 / spread**2)

    def error(n: int, shrink: bool) -> float:
        x = torch.randn(n, 20, generator=generator(n), dtype=torch.float64) * spread
        return ((atomic_product(x, shrink=shrink) - true).norm() / true.norm()).item()

    assert error(30, shrink=True) < 0.6 * error(30, shrink=False)
    assert error(100_000, shrink=True) == pytest.approx(error(100_000, shrink=False), abs=0.01)
    few = torch.randn(10, 20, generator=generator())
    assert atomic_product(few).isfinite().all()
    with pytest.raises(DataError, match="10 tokens do not span 20 dimensions"):
        atomic_product(few, shrink=False)


def test_coherence_of_known_angles() -> None:
    rows = angles(0.1, 0.5, 0.9)
    torch.testing.assert_close(coherence(rows), torch.tensor([0.1, 0.1, 0.5, 0.5, 0.9, 0.9], dtype=torch.float64))
    torch.testing.assert_close(coherence(rows * torch.tensor([[-1.0], [1], [1], [-1], [1], [1]])), coherence(rows))
    with pytest.raises(DataError, match="two directions or more, found 1"):
        coherence(rows[:1])


@pytest.mark.parametrize("k", [1, 2, 3, 5, 8])
def test_uniqueness_is_the_share_of_atoms_that_the_condition_holds_for(k: int) -> None:
    mu = torch.linspace(0.01, 0.99, 500, dtype=torch.float64)
    analytic = (k < (1 + 1 / mu) / 2).double().mean().item()
    assert uniqueness_quantile(mu, torch.full((300,), k)) == pytest.approx(analytic)


def test_uniqueness_is_the_share_of_tokens_where_all_atoms_are_alike() -> None:
    l0 = torch.arange(1, 101)
    mu = torch.full((50,), 0.041)  # unique below (1 + 1 / 0.041) / 2 = 12.7 atoms
    assert uniqueness_quantile(mu, l0) == pytest.approx(0.12)
    assert uniqueness_quantile(torch.zeros(50), l0) == 1
    assert uniqueness_quantile(torch.full((50,), 1.0), l0) == 0


def test_uniqueness_where_both_spread_is_where_the_quantiles_meet() -> None:
    mu, l0 = (
        torch.rand(400, generator=generator(), dtype=torch.float64),
        torch.randint(1, 9, (700,), generator=generator(1)),
    )
    grid = torch.linspace(1e-4, 1, 20_000, dtype=torch.float64)
    mu_q = torch.quantile(mu, grid, interpolation="higher")
    l0_q = torch.quantile(l0.double(), grid, interpolation="higher")
    expected = grid[mu_q * (2 * l0_q - 1) < 1].max().item()
    assert uniqueness_quantile(mu, l0) == pytest.approx(expected, abs=5e-3)


def test_the_bound_holds_for_every_support_and_is_tight_for_pairs() -> None:
    assert rip_bound(torch.eye(6, dtype=torch.float64), 4) == 0
    assert rip_bound(angles(0.3, 0.2), 2) == pytest.approx(0.3)
    gram = angles(0.3)[:2] @ angles(0.3)[:2].T
    assert torch.linalg.eigvalsh(gram).tolist() == pytest.approx([0.7, 1.3])
    rows = torch.nn.functional.normalize(torch.randn(60, 200, generator=generator(), dtype=torch.float64), dim=1)
    for k in (1, 2, 4):
        bound = rip_bound(rows, k)
        for seed in range(50):
            support = rows[torch.randperm(60, generator=generator(seed))[:k]]
            values = torch.linalg.eigvalsh(support @ support.T)
            assert values.min() >= 1 - bound - 1e-9
            assert values.max() <= 1 + bound + 1e-9
    assert rip_bound(rows, 2) == pytest.approx(coherence(rows).max().item())


def test_a_threshold_inside_the_window_finds_every_support() -> None:
    rows = torch.nn.functional.normalize(torch.randn(30, 4000, generator=generator(), dtype=torch.float64), dim=1)
    e, k = coherence(rows).max().item(), 3
    window = threshold_window(e, k, 0.8, 1.2)
    assert window is not None
    for seed in range(100):
        support = torch.randperm(30, generator=generator(seed))[:k]
        acts = torch.zeros(30, dtype=torch.float64)
        acts[support] = 0.8 + 0.4 * torch.rand(k, generator=generator(seed), dtype=torch.float64)
        found = (rows @ (acts @ rows) > sum(window) / 2).nonzero()[:, 0]
        assert set(found.tolist()) == set(support.tolist())
    assert threshold_window(0.2, 4, 0.8, 1.2) is None


def dictionary(rows: torch.Tensor, k: int) -> Dictionary:
    source = from_array(rows)
    recipe = {"wiring": {"kind": "autoencoder", "n_features": len(rows)}, "function": {"kind": "topk", "k": k}}
    made = Recipe.from_dict(recipe).build(source.sites, source.sites, source.widths)
    with torch.no_grad():
        made.get_parameter("W_dec").copy_(rows)
        made.get_parameter("W_enc").copy_(rows.T)
    return made.frozen()


def test_examination_of_planted_and_of_random_dictionaries() -> None:
    world = World(n_features=32, d=32, orthogonal=True, p_max=0.08)
    source = synthetic(world, batch_tokens=20_000)
    sample, held_out = source.draw(0)[0], source.draw(1)[0]
    planted = examine_atoms(dictionary(source.directions, 3), sample, held_out)
    rows = torch.nn.functional.normalize(torch.randn(32, 32, generator=generator()), dim=1)
    random = examine_atoms(dictionary(rows, 3), sample, held_out)
    assert planted.ev > 0.85
    assert planted.coherence < 0.1
    assert planted.uniqueness == 1
    assert planted.rip < 0.15
    assert random.ev < planted.ev
    assert random.uniqueness < 0.6
    assert random.rip > 2 * planted.rip
