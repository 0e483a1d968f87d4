"""TopK by 8-bit products of PyTorch, against exact scores."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from monoscope import ops
from monoscope.ops import blocks, cpu, largest, quantized, reference

pytestmark = pytest.mark.skipif(
    not blocks.has_instructions("vnni"), reason="this processor has no instructions for 8-bit products"
)


@pytest.fixture(autouse=True, scope="module")
def _pure() -> Iterator[None]:
    patch = pytest.MonkeyPatch()
    for module in (cpu, largest, quantized):
        patch.setattr(module, "kernels", lambda: None)
    yield
    patch.undo()


@given(
    st.integers(1, 40), st.integers(1, 70), st.integers(1, 12), st.integers(0, 400), st.booleans(), st.integers(0, 99)
)
def test_topk_is_that_of_exact_scores(n: int, d: int, k: int, more: int, scaled: bool, seed: int) -> None:
    torch.manual_seed(seed)
    F = k + more
    z, W_enc, b_enc, norm = torch.randn(n, d), torch.randn(F, d).T, torch.randn(F), torch.rand(F) + 0.5
    z *= torch.logspace(-3, 3, n)[:, None]  # tokens of any length beside each other
    selection = ops.TopKPerToken(k)
    acts = ops.encode(z, W_enc, b_enc, selection, norm=norm if scaled else None, dtype=torch.int8)
    pre = z @ W_enc + b_enc
    assert acts.indices is not None
    torch.testing.assert_close(acts.values, pre.gather(1, acts.indices).relu(), rtol=1e-4, atol=1e-4)
    score = pre * norm if scaled else pre
    own = score.gather(1, acts.indices).relu().sort(dim=1).values
    best = score.topk(k, dim=1).values.relu().sort(dim=1).values
    allowed = 0.02 * score.abs().amax(1, keepdim=True)
    assert ((own - best).abs() <= allowed).all()


def test_features_are_those_of_fp32_where_bf16_confuses_them() -> None:
    torch.manual_seed(0)
    z, W_enc, b_enc = torch.randn(300, 96), torch.randn(2000, 96).T, 0.1 * torch.randn(2000)
    selection = ops.TopKPerToken(16)
    exact = reference.encode(z, W_enc, b_enc, selection) != 0
    same = {
        dtype: ((ops.encode(z, W_enc, b_enc, selection, dtype=dtype).dense() != 0) == exact).all(1).float().mean()
        for dtype in (torch.int8, torch.bfloat16)
    }
    assert same[torch.int8] >= 0.99
    assert same[torch.int8] > same[torch.bfloat16]


def test_tokens_and_features_of_zeros_are_ordered_by_bias() -> None:
    W_enc, b_enc = torch.randn(64, 8).T, torch.arange(64.0)
    W_enc[:, 40:] = 0
    acts = ops.encode(torch.zeros(2, 8), W_enc, b_enc, ops.TopKPerToken(3), dtype=torch.int8)
    assert acts.indices is not None
    assert acts.indices.sort(dim=1).values.tolist() == [[61, 62, 63]] * 2


def test_what_is_not_a_number_is_among_the_largest() -> None:
    z, W_enc = torch.randn(3, 8), torch.randn(70, 8).T
    z[1, 2], W_enc[0, 66] = torch.inf, torch.nan
    values, features = cpu.encode(z, W_enc, torch.zeros(70), ops.TopKPerToken(4), None, None, torch.int8)
    assert (features[[0, 2]] == 66).any(1).all()
    assert values.isnan()[features == 66].all()
    assert not values[1].isfinite().all()
    assert ((features >= 0) & (features < 70)).all()


def test_no_tokens_have_no_features() -> None:
    acts = ops.encode(torch.zeros(0, 8), torch.randn(64, 8).T, torch.zeros(64), ops.TopKPerToken(3), dtype=torch.int8)
    assert acts.values.shape[0] == 0
