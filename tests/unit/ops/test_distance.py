"""The squared distance, by blocks, against fp64."""

from __future__ import annotations

import pytest
import torch

from monoscope import ops
from monoscope.ops import distance


@pytest.mark.parametrize("shape", [(), (5,), (0, 3), (7, 3), (1000, 48), (11, 4, 6)])
@pytest.mark.parametrize("block", [1, 4096, 2**30])
def test_the_sum_and_both_gradients(shape: tuple[int, ...], block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distance, "BLOCK_BYTES", block)
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(shape, generator=generator).requires_grad_() for _ in range(2))
    found = ops.squared_distance(a, b)
    found.mul(3).backward()
    exact = (a.detach().double() - b.detach().double()).square().sum()
    torch.testing.assert_close(found.detach().double(), exact, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(a.grad, 6 * (a - b).detach())
    torch.testing.assert_close(b.grad, 6 * (b - a).detach())


def test_a_mean_spread_over_tokens_is_compared_as_it_is() -> None:
    x = torch.randn(300, 16, generator=torch.Generator().manual_seed(0))
    found = ops.squared_distance(x, x.mean(0).expand_as(x))
    torch.testing.assert_close(found, x.var(0, correction=0).sum() * len(x))


def test_other_precisions_are_as_exact_as_they_can_be() -> None:
    x = torch.randn(300, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert ops.squared_distance(x, torch.zeros_like(x)).dtype == torch.float64
    torch.testing.assert_close(ops.squared_distance(x, torch.zeros_like(x)), x.square().sum(), rtol=1e-12, atol=0)
