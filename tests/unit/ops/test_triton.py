"""The Triton kernels against the plain PyTorch reference: on a GPU where there is one, else under the interpreter."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from monoscope import ops
from monoscope.core.acts import Acts
from monoscope.ops import reference

pytest.importorskip("triton", reason="needs triton, which has wheels for Linux alone")

from monoscope.ops import triton as fast
from monoscope.ops.triton import above, adam, library, per_token, sparse, threshold
from monoscope.ops.triton.tiles import TILE

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
N, D, F = 19, 20, 54


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several tiles, pieces and steps in small problems, and few programs, since the interpreter runs them in turn."""
    for name, size in (("tokens", 16), ("features", 16), ("width", 16)):
        monkeypatch.setattr(TILE, name, size)
    monkeypatch.setattr(sparse, "PIECE", 32)
    monkeypatch.setattr(sparse, "WIDTH", 16)
    monkeypatch.setattr(threshold, "PROGRAMS", 2)
    monkeypatch.setattr(threshold, "AT_ONCE", 256)


def _problem(n: int = N, d: int = D, n_features: int = F, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(DEVICE, dtype)

    return {
        "x": draw(n, d).requires_grad_(),
        "W_enc": draw(n_features, d).T.requires_grad_(),
        "b_enc": draw(n_features).requires_grad_(),
        "center": draw(d).requires_grad_(),
        "W_dec": draw(n_features, d).requires_grad_(),
        "norm": draw(n_features).abs() + 0.5,
    }


SELECTIONS: dict[str, ops.Selection] = {
    "one": ops.TopKPerToken(1),
    "per_token": ops.TopKPerToken(5),
    "more_than_a_tile": ops.TopKPerToken(20),
    "all": ops.TopKPerToken(F),
    "magnitude": ops.AbsTopKPerToken(5),
    "one_group": ops.LargestPerGroup(1),
    "groups": ops.LargestPerGroup(2),
    "per_batch": ops.TopKPerBatch(6.4),
    "one_per_batch": ops.TopKPerBatch(1 / N),
    "all_of_batch": ops.TopKPerBatch(F),
    "nothing": ops.AboveThreshold(torch.full((F,), 1e6, device=DEVICE)),
    "threshold": ops.AboveThreshold(torch.linspace(0, 12, F, device=DEVICE)),
    "one_threshold": ops.AboveThreshold(torch.tensor(2.0, device=DEVICE).expand(F)),
    "positive": ops.AboveThreshold(torch.zeros(F, device=DEVICE)),
}


def _encoded(
    p: dict[str, Tensor], selection: ops.Selection, dtype: torch.dtype = torch.float32, **extra: Tensor
) -> Acts:
    values, indices = fast.encode(
        p["x"], p["W_enc"], p["b_enc"], selection, extra.get("center"), extra.get("norm"), dtype
    )
    return Acts(values, p["W_enc"].shape[1], indices)


def _gradients(p: dict[str, Tensor], recon: Tensor) -> dict[str, Tensor]:
    names = [name for name in ("x", "W_enc", "b_enc", "center", "W_dec", "threshold") if name in p]
    loss = (recon - p["x"].detach()).pow(2).sum()
    found = torch.autograd.grad(loss, [p[name] for name in names], allow_unused=True)
    return {name: grad for name, grad in zip(names, found, strict=True) if grad is not None}


@pytest.mark.parametrize("name", SELECTIONS)
def test_encode_and_decode_equal_the_reference_in_value_and_gradient(name: str) -> None:
    selection, p = SELECTIONS[name], _problem()
    is_scaled = len(name) % 2 == 0  # half of the rules with norms and a center, half without
    extra = {"norm": p["norm"], "center": p["center"]} if is_scaled else {}
    acts = _encoded(p, selection, **extra)
    recon = fast.sparse_decode(acts.values, acts.indices, p["W_dec"])
    dense = reference.encode(p["x"], p["W_enc"], p["b_enc"], selection, **extra)
    assert torch.equal(acts.dense() != 0, dense != 0)
    torch.testing.assert_close(acts.dense(), dense)
    torch.testing.assert_close(recon, dense @ p["W_dec"], rtol=1e-5, atol=1e-4)
    found, true = _gradients(p, recon), _gradients(p, dense @ p["W_dec"])
    assert found.keys() == true.keys()
    for key in true:
        torch.testing.assert_close(found[key], true[key], rtol=1e-4, atol=1e-5 * float(true[key].abs().max()))


@pytest.mark.parametrize("scaled", [False, True], ids=["plain", "scaled"])
def test_tokens_whose_tile_held_too_few_candidates_are_repaired(monkeypatch: pytest.MonkeyPatch, scaled: bool) -> None:
    p = _problem()
    norm = {"norm": p["norm"]} if scaled else {}
    monkeypatch.setattr(per_token, "candidates_per_tile", lambda k, n_tiles, width: 1)
    dense = reference.encode(p["x"], p["W_enc"], p["b_enc"], ops.AbsTopKPerToken(5), **norm)
    torch.testing.assert_close(_encoded(p, ops.AbsTopKPerToken(5), **norm).dense(), dense)


@pytest.mark.parametrize("kept", [1, 4])
def test_many_candidates_are_merged_by_a_radix_selection(monkeypatch: pytest.MonkeyPatch, kept: int) -> None:
    p = _problem()
    monkeypatch.setattr(per_token, "MOST_MERGED", 8)
    monkeypatch.setattr(per_token, "candidates_per_tile", lambda k, n_tiles, width: kept)
    dense = reference.encode(p["x"], p["W_enc"], p["b_enc"], ops.TopKPerToken(5))
    torch.testing.assert_close(_encoded(p, ops.TopKPerToken(5)).dense(), dense)


def test_a_tile_keeps_all_of_k_or_more_than_its_share() -> None:
    assert per_token.candidates_per_tile(32, 1, 128) == 32
    assert per_token.candidates_per_tile(500, 1, 128) == 128
    assert 2 <= per_token.candidates_per_tile(32, 48, 128) <= 16


@pytest.mark.parametrize(("n", "d", "n_features", "k"), [(1, 1, 1, 1), (3, 33, 17, 17), (17, 16, 16, 2), (2, 5, 40, 3)])
def test_shapes_that_fill_no_tile(n: int, d: int, n_features: int, k: int) -> None:
    p = _problem(n, d, n_features)
    for selection in (ops.TopKPerToken(k), ops.TopKPerBatch(k), ops.AboveThreshold(torch.zeros(n_features))):
        acts = _encoded(p, selection)
        dense = reference.encode(p["x"], p["W_enc"], p["b_enc"], selection)
        torch.testing.assert_close(acts.dense(), dense)
        recon = fast.sparse_decode(acts.values, acts.indices, p["W_dec"])
        torch.testing.assert_close(recon, dense @ p["W_dec"], rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("name", ["per_token", "groups", "per_batch", "threshold"])
def test_no_tokens_give_no_entries_and_gradients_of_zero(name: str) -> None:
    p = _problem(n=0)
    acts = _encoded(p, SELECTIONS[name])
    recon = fast.sparse_decode(acts.values, acts.indices, p["W_dec"])
    assert recon.shape == (0, D)
    assert all(not grad.any() for grad in _gradients(p, recon).values())


def test_of_equal_scores_the_first_features_win() -> None:
    x, W_enc, b = torch.ones(2, 4, device=DEVICE), torch.ones(4, F, device=DEVICE), torch.zeros(F, device=DEVICE)
    _, indices = fast.encode(x, W_enc, b, ops.TopKPerToken(6), None, None, torch.float32)
    assert indices.sort().values.tolist() == [list(range(6))] * 2
    values, _ = fast.encode(x, W_enc, b, ops.TopKPerBatch(6), None, None, torch.float32)
    assert values.shape == (2, F), "a batch's budget lets all of a tie through, as the reference does"


@pytest.mark.parametrize("name", ["per_token", "magnitude", "groups", "per_batch", "threshold"])
def test_narrow_selection_computes_what_it_selects_exactly(name: str) -> None:
    p = _problem(n=64)
    dense = _encoded(p, SELECTIONS[name], torch.bfloat16).dense()
    fires = dense != 0
    pre = p["x"] @ p["W_enc"] + p["b_enc"]
    torch.testing.assert_close(dense[fires], pre[fires], rtol=1e-5, atol=1e-5)
    exact = reference.encode(p["x"], p["W_enc"], p["b_enc"], SELECTIONS[name])
    assert (fires == (exact != 0)).float().mean() > 0.995
    assert abs(fires.sum() / (exact != 0).sum() - 1) < 0.01


@pytest.mark.parametrize("name", ["per_token", "threshold"])
def test_weights_in_bf16_are_summed_in_fp32(name: str) -> None:
    p, selection = _problem(dtype=torch.bfloat16), SELECTIONS[name]
    wide = {key: value.detach().float().requires_grad_() for key, value in p.items()}
    acts = _encoded(p, selection, torch.bfloat16)
    recon = fast.sparse_decode(acts.values, acts.indices, p["W_dec"])
    assert recon.dtype == acts.values.dtype == torch.bfloat16
    dense = reference.encode(wide["x"], wide["W_enc"], wide["b_enc"], selection)
    true_recon = dense @ wide["W_dec"]
    torch.testing.assert_close(acts.dense().float(), dense, rtol=2**-7, atol=2**-7)
    torch.testing.assert_close(
        recon.float(), true_recon, rtol=2**-7, atol=2**-7 * float(true_recon.detach().abs().max())
    )
    found, true = _gradients(p, recon), _gradients(wide, true_recon)
    for key in found:
        assert found[key].dtype == torch.bfloat16
        error = (found[key].float() - true[key]).abs().max() / true[key].abs().max()
        assert error < 2**-6, f"{key} is off by {error:.4f} of its largest entry"


@pytest.mark.parametrize("n", [1, 300, 2000])
def test_the_kth_largest_is_found_by_its_digits(n: int) -> None:
    scores = torch.randn(n, generator=torch.Generator().manual_seed(n)).to(DEVICE)
    scores[:: max(1, n // 7)] = 0.5  # ties
    for k in {1, n, (n + 1) // 2}:
        assert fast.kth_largest(scores, k) == scores.sort(descending=True).values[k - 1]


def test_sums_by_feature_skip_padding_and_repeat_to_the_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sparse, "PIECE", 4)
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(N, 6, generator=generator).to(DEVICE)
    indices = torch.randint(0, 3, (N, 6), generator=generator).to(DEVICE)  # features that fire often: many pieces
    weights[indices == 1] = 0.0
    x = torch.randn(N, D, generator=generator).to(DEVICE)
    order, starts = library.by_feature(weights, indices, 5)
    assert starts.tolist()[0] == 0
    assert starts.tolist()[-1] == int((weights != 0).sum())
    out, total = library.sum_by_feature(weights, order, starts, x)
    dense = torch.zeros(N, 5, device=DEVICE).scatter_add(1, indices, weights)
    torch.testing.assert_close(out, dense.T @ x)
    torch.testing.assert_close(total, dense.sum(0))
    again, total_again = library.sum_by_feature(weights, order, starts, x)
    assert torch.equal(out, again)
    assert torch.equal(total, total_again)


def _operator_calls() -> dict[str, tuple[Callable[..., Tensor], tuple[object, ...]]]:
    p = {key: value.detach() for key, value in _problem(n=4).items()}
    z, rows, b, norm = p["x"], p["W_enc"].T.contiguous(), p["b_enc"], p["norm"]
    indices = torch.tensor([[0, 5], [7, 53], [3, 1], [2, 9]], device=DEVICE)
    values = torch.ones(4, 2, device=DEVICE)
    return {
        "top_per_token": (library.top_per_token, (z, rows, b, norm, 3, True)),
        "largest_per_group": (library.largest_per_group, (z, rows, b, None, 1)),
        "above_threshold": (library.above_threshold, (z, rows, b, None, torch.ones(F, device=DEVICE), False, F)),
        "batch_bound": (library.batch_bound, (z, rows, b, None, 9)),
        "kth_largest": (library.kth_largest, (values, 2)),
        "gathered_dot": (library.gathered_dot, (z, rows, indices, b)),
        "by_feature": (library.by_feature, (values, indices, F)),
        "sum_by_feature": (library.sum_by_feature, (values, *library.by_feature(values, indices, F), z)),
        "sparse_decode": (
            library._sparse_decode,
            (values.clone().requires_grad_(), indices, p["W_dec"].clone().requires_grad_()),
        ),
        "adam_rows_": (library._adam, (*torch.rand(4, 3, D).to(DEVICE), None, 1, 0.1, 0.9, 0.99, 1e-8, True)),
        "attach": (
            library._attach,
            (values, indices, z.clone().requires_grad_(), rows.clone().requires_grad_(), b, p["center"]),
        ),
    }


@pytest.mark.parametrize("name", _operator_calls())
def test_operators_keep_the_contract_of_pytorch(name: str) -> None:
    operator, arguments = _operator_calls()[name]
    torch.library.opcheck(operator, arguments)


@pytest.mark.parametrize("name", ["per_token", "per_batch", "threshold"])
def test_torch_compile_sees_one_graph(name: str) -> None:
    selection, p = SELECTIONS[name], _problem(n=4)

    def loss(x: Tensor, W_enc: Tensor, b_enc: Tensor, W_dec: Tensor) -> Tensor:
        values, indices = fast.encode(x, W_enc, b_enc, selection, None, None, torch.float32)
        return (fast.sparse_decode(values, indices, W_dec) - x).pow(2).sum()

    inputs = [p[key] for key in ("x", "W_enc", "b_enc", "W_dec")]
    torch._dynamo.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*inputs), loss(*inputs))
    found = torch.autograd.grad(compiled(*inputs), inputs)
    for grad, true in zip(found, torch.autograd.grad(loss(*inputs), inputs), strict=True):
        torch.testing.assert_close(grad, true)


@pytest.mark.parametrize("unit_norm", [False, True], ids=["free", "unit rows"])
def test_adam_moves_rows_as_its_equations_say(monkeypatch: pytest.MonkeyPatch, unit_norm: bool) -> None:
    monkeypatch.setattr(adam, "MOST_AT_ONCE", 16)
    generator = torch.Generator().manual_seed(0)
    w, grad, m, v = (torch.randn(5, D, generator=generator).to(DEVICE) for _ in range(4))
    w, v = torch.nn.functional.normalize(w, dim=1), v.abs()
    found = [w.clone(), grad.clone(), m.clone(), v.clone()]
    scale = torch.tensor(0.5, device=DEVICE) if unit_norm else None
    fast.adam_rows_(*found, step=3, lr=0.1, betas=(0.9, 0.99), eps=1e-8, scale=scale, unit_norm=unit_norm)
    g = 0.5 * (grad - (grad * w).sum(1, keepdim=True) * w) if unit_norm else grad
    m, v = 0.9 * m + 0.1 * g, 0.99 * v + 0.01 * g * g
    w = w - 0.1 * (m / (1 - 0.9**3)) / ((v / (1 - 0.99**3)).sqrt() + 1e-8)
    w = torch.nn.functional.normalize(w, dim=1) if unit_norm else w
    for x, y in zip((found[0], *found[2:]), (w, m, v), strict=True):
        torch.testing.assert_close(x, y)


def test_adam_moves_nothing_where_the_scale_is_not_finite() -> None:
    start = [torch.full((3, D), value, device=DEVICE) for value in (1.0, torch.nan, 0.5, 0.25)]
    found = [x.clone() for x in start]
    scale = torch.tensor(torch.nan, device=DEVICE)
    fast.adam_rows_(*found, step=1, lr=0.1, betas=(0.9, 0.99), eps=1e-8, scale=scale, unit_norm=True)
    for x, y in zip(found, start, strict=True):
        torch.testing.assert_close(x, y, equal_nan=True)


@pytest.mark.parametrize("scaled", [False, True], ids=["plain", "scaled"])
@pytest.mark.parametrize("bandwidth", [0.0, 3.0])
def test_thresholds_learn_from_what_is_near_them(
    monkeypatch: pytest.MonkeyPatch, bandwidth: float, scaled: bool
) -> None:
    monkeypatch.setattr(above, "MOST_HELD", 1.0)
    p = _problem()
    start = torch.linspace(0, 6, F, device=DEVICE)  # some windows reach below 0
    extra = (p["center"], p["norm"]) if scaled else (None, None)
    found_threshold, true_threshold = (start.clone().requires_grad_() for _ in range(2))
    weights = (p["x"], p["W_enc"], p["b_enc"])
    acts = fast.encode_above(*weights, found_threshold, bandwidth, *extra, torch.float32)
    named = {"center": extra[0], "norm": extra[1]}
    dense = reference.encode_above(*weights, true_threshold, bandwidth, **named)
    torch.testing.assert_close(acts.dense(), dense)
    recon = fast.sparse_decode(acts.values, acts.indices, p["W_dec"])
    found, true = (
        _gradients(p | {"threshold": threshold}, out)
        for threshold, out in ((found_threshold, recon), (true_threshold, dense @ p["W_dec"]))
    )
    assert found.keys() == true.keys()
    assert ("threshold" in found) == (bandwidth > 0)
    for key in true:
        torch.testing.assert_close(found[key], true[key], rtol=1e-4, atol=1e-5 * float(true[key].abs().max()))
    if bandwidth:
        score = (p["x"] - p["center"] if scaled else p["x"]) @ p["W_enc"] + p["b_enc"]
        score = score * p["norm"] if scaled else score
        assert torch.equal(acts.window.near, ((score - start).abs() < bandwidth / 2).sum(0))


def test_many_entries_above_thresholds_are_left_to_the_dense_way() -> None:
    p = _problem()
    given = (p["x"], p["W_enc"], p["b_enc"], torch.zeros(F, device=DEVICE), 1.0, None, None, torch.float32)
    assert fast.encode_above(*given) is None


LAYERED: dict[str, ops.Selection] = {
    "per_token": ops.TopKPerToken(6),
    "per_batch": ops.TopKPerBatch(6.4),
    "threshold": ops.AboveThreshold(torch.linspace(0, 8, 2 * F, device=DEVICE)),
    "each": ops.EachLayer((ops.TopKPerToken(3), ops.TopKPerToken(2))),
}


@pytest.mark.parametrize("name", LAYERED)
def test_layers_equal_the_reference_in_value_and_gradient(name: str) -> None:
    one, other = _problem(), _problem(n_features=F)
    x = torch.stack([one["x"], 0.5 * one["x"]], dim=1).detach().requires_grad_()
    W_enc, b_enc = [one["W_enc"], other["W_dec"].detach().T.requires_grad_()], [one["b_enc"], other["b_enc"]]
    norm = torch.cat([one["norm"], other["norm"].flip(0)])
    parts = fast.encode_layers(x, W_enc, b_enc, LAYERED[name], norm, torch.float32)
    found = torch.cat([Acts(values, F, indices).dense() for values, indices in parts], dim=1)
    true = reference.encode_layers(x, W_enc, b_enc, LAYERED[name], norm=norm)
    torch.testing.assert_close(found, true)
    inputs = [x, *W_enc, *b_enc]
    for grad, expected in zip(
        torch.autograd.grad(found.pow(2).sum(), inputs), torch.autograd.grad(true.pow(2).sum(), inputs), strict=True
    ):
        torch.testing.assert_close(grad, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("capability", [80, 90])
def test_every_kernel_compiles_for_a_gpu(capability: int) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    script = Path(__file__).parents[2] / "compile_kernels.py"
    done = subprocess.run(
        [sys.executable, str(script), str(capability)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    compiled = {line.split()[0]: int(line.split()[2]) for line in done.stdout.splitlines()}
    assert compiled.keys() == {
        "_above_threshold", "_adam", "_add_pieces", "_candidates", "_gathered_dot", "_histogram", "_histogram_of_pre",
        "_largest_per_group", "_merge", "_repair", "_sparse_decode", "_sum_pieces",
    }  # fmt: skip
    assert max(compiled.values()) <= 163 * 1024, "more shared memory than a block of an A100 has"
