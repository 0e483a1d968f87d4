from __future__ import annotations

from itertools import islice

import pytest
import torch

from monoscope.core.errors import ConfigError, MismatchError
from monoscope.evals.worlds import (
    correlated_world,
    hierarchical_world,
    narrow_world,
    noisy_world,
    orthogonal_world,
    public_world,
    signed_world,
    superposition_world,
)
from monoscope.harvest import Tree, World, synthetic
from monoscope.harvest.synthetic import Draws
from monoscope.harvest.world import seeded


def test_orthogonal_world_is_w0() -> None:
    source = synthetic(orthogonal_world(), batch_tokens=20_000)
    d = source.directions
    assert d.shape == (48, 64)
    torch.testing.assert_close(d @ d.T, torch.eye(48), atol=1e-6, rtol=0)
    _, acts = source.draw(0)
    assert acts.l0().float().mean().item() == pytest.approx(2.40, abs=0.05)


def test_superposition_world_is_w1() -> None:
    source = synthetic(superposition_world(), batch_tokens=20_000)
    assert source.directions.shape == (512, 128)
    torch.testing.assert_close(source.directions.norm(dim=1), torch.ones(512))
    p = source.probabilities
    assert p[0].item() == pytest.approx(0.15)
    assert p[-1].item() == pytest.approx(0.005)
    assert (p.diff() < 0).all()
    rank = torch.arange(1, 513, dtype=torch.float64) ** -0.5
    torch.testing.assert_close((p - 0.005) / 0.145, ((rank - rank[-1]) / (1 - rank[-1])).float(), atol=1e-6, rtol=0)
    _, acts = source.draw(0)
    assert acts.l0().float().mean().item() == pytest.approx(5.77, abs=0.05)
    share = (acts.values != 0).float().mean(0)
    assert ((share - p).abs() < 5 * (p * (1 - p) / 20_000).sqrt()).all()


def test_magnitudes_have_the_mean_and_spread_asked_for() -> None:
    world = World(n_features=20, d=10, p_max=0.5, mean=2.0, sd=0.3)
    _, acts = synthetic(world, batch_tokens=20_000).draw(0)
    fired = acts.values[acts.values != 0]
    assert fired.mean().item() == pytest.approx(2.0, abs=0.005)
    assert fired.std().item() == pytest.approx(0.3, abs=0.005)
    assert (synthetic(World(n_features=5, d=5, p_max=0.5, mean=0.1, sd=1.0)).draw(0)[1].values >= 0).all()


def test_activations_are_coefficients_times_directions_plus_noise() -> None:
    clean = synthetic(World(n_features=30, d=12, p_max=0.2), batch_tokens=5000)
    x, acts = clean.draw(3)
    torch.testing.assert_close(x, acts.values @ clean.directions)
    noisy = synthetic(World(n_features=30, d=12, p_max=0.2, noise=0.1), batch_tokens=5000)
    y, same = noisy.draw(3)
    assert torch.equal(same.values, acts.values)
    assert (y - x).std().item() == pytest.approx(0.1, abs=0.002)


def test_batches_are_functions_of_the_seed_and_their_number() -> None:
    source = synthetic(orthogonal_world(), seed=1, batch_tokens=64)
    streamed = [batch.activations[source.sites[0]] for batch in islice(source, 4)]
    for i in (2, 0, 3, 1):
        assert torch.equal(synthetic(orthogonal_world(), seed=1, batch_tokens=64).draw(i)[0], streamed[i])
    assert len({tuple(x[0].tolist()) for x in streamed}) == 4
    assert not torch.equal(synthetic(orthogonal_world(), seed=2, batch_tokens=64).draw(0)[0], streamed[0])


def test_another_seed_draws_from_the_same_world_and_another_world_has_other_directions() -> None:
    a, b = synthetic(orthogonal_world(), seed=0), synthetic(orthogonal_world(), seed=1)
    assert torch.equal(a.directions, b.directions)
    assert not torch.equal(a.directions, synthetic(orthogonal_world(seed=1)).directions)


def test_a_pass_may_end() -> None:
    source = synthetic(orthogonal_world(), tokens=150, batch_tokens=64)
    assert [batch.n_tokens for batch in source] == [64, 64, 22]
    assert [batch.n_tokens for batch in source] == [64, 64, 22]
    assert source.n_tokens == 150


def test_impossible_worlds_are_errors() -> None:
    with pytest.raises(ConfigError, match="65 orthogonal directions do not fit into 64 dimensions"):
        World.from_dict({"n_features": 65, "d": 64, "orthogonal": True, "p_max": 0.1})
    tree = {"roots": 2, "branching": 4, "depth": 1, "p_root": 0.1, "p_child": 0.2}
    with pytest.raises(ConfigError, match="the tree has 10 nodes, more than the world's 9"):
        World.from_dict({"n_features": 9, "d": 4, "p_max": 0.1, "tree": tree})
    with pytest.raises(ConfigError, match="4 children that exclude each other cannot each fire with 0.3"):
        World.from_dict({"n_features": 10, "d": 4, "p_max": 0.1, "tree": tree | {"p_child": 0.3}})
    with pytest.raises(ConfigError, match="p_root and p_child are given together"):
        World.from_dict(
            {"n_features": 10, "d": 4, "p_max": 0.1, "tree": {"roots": 2, "branching": 4, "depth": 1, "p_root": 0.1}}
        )
    pairs = {"pairs": 3, "p_on": 0.5, "p_off": 0.1}
    with pytest.raises(ConfigError, match="3 pairs need 6 features; the world has 5"):
        World.from_dict({"n_features": 5, "d": 4, "p_max": 0.1, "companions": [pairs]})


def test_a_position_in_another_world_is_refused() -> None:
    state = synthetic(orthogonal_world()).state_dict()
    with pytest.raises(MismatchError, match="its world is"):
        synthetic(superposition_world()).load_state_dict(state)


def test_splits_and_structure_are_drawn_apart() -> None:
    train, held_out = (synthetic(orthogonal_world(), split=split, batch_tokens=500) for split in ("train", "held_out"))
    assert not torch.equal(train.draw(0)[0], held_out.draw(0)[0])
    assert torch.equal(train.directions, held_out.directions)
    with pytest.raises(MismatchError, match="its split is 'train', here it is 'held_out'"):
        held_out.load_state_dict(train.state_dict())


def rates(world: World, n: int = 100_000) -> torch.Tensor:
    """Coefficients of many tokens."""
    source = synthetic(world, batch_tokens=20_000)
    return torch.cat([source.draw(i)[1].values for i in range(n // 20_000)])


def within_three_errors(fired: torch.Tensor, p: float | torch.Tensor) -> torch.Tensor:
    p = torch.as_tensor(p)
    return (fired.float().mean(0) - p).abs() < 3 * (p * (1 - p) / len(fired)).sqrt()


def test_levels_of_a_hierarchy_fire_as_planned_and_siblings_exclude_each_other() -> None:
    world = hierarchical_world()
    assert world.tree is not None
    coefficients = rates(world)
    on = coefficients != 0
    for level, p in zip(world.tree.levels, (0.12, 0.024, 0.0048), strict=True):
        # Features of a level are correlated, so the error of their mean is that of one root at most.
        share = on[:, level.start : level.stop].float().mean().item()
        assert share == pytest.approx(p, abs=3 * (p * (1 - p) / len(on) / 16) ** 0.5)
    for parent in (0, 5, 16, 79):
        children = world.tree.children(parent)
        below = on[:, children.start : children.stop]
        assert below.sum(1).max() == 1
        assert not below[~on[:, parent]].any()
        assert within_three_errors(below[on[:, parent]], 0.2).all()
    assert world.tree.children(0) == range(16, 20)
    assert world.tree.children(79) == range(332, 336)
    assert len(world.tree.children(80)) == 0
    assert within_three_errors(on[:, 336:], world.probabilities()[336:]).float().mean() > 0.98


def test_a_child_is_as_strong_as_its_parent_makes_it() -> None:
    tree = Tree(roots=1, branching=1, depth=1, p_root=1.0, p_child=1.0)
    parent, child = rates(World(n_features=2, d=2, p_max=0.1, tree=tree, mean=2.0, sd=0.2), 20_000).T
    fresh = 2 * child / parent
    assert fresh.mean().item() == pytest.approx(2.0, abs=0.01)
    assert fresh.std().item() == pytest.approx(0.2, abs=0.005)
    assert torch.corrcoef(torch.stack([parent, fresh]))[0, 1].abs() < 0.03


def test_companions_are_correlated_with_their_mains() -> None:
    on = (rates(narrow_world()) != 0).double()
    phi = torch.corrcoef(on.T)
    pairs = torch.arange(64)
    together = phi[pairs, pairs + 64]
    assert together[:32].mean().item() == pytest.approx(0.59, abs=0.005)
    assert together[32:].mean().item() == pytest.approx(-0.19, abs=0.005)
    phi.fill_diagonal_(0)
    phi[pairs, pairs + 64] = phi[pairs + 64, pairs] = 0
    assert phi.abs().max() < 6 / len(on) ** 0.5
    assert within_three_errors(on, narrow_world().probabilities()).double().mean() > 0.98


def test_a_copula_leaves_every_rate_and_correlates_who_fires() -> None:
    world = correlated_world()
    factor = world.copula()
    assert factor.square().sum(1).max().item() == pytest.approx(0.99, abs=1e-5)
    on = (rates(world) != 0).double()
    assert within_three_errors(on, world.probabilities()).double().mean() > 0.98
    planned = (factor @ factor.T).fill_diagonal_(0)[:64, :64].double()
    found = torch.corrcoef(on[:, :64].T).nan_to_num().fill_diagonal_(0)
    assert torch.corrcoef(torch.stack([planned.flatten(), found.flatten()]))[0, 1] > 0.8


def test_signs_are_even_and_magnitudes_unchanged() -> None:
    signed, plain = rates(signed_world(), 20_000), rates(superposition_world(), 20_000)
    values = signed[signed != 0]
    assert (values > 0).double().mean().item() == pytest.approx(0.5, abs=0.005)
    assert values.abs().mean().item() == pytest.approx(plain[plain != 0].mean().item(), abs=0.005)


def test_noise_has_a_tenth_of_the_power() -> None:
    noisy, clean = synthetic(noisy_world(), batch_tokens=20_000), synthetic(superposition_world(), batch_tokens=20_000)
    x, signal = noisy.draw(0)[0], clean.draw(0)[0]
    assert (signal.square().sum() / (x - signal).square().sum()).item() == pytest.approx(10, rel=0.02)


def test_a_bias_moves_every_token_the_same_way() -> None:
    world = World(n_features=5, d=8, p_max=0.2, bias=0.5)
    x, acts = synthetic(world).draw(0)
    moved = x - acts.values @ world.directions()
    torch.testing.assert_close(moved, world.bias_vector().expand_as(moved), atol=1e-6, rtol=0)
    assert world.bias_vector().norm().item() == pytest.approx(0.5)


def test_directions_pushed_apart_overlap_less() -> None:
    crowded, apart = (World(n_features=256, d=64, p_max=0.1, apart=steps).directions() for steps in (0, 100))
    overlap = [(rows @ rows.T).fill_diagonal_(0).abs().amax(1).mean().item() for rows in (crowded, apart)]
    assert overlap[1] < 0.97 * overlap[0]
    torch.testing.assert_close(apart.norm(dim=1), torch.ones(256))


def test_the_public_world_has_its_published_l0() -> None:
    world = public_world()
    nominal = world.probabilities()
    assert nominal.sum().item() == pytest.approx(59.1, abs=0.05)
    assert nominal[:4096].sum().item() == pytest.approx(40.1, abs=0.05)
    draws = Draws(world)
    on = torch.cat([(draws.coefficients(1000, seeded(0, "held_out", i)) != 0).sum(1, keepdim=True) for i in range(4)])
    first = draws.coefficients(1000, seeded(1, "held_out", 0))[:, :4096]
    assert on.double().mean().item() == pytest.approx(34.4, abs=0.5)
    assert (first != 0).sum(1).double().mean().item() == pytest.approx(25, abs=0.7)
    mean, sd = world.magnitudes()
    assert (mean[0].item(), mean[-1].item()) == (5.0, 4.0)
    assert sd.min() >= 0


def test_a_small_copy_of_the_public_world() -> None:
    world = public_world(n_features=1024, d=128, roots=8)
    on = rates(world, 40_000) != 0
    assert on.sum(1).double().mean().item() == pytest.approx(7.8, abs=0.15)
    assert on[:, :256].sum(1).double().mean().item() == pytest.approx(5.5, abs=0.15)
