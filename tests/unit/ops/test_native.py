"""Compiled kernels against plain PyTorch, for every instruction set that this processor has."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from monoscope import ops
from monoscope.ops import cpu, reference
from monoscope.ops.native import Kernels, loading
from monoscope.ops.native.building import Unavailable, instructions
from monoscope.training.optim import Adam

ORDER = ["portable", "AVX2", "AVX512", "AVX512_VNNI"]


@pytest.fixture(scope="module", params=ORDER)
def native(request: pytest.FixtureRequest) -> Kernels:
    if ORDER.index(request.param) > ORDER.index(instructions()):
        pytest.skip(f"this processor has no {request.param}")
    try:
        return loading.load(request.param)
    except Unavailable as why:
        pytest.skip(f"no compiled kernels: {why}")


sizes = st.tuples(st.integers(0, 9), st.integers(1, 70), st.integers(1, 90), st.integers(0, 12), st.integers(0, 10_000))


def _case(n: int, d: int, F: int, k: int, seed: int) -> dict[str, torch.Tensor]:
    """Rows of F features, n tokens that each hold k of them (repeats too), and weights of which some are 0."""
    torch.manual_seed(seed)
    weights = torch.randn(n, k) * (torch.rand(n, k) > 0.3)
    return {
        "x": torch.randn(n, d),
        "rows": torch.randn(F, d),
        "indices": torch.randint(F, (n, k)),
        "weights": weights,
    }


@given(sizes)
def test_rows_chosen_by_index_are_multiplied_summed_and_scattered(native: Kernels, size: tuple[int, ...]) -> None:
    n, d, F, k, seed = size
    c = _case(n, d, F, k, seed)
    expected = torch.einsum("nd,nkd->nk", c["x"], c["rows"][c["indices"]])
    torch.testing.assert_close(native.gathered_dot(c["x"], c["rows"], c["indices"]), expected, rtol=1e-4, atol=1e-4)
    kept = c["weights"] != 0
    some = native.gathered_dot(c["x"], c["rows"], c["indices"], kept)
    torch.testing.assert_close(some, expected * kept, rtol=1e-4, atol=1e-4)
    summed = native.weighted_rows(c["weights"], c["indices"], c["rows"])
    torch.testing.assert_close(
        summed, reference.sparse_decode(c["weights"], c["indices"], c["rows"]), rtol=1e-4, atol=1e-4
    )
    scattered = native.scatter_rows(c["weights"], c["indices"], c["x"], F)
    each = (c["weights"][:, :, None] * c["x"][:, None]).reshape(-1, d)
    torch.testing.assert_close(
        scattered, torch.zeros(F, d).index_add_(0, c["indices"].flatten(), each), rtol=1e-4, atol=1e-4
    )


@given(sizes, st.booleans(), st.sampled_from([torch.float32, torch.bfloat16]), st.booleans())
def test_the_largest_of_a_row_are_those_a_sort_puts_first(
    native: Kernels, size: tuple[int, ...], magnitude: bool, dtype: torch.dtype, ties: bool
) -> None:
    n, _, F, k, seed = size
    torch.manual_seed(seed)
    score, k = torch.randn(n, F), min(k, F)
    score = (score.round() if ties else score).to(dtype)
    rank = score.abs() if magnitude else score
    expected = rank.sort(dim=1, descending=True, stable=True).indices[:, :k].sort(dim=1).values
    assert torch.equal(native.top_per_row(score, k, magnitude=magnitude), expected)


@pytest.mark.parametrize("k", [1, 7, 32, 100, 900])
def test_the_largest_of_a_long_row_are_those_a_sort_puts_first(native: Kernels, k: int) -> None:
    score = torch.randn(50, 1003).bfloat16()
    expected = score.sort(dim=1, descending=True, stable=True).indices[:, :k].sort(dim=1).values
    assert torch.equal(native.top_per_row(score, k), expected)


@given(sizes, st.booleans(), st.sampled_from([torch.float32, torch.bfloat16]))
def test_entries_above_a_threshold_are_found_in_order(
    native: Kernels, size: tuple[int, ...], scaled: bool, dtype: torch.dtype
) -> None:
    n, _, F, _, seed = size
    torch.manual_seed(seed)
    pre, threshold = torch.randn(n, F).round().to(dtype), torch.randn(F).round()
    score = pre * (torch.rand(F).round() + 1).to(dtype) if scaled else pre
    for positive in (True, False):
        kept = (score > threshold) & ((pre > 0) if positive else True)
        n_kept = int(kept.sum())
        found = native.above(pre, score, threshold, positive=positive, most=n_kept)
        assert found is not None
        assert torch.equal(torch.stack(found[:2]), torch.stack(kept.nonzero(as_tuple=True)))
        assert torch.equal(found[2], pre.float()[kept])
        if n_kept:
            assert native.above(pre, score, threshold, positive=positive, most=n_kept - 1) is None


def test_nan_ranks_above_infinity_and_rows_without_numbers_are_no_trouble(native: Kernels) -> None:
    score = torch.tensor([[1.0, torch.inf, -torch.nan, 2.0], [torch.nan] * 4, [-torch.inf] * 4, [0.0, -0.0, 0.0, -0.0]])
    assert native.top_per_row(score, 2).tolist() == [[1, 2], [0, 1], [0, 1], [0, 1]]


@given(sizes, st.booleans(), st.integers(0, 40))
def test_topk_chosen_in_8_bits_is_that_of_exact_scores(
    native: Kernels, size: tuple[int, ...], scaled: bool, more: int
) -> None:
    n, d, F, k, seed = size
    torch.manual_seed(seed)
    F, k = F + 100 * more, min(k, F)
    z, rows, bias, norm = torch.randn(n, d), torch.randn(F, d), torch.randn(F), torch.rand(F) + 0.5
    pre = z @ rows.T + bias
    score = pre * norm if scaled else pre
    values, features = native.encode_topk(z, rows, bias, norm if scaled else None, k, min(F, k + max(8, k // 2)))
    torch.testing.assert_close(values, pre.gather(1, features).relu(), rtol=1e-4, atol=1e-4)
    best = score.topk(k, dim=1).values.sort(dim=1).values
    torch.testing.assert_close(score.gather(1, features).sort(dim=1).values, best, rtol=1e-2, atol=1e-2)
    assert (features.diff(dim=1) > 0).all()


def test_features_of_8_bits_are_those_of_fp32_where_tokens_have_a_few_large_coordinates(native: Kernels) -> None:
    z, rows = torch.randn(200, 96), torch.randn(1000, 96)
    z[:, 3] *= 20
    chosen = native.encode_topk(z, rows, torch.zeros(1000), None, 16, 24)[1]
    exact = (z @ rows.T).topk(16, dim=1).indices.sort(dim=1).values
    in_bf16 = (z.bfloat16() @ rows.bfloat16().T).topk(16, dim=1).indices.sort(dim=1).values
    assert (chosen == exact).all(1).float().mean() >= max(0.98, (in_bf16 == exact).all(1).float().mean())


def test_the_largest_sums_that_8_bits_give_are_held(native: Kernels) -> None:
    z = torch.tensor([1.0, -1.0])[:, None].expand(2, 100).contiguous()  # every coordinate is a token's largest
    rows = torch.linspace(-1, 1, 301)[:, None].expand(301, 100).contiguous()  # and a feature's
    values, features = native.encode_topk(z, rows, torch.zeros(301), None, 4, 12)
    assert features.tolist() == [[297, 298, 299, 300], [0, 1, 2, 3]]
    torch.testing.assert_close(values, (z @ rows.T).gather(1, features))


def test_what_is_not_a_number_is_among_the_largest_in_8_bits(native: Kernels) -> None:
    z, rows = torch.randn(3, 8), torch.randn(70, 8)
    z[1, 2], rows[66, 0] = torch.inf, torch.nan
    values, features = native.encode_topk(z, rows, torch.zeros(70), None, 4, 12)
    assert (features == 66).any(1).all()
    assert values.isnan()[features == 66].all()
    assert not values[1].isfinite().all()
    assert ((features >= 0) & (features < 70)).all()


def test_what_is_not_contiguous_is_read_as_it_is(native: Kernels) -> None:
    x, rows = torch.randn(12, 10).T, torch.randn(12, 40).T
    indices = torch.randint(40, (3, 10)).T
    expected = torch.einsum("nd,nkd->nk", x, rows[indices])
    torch.testing.assert_close(native.gathered_dot(x, rows, indices), expected, rtol=1e-4, atol=1e-4)
    pre = torch.randn(40, 10).T
    assert torch.equal(native.top_per_row(pre, 3), pre.topk(3, dim=1).indices.sort(dim=1).values)


@pytest.mark.parametrize("bad", [-1, 5])
def test_features_that_are_not_there_are_refused(native: Kernels, bad: int) -> None:
    x, rows, indices = torch.randn(2, 3), torch.randn(5, 3), torch.tensor([[0], [bad]])
    with pytest.raises(IndexError, match="of a dictionary that has 5"):
        native.gathered_dot(x, rows, indices)
    with pytest.raises(IndexError, match="of a dictionary that has 5"):
        native.weighted_rows(torch.ones(2, 1), indices, rows)
    with pytest.raises(IndexError, match="of a dictionary that has 5"):
        native.scatter_rows(torch.ones(2, 1), indices, x, 5)


def test_a_step_of_adam_is_that_of_torch(native: Kernels) -> None:
    weight = torch.nn.Parameter(torch.randn(7, 19))
    optimizer = Adam(lr=1e-2).build([weight])
    own, first, second = weight.detach().clone(), torch.zeros(7, 19), torch.zeros(7, 19)
    for step in range(1, 6):
        grad = torch.randn(7, 19)
        weight.grad = grad * 0.5
        optimizer.step()
        native.adam_rows_(own, grad, first, second, step=step, lr=1e-2, betas=(0.9, 0.999), eps=1e-8, scale=0.5)
        torch.testing.assert_close(own, weight.detach())


def test_a_step_of_adam_on_unit_rows_removes_what_lies_along_them(native: Kernels) -> None:
    start = torch.nn.functional.normalize(torch.randn(7, 19), dim=1)
    weight, own, first, second = (
        torch.nn.Parameter(start.clone()),
        start.clone(),
        torch.zeros(7, 19),
        torch.zeros(7, 19),
    )
    optimizer = Adam(lr=1e-2).build([weight])
    for step in range(1, 4):
        grad = torch.randn(7, 19)
        with torch.no_grad():
            weight.grad = grad - (grad * weight).sum(1, keepdim=True) * weight
            optimizer.step()
            weight.div_(weight.norm(dim=1, keepdim=True))
        native.adam_rows_(own, grad, first, second, step=step, lr=1e-2, betas=(0.9, 0.999), eps=1e-8, unit_norm=True)
        torch.testing.assert_close(own, weight.detach(), rtol=1e-4, atol=1e-5)


def _everything(native: Kernels, c: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    weight, first, second = c["rows"].clone(), torch.zeros_like(c["rows"]), torch.zeros_like(c["rows"])
    scattered = native.scatter_rows(c["weights"], c["indices"], c["x"], len(c["rows"]))
    native.adam_rows_(weight, scattered, first, second, step=1, lr=1e-2, betas=(0.9, 0.999), eps=1e-8, unit_norm=True)
    return [
        native.gathered_dot(c["x"], c["rows"], c["indices"]),
        native.weighted_rows(c["weights"], c["indices"], c["rows"]),
        native.top_per_row(c["x"], 5),
        *native.encode_topk(c["x"], c["rows"], torch.zeros(len(c["rows"])), None, 6, 14),
        *(scattered, weight, first, second),
    ]


def test_any_number_of_threads_gives_the_same_bits(native: Kernels) -> None:
    c = _case(300, 33, 200, 9, 0)
    results = []
    try:
        for n_threads in (1, 2, 5):
            torch.set_num_threads(n_threads)
            results.append(_everything(native, c))
    finally:
        torch.set_num_threads(1)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_without_an_openmp_runtime_threads_are_its_own(native: Kernels) -> None:
    c = _case(300, 33, 200, 9, 0)
    expected = _everything(native, c)
    native._library.monoscope_threads_of(None)
    try:
        torch.set_num_threads(3)
        assert all(torch.equal(a, b) for a, b in zip(_everything(native, c), expected, strict=True))
    finally:
        torch.set_num_threads(1)
        native._library.monoscope_threads_of(loading._openmp())


def test_threads_of_a_program_may_call_at_once(native: Kernels) -> None:
    c = _case(200, 33, 100, 9, 0)
    expected, results = _everything(native, c), []

    def call() -> None:
        results.extend(_everything(native, c) for _ in range(20))

    callers = [threading.Thread(target=call) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert len(results) == 80
    assert all(torch.equal(a, b) for result in results for a, b in zip(result, expected, strict=True))


def test_encoding_and_decoding_take_the_kernels_and_change_little(
    native: Kernels, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    class Spied:
        def __getattr__(self, name: str) -> Any:
            calls.append(name)
            return getattr(native, name)

    results = []
    for own in (Spied(), None):
        monkeypatch.setattr(cpu, "kernels", lambda own=own: own)
        torch.manual_seed(0)
        x, W_enc, b_enc, W_dec = torch.randn(50, 20), torch.randn(64, 20).T, torch.randn(64), torch.randn(64, 20)
        parameters = [t.requires_grad_() for t in (x, W_enc, b_enc, W_dec)]
        acts = ops.encode(x, W_enc, b_enc, ops.TopKPerToken(6), dtype=torch.bfloat16)
        recon = ops.decode(acts, W_dec)
        recon.pow(2).sum().backward()
        results.append([acts.dense().detach(), recon.detach(), *(t.grad for t in parameters)])
    assert {"gathered_dot", "weighted_rows", "scatter_rows"} <= set(calls)
    for fast, pure in zip(*results, strict=True):
        torch.testing.assert_close(fast, pure, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("selection", [ops.TopKPerToken(6), ops.AbsTopKPerToken(6)], ids=["topk", "abs_topk"])
def test_selection_in_int8_is_exact_for_topk_and_bf16_elsewhere(
    native: Kernels, selection: ops.Selection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu, "kernels", lambda: native)
    x, W_enc, b_enc = torch.randn(50, 20), torch.randn(64, 20).T.requires_grad_(), torch.randn(64)
    acts = ops.encode(x, W_enc, b_enc, selection, center=torch.ones(20), dtype=torch.int8)
    exact = reference.encode(x, W_enc, b_enc, selection, center=torch.ones(20))
    assert (acts.dense() != 0).eq(exact != 0).float().mean() > (0.999 if native.multiplies_int8 else 0.99)
    acts.values.sum().backward()
    assert W_enc.grad is not None
