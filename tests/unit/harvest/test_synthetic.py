from __future__ import annotations

from itertools import islice

import pytest
import torch

from monoscope.core.errors import ConfigError, MismatchError
from monoscope.harvest import World, orthogonal_world, superposition_world, synthetic


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


def test_too_many_orthogonal_directions_are_an_error() -> None:
    with pytest.raises(ConfigError, match="65 orthogonal directions do not fit into 64 dimensions"):
        synthetic(World(n_features=65, d=64, orthogonal=True, p_max=0.1))


def test_a_position_in_another_world_is_refused() -> None:
    state = synthetic(orthogonal_world()).state_dict()
    with pytest.raises(MismatchError, match="its world is"):
        synthetic(superposition_world()).load_state_dict(state)
