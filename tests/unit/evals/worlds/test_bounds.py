"""Ceilings reach what they must, and the whole set of scores stays put under everything that should not matter."""

from __future__ import annotations

import copy

import pytest
import torch

from monoscope.core.acts import Acts
from monoscope.dictionaries import Dictionary
from monoscope.dictionaries.recipe import Recipe
from monoscope.evals.metrics import Fidelity
from monoscope.evals.worlds import Examination, hierarchical_world, narrow_world, orthogonal_world, superposition_world
from monoscope.evals.worlds.bounds import Coder, least_squares, linear_threshold, omp
from monoscope.evals.worlds.score import Scores
from monoscope.harvest import World, synthetic

SMALL = World(n_features=60, d=24, p_max=0.1, p_min=0.01, seed=3)


def drawn(world: World, n: int = 4000) -> tuple[torch.Tensor, Acts]:
    return synthetic(world, split="held_out", batch_tokens=n).draw(0)


def quality(world: World, coder: Coder) -> tuple[float, float]:
    """EV, and mean F1 of each planted direction's own feature."""
    x, truth = drawn(world)
    acts, recon = coder(x, truth)
    fidelity = Fidelity(world.d)
    fidelity.update(x, recon)
    fires, on = acts.dense() != 0, truth.values != 0
    f1 = 2 * (fires & on).sum(0) / (fires.sum(0) + on.sum(0)).clamp_min(1)
    return fidelity.result().ev, f1.mean().item()


@pytest.mark.parametrize("world", [orthogonal_world(), superposition_world(), hierarchical_world()])
def test_the_true_support_explains_everything(world: World) -> None:
    ev, f1 = quality(world, least_squares(world.directions(), world.bias_vector()))
    assert ev == pytest.approx(1, abs=1e-4)
    assert f1 == 1


def test_pursuit_needs_each_tokens_own_l0() -> None:
    world = superposition_world()
    assert quality(world, omp(world.directions(), world.bias_vector()))[1] > 0.999
    ev, f1 = quality(world, omp(world.directions(), world.bias_vector(), k=6))
    assert ev == pytest.approx(0.926, abs=0.005)
    assert f1 == pytest.approx(0.921, abs=0.01)


def test_a_linear_encoder_pays_for_superposition_alone() -> None:
    for world, l0, at_ev, at_f1 in ((superposition_world(), 5.77, 0.917, 0.796), (orthogonal_world(), 2.4, 1.0, 1.0)):
        sample = synthetic(world, split="held_out", seed=1, batch_tokens=4000).draw(0)[0]
        coder = linear_threshold(world.directions(), world.bias_vector(), sample, l0, signed=False)
        ev, f1 = quality(world, coder)
        assert ev == pytest.approx(at_ev, abs=0.01)
        assert f1 == pytest.approx(at_f1, abs=0.01)


def test_pursuit_finds_signed_coefficients_and_a_bias() -> None:
    world = World(n_features=40, d=40, orthogonal=True, p_max=0.05, signed=True, bias=2.0, seed=1)
    x, truth = drawn(world)
    acts, recon = omp(world.directions(), world.bias_vector())(x, truth)
    torch.testing.assert_close(recon, x, atol=1e-3, rtol=0)
    torch.testing.assert_close(acts.dense(), truth.values, atol=1e-2, rtol=0)


def test_truth_has_no_absorption_leak_or_hedging() -> None:
    exam = Examination(hierarchical_world(), tokens=20_000)
    truth = exam.score_coder(exam.directions, least_squares(exam.directions, exam.bias))
    for name in ("absorption", "absorption_level_0", "absorption_level_1", "leak", "hedging", "splitting"):
        assert truth[name] == pytest.approx(0, abs=1e-6), name
    assert truth["l0_over_true"] == pytest.approx(1)
    narrow = Examination(narrow_world(), tokens=4000)
    mains = narrow.directions[:64]
    scores = narrow.score_coder(mains, linear_threshold(mains, narrow.bias, narrow.sample, 9.6, signed=False))
    assert scores["hedging_positive"] == pytest.approx(0, abs=1e-6)
    assert scores["hedging_negative"] == pytest.approx(0, abs=1e-6)
    assert scores["f1"] == pytest.approx(1, abs=0.02)


def test_random_rows_score_nothing_above_their_floors() -> None:
    scores = Examination(superposition_world(), tokens=4000).bounds(5.77, 512, tokens=4000)["random"]
    assert scores["mcc_adj"] == pytest.approx(0, abs=0.02)
    assert scores["uniqueness_adj"] == pytest.approx(0, abs=0.1)
    assert 0.04 < (scores["f1"] or 0) < 0.07
    assert scores["recovery_90"] == 0


def dictionary() -> Dictionary:
    """Untrained, with the planted rows slightly off, so that no score is at a limit."""
    generator = torch.Generator().manual_seed(0)
    recipe = Recipe.from_dict(
        {
            "wiring": {"kind": "autoencoder", "n_features": 50},
            "function": {"kind": "jumprelu", "threshold": 0.5},
            "terms": {"reconstruction": {"kind": "fvu"}, "sparsity": {"kind": "l0"}},
        }
    )
    source = synthetic(SMALL)
    made = recipe.build(source.sites, source.sites, source.widths)
    rows = SMALL.directions()[:50] + 0.1 * torch.randn(50, SMALL.d, generator=generator)
    rows = torch.nn.functional.normalize(rows, dim=1)
    with torch.no_grad():
        made.get_parameter("W_dec").copy_(rows)
        made.get_parameter("W_enc").copy_(rows.T)
    return made.frozen()


def changed(original: Dictionary, change: str) -> Dictionary:
    made = copy.deepcopy(original)
    W_enc, W_dec = made.get_parameter("W_enc"), made.get_parameter("W_dec")
    threshold = made.activation.get_parameter("threshold")
    if change == "rescaled":
        factor = torch.rand(50, generator=torch.Generator().manual_seed(1)) + 0.5
        W_dec.div_(factor[:, None])
        W_enc.mul_(factor)
        threshold.mul_(factor)
    else:
        order = torch.randperm(50, generator=torch.Generator().manual_seed(1))
        W_dec.copy_(W_dec[order].clone())
        W_enc.copy_(W_enc[:, order].clone())
        threshold.copy_(threshold[order].clone())
    return made


def assert_same(a: Scores, b: Scores) -> None:
    assert set(a) == set(b)
    for name, value in a.items():
        assert b[name] == pytest.approx(value, abs=1e-4), name


@pytest.mark.parametrize("change", ["rescaled", "permuted"])
def test_no_score_depends_on_scale_or_order_of_features(change: str) -> None:
    exam, original = Examination(SMALL, tokens=5000, trained_on=50_000), dictionary()
    before = exam.score(original)
    assert 0.3 < (before["f1"] or 0) < 0.99
    assert_same(before, exam.score(changed(original, change)))


def test_no_score_depends_on_sign_layout_or_batches() -> None:
    exam, original = Examination(SMALL, tokens=5000, trained_on=50_000), dictionary()
    before = exam.score(original)
    sign = torch.where(torch.arange(50) % 3 == 0, -1.0, 1.0)
    rows = original.get_parameter("W_dec")

    def flipped(x: torch.Tensor, truth: Acts) -> tuple[Acts, torch.Tensor]:
        step = original(x)
        return Acts(step.acts.dense() * sign, 50), step.recon

    assert_same(before, exam.score_coder(rows * sign[:, None], flipped))

    def sparse(x: torch.Tensor, truth: Acts) -> tuple[Acts, torch.Tensor]:
        step = original(x)
        values, indices = step.acts.dense().topk(50, dim=1)
        return Acts(values, 50, indices), step.recon

    assert_same(before, exam.score_coder(rows, sparse))
    whole = copy.copy(exam)
    x, c = (torch.cat(parts) for parts in zip(*[(x, c.values) for x, c in exam.batches], strict=True))
    whole.batches = [(x[i], Acts(c[i], 60)) for i in (slice(3000, None), slice(0, 3000))]
    assert_same(before, whole.score(original))


def test_frequent_planted_features_are_scored_alone() -> None:
    exam, original = Examination(SMALL, tokens=5000, trained_on=50_000), dictionary()
    asked = (exam.rates * 50_000 >= 1000).sum().item()
    assert 5 < asked < 55
    assert exam.score(original)["mcc_frequent"] != exam.score(original)["mcc"]
    assert Examination(SMALL, tokens=1000).score(original)["mcc_frequent"] is None
