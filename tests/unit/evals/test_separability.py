"""Concept separability: known limits, the bias of small samples, and Bayes' rule on two Gaussians."""

from __future__ import annotations

import pytest
import torch

from monoscope.core.errors import DataError
from monoscope.evals.separability import posterior, separability


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def labels(n: int, n_concepts: int) -> torch.Tensor:
    return torch.arange(n) % n_concepts


@pytest.mark.parametrize("n_concepts", [2, 3, 5])
def test_disjoint_supports_are_told_apart_completely(n_concepts: int) -> None:
    concepts = labels(3000, n_concepts)
    acts = 1 + 3 * concepts[:, None] + torch.rand(3000, 2, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(separability(acts, concepts).distance, torch.ones(2, dtype=torch.float64))


def test_concepts_of_unequal_frequency_are_told_apart_completely() -> None:
    concepts = (torch.arange(1000) < 100).long()
    found = separability(concepts[:, None].float(), concepts)
    assert found.distance.item() == pytest.approx(1)
    assert found.null.item() < 0.1


@pytest.mark.parametrize(("n", "expected"), [(50, 0.31), (200, 0.17), (1000, 0.08)])
def test_identical_concepts_seem_apart_in_small_samples_by_as_much_as_permuted_ones(n: int, expected: float) -> None:
    acts = normal(2 * n, 40)
    acts[0], acts[1] = -4.0, 4.0  # bins over the same range whatever the sample
    found = separability(acts, labels(2 * n, 2))
    assert found.distance.mean().item() == pytest.approx(expected, abs=0.03)
    assert found.score == pytest.approx(0, abs=0.02)


def test_silence_is_told_from_weak_firing() -> None:
    concepts = labels(4000, 2)
    acts = torch.where(concepts[:, None] == 1, 1e-3, 0.0) * torch.rand(
        4000, 1, generator=torch.Generator().manual_seed(0)
    )
    acts[0] = 10.0  # one strong firing leaves all the others in one bin
    assert separability(acts, concepts).distance.item() > 0.95


def test_dead_features_have_no_distance_and_are_left_out_of_the_second_score() -> None:
    concepts = labels(1000, 2)
    acts = torch.cat([concepts[:, None].float(), torch.zeros(1000, 3)], 1)
    found = separability(acts, concepts)
    assert found.alive.tolist() == [True, False, False, False]
    assert found.distance.tolist() == [1, 0, 0, 0]
    assert found.score == pytest.approx(found.score_alive / 4)
    with pytest.raises(DataError, match="no feature fires"):
        _ = separability(torch.zeros(10, 2), labels(10, 2)).score_alive


def test_scale_sign_order_of_tokens_and_of_features_change_nothing() -> None:
    concepts, acts = labels(2000, 3), normal(2000, 5) * (normal(2000, 5, seed=1) > 0)
    acts[:, 0] += concepts
    found = separability(acts, concepts).distance
    torch.testing.assert_close(separability(7 * acts, concepts).distance, found)
    # A mirrored histogram puts the edges of its bins elsewhere by rounding alone.
    torch.testing.assert_close(separability(-acts, concepts).distance, found, atol=5e-3, rtol=0)
    order, features = torch.randperm(2000), torch.tensor([3, 1, 0, 4, 2])
    torch.testing.assert_close(separability(acts[order][:, features], concepts[order]).distance, found[features])
    torch.testing.assert_close(separability(acts, (concepts + 1) % 3).distance, found)


def test_the_posterior_of_two_gaussians_is_the_logistic() -> None:
    n, p, apart = 200_000, 0.3, 1.5
    concepts = (torch.rand(n, generator=torch.Generator().manual_seed(0)) < p).long()
    acts = normal(n, 1, seed=1) + apart * concepts[:, None]
    share = concepts.double().mean().item()
    logistic = torch.sigmoid(apart * acts - apart**2 / 2 + torch.tensor(share / (1 - share)).log())
    found = posterior(acts, concepts, 1, bins=50)
    inner = (acts > -1.5) & (acts < 3)
    assert (found - logistic)[inner].abs().max() < 0.1
    assert (found - logistic)[inner].abs().mean() < 0.02
    assert found.mean().item() == pytest.approx(share, abs=1e-6)  # a mean of posteriors is the prior


def test_concepts_must_be_numbered_and_two_at_least() -> None:
    with pytest.raises(DataError, match=r"two concepts or more, numbered from 0; found \[10\]"):
        separability(normal(10, 2), torch.zeros(10, dtype=torch.long))
    with pytest.raises(DataError, match=r"found \[5, 0, 5\]"):
        separability(normal(10, 2), 2 * labels(10, 2))
    broken = normal(10, 2)
    broken[4] = torch.nan
    with pytest.raises(DataError, match="row 4 of 10"):
        separability(broken, labels(10, 2))
