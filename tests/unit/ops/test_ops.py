"""Fast paths against the plain PyTorch reference: values, and gradients of everything that has one."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from monoscope import ops
from monoscope.core.acts import Acts
from monoscope.ops import blocks, cpu, reference
from monoscope.ops.largest import largest_per_row

pytestmark = pytest.mark.usefixtures("cpu_path")

D, F, N = 24, 160, 90


def _problem(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    return {
        "x": draw(N, D).requires_grad_(),
        "W_enc": draw(F, D).T.requires_grad_(),
        "b_enc": draw(F).requires_grad_(),
        "center": draw(D).requires_grad_(),
        "W_dec": draw(F, D).requires_grad_(),
        "norm": draw(F).abs() + 0.5,
    }


SELECTIONS = {
    "per_token": ops.TopKPerToken(7),
    "all": ops.TopKPerToken(F),
    "magnitude": ops.AbsTopKPerToken(7),
    "all_signed": ops.AbsTopKPerToken(F),
    "groups": ops.LargestPerGroup(8),
    "per_batch": ops.TopKPerBatch(6.4),
    "nothing": ops.AboveThreshold(torch.full((F,), 1e6)),
    "threshold": ops.AboveThreshold(torch.linspace(0, 12, F)),
}


@pytest.mark.parametrize("packed_rows", [1, 10**9], ids=["packed", "unpacked"])
@pytest.mark.parametrize("scaled", [False, True], ids=["plain", "scaled"])
@pytest.mark.parametrize("selection", SELECTIONS.values(), ids=SELECTIONS.keys())
def test_fast_encode_equals_reference_in_value_and_gradient(
    selection: ops.Selection, scaled: bool, packed_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "PACKED_ROWS", packed_rows)
    names = ("x", "W_enc", "b_enc", "center", "W_dec")
    results = []
    for fast in (True, False):
        p = _problem()
        norm = p["norm"] if scaled else None
        if fast:
            acts = ops.encode(p["x"], p["W_enc"], p["b_enc"], selection, center=p["center"], norm=norm)
            recon = ops.decode(acts, p["W_dec"])
            dense = acts.dense()
        else:
            dense = reference.encode(p["x"], p["W_enc"], p["b_enc"], selection, center=p["center"], norm=norm)
            recon = dense @ p["W_dec"]
        (recon - p["x"].detach()).pow(2).sum().backward()
        results.append((dense.detach(), [p[name].grad for name in names]))
    (fast_acts, fast_grads), (true_acts, true_grads) = results
    torch.testing.assert_close(fast_acts, true_acts)
    for name, fast_grad, true_grad in zip(names, fast_grads, true_grads, strict=True):
        torch.testing.assert_close(fast_grad, true_grad, rtol=1e-4, atol=1e-2, msg=lambda m, name=name: f"{name}: {m}")


def test_rows_split_over_blocks_give_what_one_block_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    p = _problem()
    for selection in SELECTIONS.values():
        whole = ops.encode(p["x"], p["W_enc"], p["b_enc"], selection).dense()
        monkeypatch.setattr(blocks, "BLOCK_BYTES", 52 * F)
        torch.testing.assert_close(ops.encode(p["x"], p["W_enc"], p["b_enc"], selection).dense(), whole)
        monkeypatch.undo()


@pytest.mark.parametrize("name", ["per_token", "magnitude", "groups", "per_batch", "threshold"])
def test_narrow_selection_computes_what_it_selects_exactly(name: str) -> None:
    p = _problem()
    acts = ops.encode(p["x"], p["W_enc"], p["b_enc"], SELECTIONS[name], dtype=torch.bfloat16)
    pre = p["x"] @ p["W_enc"] + p["b_enc"]
    dense = acts.dense()
    fires = dense != 0
    torch.testing.assert_close(dense[fires], pre[fires], rtol=1e-5, atol=1e-5)
    exact = reference.encode(p["x"], p["W_enc"], p["b_enc"], SELECTIONS[name])
    assert (fires == (exact != 0)).float().mean() > 0.995
    assert abs(fires.sum() / (exact != 0).sum() - 1) < 0.01


def test_only_positive_entries_survive_and_ties_at_a_threshold_do_not() -> None:
    x = torch.eye(2)
    W = torch.tensor([[1.0, -1.0, 0.5], [2.0, -2.0, 1.0]])
    acts = ops.encode(x, W, torch.zeros(3), ops.TopKPerToken(3)).dense()
    torch.testing.assert_close(acts, W.relu())
    above = ops.encode(x, W, torch.zeros(3), ops.AboveThreshold(torch.tensor([1.0, 0.0, 0.5]))).dense()
    torch.testing.assert_close(above, torch.tensor([[0.0, 0.0, 0.0], [2.0, 0.0, 1.0]]))


def test_magnitude_ranks_and_sign_stays() -> None:
    W = torch.tensor([[1.0, -3.0, 2.0], [-0.5, 0.25, -0.75]])
    acts = ops.encode(torch.eye(2), W, torch.zeros(3), ops.AbsTopKPerToken(2)).dense()
    torch.testing.assert_close(acts, torch.tensor([[0.0, -3.0, 2.0], [-0.5, 0.0, -0.75]]))


def test_the_largest_of_each_group_survives_if_positive() -> None:
    p = _problem()
    acts = ops.encode(p["x"], p["W_enc"], p["b_enc"], ops.LargestPerGroup(8), center=p["center"]).dense()
    pre = ((p["x"] - p["center"]) @ p["W_enc"] + p["b_enc"]).detach()
    expected = torch.zeros_like(acts)
    for n in range(N):
        for group in range(0, F, F // 8):
            best = group + int(pre[n, group : group + F // 8].argmax())
            expected[n, best] = max(float(pre[n, best]), 0.0)
    torch.testing.assert_close(acts, expected)


def test_encode_keeps_batch_axes() -> None:
    p = _problem()
    acts = ops.encode(p["x"].view(9, 10, D), p["W_enc"], p["b_enc"], ops.TopKPerToken(5))
    assert acts.values.shape == (9, 10, 5)
    flat = ops.encode(p["x"], p["W_enc"], p["b_enc"], ops.TopKPerToken(5))
    torch.testing.assert_close(acts.dense().view(N, F), flat.dense())


@pytest.mark.parametrize("name", ["per_token", "magnitude", "groups", "threshold"])
def test_no_rows_encode_to_no_rows(name: str) -> None:
    p = _problem()
    acts = ops.encode(p["x"][:0], p["W_enc"], p["b_enc"], SELECTIONS[name])
    assert acts.dense().shape == (0, F)


def test_decode_of_both_layouts_agrees() -> None:
    p = _problem()
    acts = ops.encode(p["x"], p["W_enc"], p["b_enc"], ops.TopKPerToken(5))
    dense = Acts(acts.dense(), F)
    torch.testing.assert_close(ops.decode(acts, p["W_dec"]), ops.decode(dense, p["W_dec"]), rtol=1e-4, atol=1e-4)


def test_float64_takes_the_reference_path_and_passes_gradcheck() -> None:
    generator = torch.Generator().manual_seed(1)
    x, W, b, W_dec = (
        torch.randn(*shape, generator=generator, dtype=torch.float64, requires_grad=True)
        for shape in ((4, 5), (5, 9), (9,), (9, 5))
    )

    def loss(*parameters: torch.Tensor) -> torch.Tensor:
        x, W, b, W_dec = parameters
        return ops.decode(ops.encode(x, W, b, ops.TopKPerToken(3)), W_dec).pow(2).sum()

    assert torch.autograd.gradcheck(loss, (x, W, b, W_dec))


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 300), st.integers(1, 400), st.integers(0, 10_000), st.booleans())
def test_kth_largest_is_exact(rows: int, columns: int, seed: int, ties: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(rows, columns, generator=generator)
    if ties:
        scores = scores.round()
    k = int(torch.randint(1, rows * columns + 1, (), generator=generator))
    expected = scores.flatten().sort(descending=True).values[k - 1]
    assert ops.kth_largest(scores, k) == expected


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 12), st.integers(1, 1200), st.integers(0, 10_000), st.booleans(), st.booleans(), st.booleans())
def test_largest_per_row_are_the_largest(
    rows: int, columns: int, seed: int, ties: bool, magnitude: bool, narrow: bool
) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(rows, columns, generator=generator)
    scores = scores.round() if ties else scores
    scores = scores.bfloat16() if narrow else scores
    k = int(torch.randint(1, min(24, columns) + 1, (), generator=generator))
    found = largest_per_row(scores, k, magnitude=magnitude)
    ranked = scores.abs() if magnitude else scores.relu()
    expected = ranked.topk(k, dim=1).values
    assert torch.equal(ranked.gather(1, found).sort(dim=1, descending=True).values, expected)
    assert all(len(set(row)) == k for row in found.tolist())


@pytest.mark.parametrize("share", [1.0, 0.3], ids=["full", "padded"])
def test_gradients_of_decoder_and_values_equal_the_reference(share: float) -> None:
    generator = torch.Generator().manual_seed(2)
    values = torch.randn(50, 9, generator=generator) * (torch.rand(50, 9, generator=generator) < share)
    indices = torch.stack([torch.randperm(F, generator=generator)[:9] for _ in range(50)])
    weight = torch.randn(50, D, generator=generator)
    grads = []
    for decode in (cpu.SparseDecode.apply, reference.sparse_decode):
        v, W = values.clone().requires_grad_(), torch.randn(F, D, generator=generator.manual_seed(3)).requires_grad_()
        out = decode(v, indices, W)
        (out * weight).sum().backward()
        assert v.grad is not None
        grads.append((out.detach(), v.grad * (values != 0), W.grad))
    for fast, true in zip(*grads, strict=True):
        torch.testing.assert_close(fast, true, rtol=1e-5, atol=1e-5)


def test_the_order_by_feature_is_shared_until_indices_change() -> None:
    indices = torch.tensor([[2, 0], [1, 2]])
    first = cpu.by_feature(indices, 4)
    assert cpu.by_feature(indices.view(2, 2), 4) is first
    assert [part.tolist() for part in first] == [[1, 2, 0, 3], [0, 1, 0, 1], [0, 1, 2, 4, 4]]
    kept = torch.tensor([[True, False], [True, True]])
    assert [part.tolist() for part in cpu.by_feature(indices, 4, kept)] == [[2, 0, 3], [1, 0, 1], [0, 0, 1, 3, 3]]
    indices[0, 0] = 3
    assert cpu.by_feature(indices, 4)[2].tolist() == [0, 1, 2, 3, 4]
    assert cpu.by_feature(indices, 5)[2].tolist() == [0, 1, 2, 3, 4, 4]
