"""Features as detectors: counted on made-up tokens whose answer can be worked out by hand, or is a known limit."""

from __future__ import annotations

import pytest
import torch

from monoscope.core.acts import Acts
from monoscope.core.errors import DataError
from monoscope.evals.worlds import Detection, match
from monoscope.evals.worlds.detection import parents_of

N = 4
DIRECTIONS = torch.eye(N, dtype=torch.float64)


def detected(
    a: torch.Tensor, c: torch.Tensor, rows: torch.Tensor = DIRECTIONS, children: dict[int, range] | None = None
) -> Detection:
    detection = Detection(match(rows, DIRECTIONS), children)
    detection.update(Acts(a, a.shape[1]), Acts(c, c.shape[1]))
    return detection


def coefficients(n: int = 2000, p: float = 0.3, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    fired = torch.rand(n, N, generator=generator) < p
    return fired * (1 + 0.25 * torch.randn(n, N, generator=generator)).abs()


def summary(detection: Detection) -> list[float]:
    nearest, matched = detection.nearest(), detection.matched()
    tallies = [x.mean().item() for t in (nearest, matched) for x in (t.precision, t.recall, t.f1)]
    return [
        *tallies,
        detection.signed_mcc(),
        detection.fidelity().mean().item(),
        detection.support_jaccard(),
        float(detection.alive.sum()),
    ]


def test_counts_by_hand() -> None:
    c = torch.tensor([[1.0, 0, 0, 2], [1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 1, 1]])
    a = torch.tensor([[1.0, 0, 0, 0], [1, 0, 0, 0], [1, 2, 0, 0], [0, 0, 0, 1]])
    found = detected(a, c)
    tally = found.nearest()
    torch.testing.assert_close(tally.precision, torch.tensor([2 / 3, 1, 0, 1], dtype=torch.float64))
    torch.testing.assert_close(tally.recall, torch.tensor([1, 0.5, 0, 0.5], dtype=torch.float64))
    torch.testing.assert_close(tally.f1, torch.tensor([0.8, 2 / 3, 0, 2 / 3], dtype=torch.float64))
    assert found.support_jaccard() == pytest.approx((1 / 2 + 1 / 2 + 1 / 2 + 1 / 2) / 4)
    assert found.true_l0() == 7 / 4
    assert found.alive.tolist() == [True, True, False, True]


def test_perfect_and_silent_detectors() -> None:
    c = coefficients()
    assert summary(detected(c, c)) == pytest.approx([1.0] * 9 + [4.0])
    assert summary(detected(0 * c, c))[:8] == pytest.approx([0.0] * 8)


def test_duplicates_leave_argmax_f1_and_halve_hungarian_f1() -> None:
    c = coefficients()
    a = c * (torch.rand(c.shape, generator=torch.Generator().manual_seed(1)) < 0.7)
    once = detected(a, c)
    twice = detected(a.repeat(1, 2), c, DIRECTIONS.repeat(2, 1))
    assert twice.nearest().f1.mean() == pytest.approx(once.nearest().f1.mean())
    assert twice.matched().f1.sum() / 8 == pytest.approx(once.matched().f1.sum() / 4 / 2)


def test_dead_features_lower_f1_in_proportion() -> None:
    c = coefficients()
    dead = torch.cat([c, torch.zeros(len(c), 4)], 1)
    found = detected(dead, c, torch.cat([DIRECTIONS, torch.randn(4, N, dtype=torch.float64)]))
    assert found.nearest().f1.mean() == pytest.approx(0.5)
    assert found.nearest().f1[found.alive].mean() == pytest.approx(1)


def test_flipping_a_feature_with_its_row_changes_nothing() -> None:
    c = coefficients() * torch.tensor([1, -1, 1, 1.0])
    a = c * (torch.rand(c.shape, generator=torch.Generator().manual_seed(1)) < 0.7)
    flip = torch.tensor([-1.0, 1, -1, 1])
    assert summary(detected(a * flip, c, DIRECTIONS * flip[:, None])) == pytest.approx(summary(detected(a, c)))


def test_a_feature_that_writes_the_opposite_of_what_it_detects_counts_against() -> None:
    c = coefficients()
    flip = torch.tensor([-1.0, 1, 1, 1])
    assert detected(c, c).signed_mcc() == pytest.approx(1)
    assert detected(c, c, DIRECTIONS * flip[:, None]).signed_mcc() == pytest.approx(0.5)


def test_half_a_signed_feature_has_recall_one_half() -> None:
    c = coefficients(20_000) * (2 * torch.randint(0, 2, (20_000, N), generator=torch.Generator().manual_seed(2)) - 1)
    tally = detected(c.clamp(min=0), c).nearest()
    assert tally.precision.mean() == 1
    assert tally.f1.mean().item() == pytest.approx(2 / 3, abs=0.01)


def test_fidelity_is_a_correlation() -> None:
    c = coefficients(20_000)
    noise = torch.randn(c.shape, generator=torch.Generator().manual_seed(3)) * c.std()
    assert detected(3 * c + 3 * noise, c).fidelity().mean().item() == pytest.approx(0.5**0.5, abs=0.01)


def test_absorption_is_the_share_of_children_that_silence_their_parent() -> None:
    generator = torch.Generator().manual_seed(0)
    n = 20_000
    parent = torch.rand(n, generator=generator) < 0.5
    child = parent & (torch.rand(n, generator=generator) < 0.4)
    c = torch.stack([parent, child, ~parent, ~child & parent], 1).float()
    missed = torch.rand(n, generator=generator) < 0.1
    absorbed = child & (torch.rand(n, generator=generator) < 0.3)
    a = c.clone()
    a[missed, 0] = 0
    children = {0: range(1, 2)}
    assert detected(a, c, children=children).absorption().item() == pytest.approx(0, abs=0.02)
    a[absorbed, 0] = 0
    assert detected(a, c, children=children).absorption().item() == pytest.approx(0.27, abs=0.02)
    assert detected(a[:40], c[:40], children=children).absorption().isnan().all()
    assert parents_of({0: range(1, 3), 2: range(3, 4)}, 5).tolist() == [-1, 0, 0, 2, -1]


def test_batches_their_order_layout_and_the_order_of_features_change_nothing() -> None:
    c = coefficients()
    a = c * (torch.rand(c.shape, generator=torch.Generator().manual_seed(1)) < 0.7)
    rows = DIRECTIONS + 0.2 * torch.randn(N, N, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    children = {0: range(1, 3)}
    whole = detected(a, c, rows, children)
    parts = [detected(a[i], c[i], rows, children) for i in (slice(1500, None), slice(0, 7), slice(7, 1500))]
    parts[0].merge(parts[1])
    parts[0].merge(parts[2])
    assert summary(parts[0]) == pytest.approx(summary(whole))
    assert parts[0].absorption().item() == pytest.approx(whole.absorption().item())
    sparse = Detection(match(rows, DIRECTIONS), children)
    values, indices = a.topk(N, dim=1)
    sparse.update(Acts(values, N, indices), Acts(c, N))
    assert summary(sparse) == pytest.approx(summary(whole))
    order = torch.tensor([2, 0, 3, 1])
    assert summary(detected(a[:, order], c, rows[order], children)) == pytest.approx(summary(whole))
    assert summary(detected(5 * a, c, rows / 5, children)) == pytest.approx(summary(whole))


def test_what_is_not_finite_or_missing_raises() -> None:
    c = coefficients(10)
    broken = c.clone()
    broken[3, 1] = torch.inf
    with pytest.raises(DataError, match="feature activations .* row 3 of 10"):
        detected(broken, c)
    with pytest.raises(DataError, match="no tokens to count detections on"):
        Detection(match(DIRECTIONS, DIRECTIONS)).nearest()
