"""Mixtures of low-rank maps: both layouts against the plain sum, in value and gradient."""

from __future__ import annotations

import torch

from monoscope import ops
from monoscope.core.acts import Acts

N, D, D_OUT, F, RANK = 30, 7, 5, 9, 3


def test_both_layouts_are_the_plain_sum_in_value_and_gradient() -> None:
    generator = torch.Generator().manual_seed(0)
    x, A, B = (torch.randn(*s, generator=generator) for s in ((N, D), (F, D, RANK), (F, RANK, D_OUT)))
    values = torch.randn(N, F, generator=generator)
    values = values * (values.abs() > 1.0)
    values[:, 4] = 0  # a transform that no token passes through
    indices = values.abs().topk(6, dim=1).indices
    found = []
    for layout in ("plain", "dense", "sparse"):
        leaves = [t.clone().requires_grad_() for t in (x, A, B)]
        dense = values.clone().requires_grad_()
        if layout == "plain":
            out = torch.einsum("nf,nd,fdr,fro->no", dense, *leaves)
        else:
            acts = Acts(dense, F) if layout == "dense" else Acts(dense.gather(1, indices), F, indices)
            out = ops.mixture(acts, *leaves)
        out.pow(2).sum().backward()
        assert dense.grad is not None
        kept = dense.grad * (values != 0)  # in the sparse layout, what is silent has no gradient
        found.append([out.detach(), kept, *(leaf.grad for leaf in leaves)])
    for other in found[1:]:
        for got, plain in zip(other, found[0], strict=True):
            torch.testing.assert_close(got, plain, rtol=1e-4, atol=1e-4)


def test_nothing_active_gives_nothing() -> None:
    acts = Acts(torch.zeros(4, 2), F, torch.zeros(4, 2, dtype=torch.long))
    assert torch.equal(
        ops.mixture(acts, torch.ones(4, D), torch.ones(F, D, 2), torch.ones(F, 2, D_OUT)), torch.zeros(4, 5)
    )
