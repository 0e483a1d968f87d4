"""Encoders of several layers: the path that selects as it goes against the reference, and what it holds in memory."""

from __future__ import annotations

import pytest
import torch

from monoscope import ops
from monoscope.ops import blocks, reference

pytestmark = pytest.mark.usefixtures("cpu_path")

L, D, F, N = 3, 20, 80, 90
LF = L * F

SELECTIONS: dict[str, ops.Selection] = {
    "shared_per_token": ops.TopKPerToken(7),
    "all": ops.TopKPerToken(LF),
    "more_than_a_layer": ops.TopKPerToken(F + 5),
    "shared_per_batch": ops.TopKPerBatch(6.4),
    "nearly_all": ops.TopKPerBatch(0.9 * LF),
    "threshold": ops.AboveThreshold(torch.linspace(0, 12, LF)),
    "nothing": ops.AboveThreshold(torch.full((LF,), 1e6)),
    "each_per_token": ops.EachLayer((ops.TopKPerToken(2), ops.TopKPerToken(3), ops.TopKPerToken(4))),
    "each_per_batch": ops.EachLayer((ops.TopKPerBatch(1.5), ops.TopKPerBatch(2), ops.TopKPerBatch(3))),
    "each_magnitude": ops.EachLayer((ops.AbsTopKPerToken(3),) * L),
    "each_group": ops.EachLayer((ops.LargestPerGroup(8),) * L),
}


class Problem:
    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)

        def draw(*shape: int) -> torch.Tensor:
            return torch.randn(*shape, generator=generator)

        self.x = draw(N, L, D).requires_grad_()
        self.W_enc = [draw(F, D).T.requires_grad_() for _ in range(L)]
        self.b_enc = [(draw(F) + layer).requires_grad_() for layer in range(L)]
        self.norm = draw(LF).abs() + 0.5
        self.weight = draw(N, LF)

    @property
    def leaves(self) -> list[torch.Tensor]:
        return [self.x, *self.W_enc, *self.b_enc]


@pytest.mark.parametrize("block_bytes", [2**23, 68 * F], ids=["one block", "blocks"])
@pytest.mark.parametrize("scaled", [False, True], ids=["plain", "scaled"])
@pytest.mark.parametrize("name", SELECTIONS)
def test_fast_path_equals_reference(name: str, scaled: bool, block_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "BLOCK_BYTES", block_bytes)
    results = []
    for fast in (True, False):
        p = Problem()
        norm = p.norm if scaled else None
        if fast:
            acts = ops.encode_layers(p.x, p.W_enc, p.b_enc, SELECTIONS[name], norm=norm)
            assert acts.is_sparse
            dense = acts.dense()
        else:
            dense = reference.encode_layers(p.x, p.W_enc, p.b_enc, SELECTIONS[name], norm=norm)
        (dense * p.weight).sum().backward()
        results.append((dense.detach(), [leaf.grad for leaf in p.leaves]))
    (dense, grads), (expected, expected_grads) = results
    torch.testing.assert_close(dense, expected, rtol=1e-5, atol=1e-5)
    for grad, wanted in zip(grads, expected_grads, strict=True):
        torch.testing.assert_close(grad, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["shared_per_token", "shared_per_batch", "each_per_token"])
def test_narrow_selection_computes_what_it_selects_exactly(name: str) -> None:
    p = Problem()
    wide = ops.encode_layers(p.x, p.W_enc, p.b_enc, SELECTIONS[name], norm=p.norm).dense()
    narrow = ops.encode_layers(p.x, p.W_enc, p.b_enc, SELECTIONS[name], norm=p.norm, dtype=torch.bfloat16).dense()
    both = (wide != 0) & (narrow != 0)
    assert both.sum() > 0.9 * (wide != 0).sum()
    torch.testing.assert_close(narrow[both], wide[both], rtol=1e-5, atol=1e-5)
    assert (narrow != 0).sum() <= (wide != 0).sum()


def test_no_rows_encode_to_no_rows() -> None:
    p = Problem()
    for name in ("shared_per_token", "threshold", "each_per_token"):
        assert ops.encode_layers(p.x[:0], p.W_enc, p.b_enc, SELECTIONS[name]).dense().shape == (0, LF)
