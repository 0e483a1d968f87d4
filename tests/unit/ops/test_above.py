"""Thresholds that decide in training, learned or not: the sparse path against the reference, and when it is taken."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from monoscope import ops
from monoscope.core.acts import Acts
from monoscope.core.site import Site
from monoscope.dictionaries import Recipe
from monoscope.dictionaries.initialize import Sample
from monoscope.dictionaries.step import Step
from monoscope.ops import above, blocks, reference

pytestmark = pytest.mark.usefixtures("cpu_path")

D, F, N = 24, 160, 90
LEAVES = ("x", "W_enc", "b_enc", "center", "threshold", "W_dec")


def _problem(threshold: float) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    leaves = {
        "x": draw(N, D),
        "W_enc": draw(F, D).T,
        "b_enc": draw(F),
        "center": draw(D),
        "threshold": threshold + draw(F).abs(),
        "W_dec": draw(F, D),
    }
    return {name: leaf.requires_grad_() for name, leaf in leaves.items()} | {"norm": draw(F).abs() + 0.5}


@pytest.mark.parametrize("held", [1.0, 0.0], ids=["sparse", "dense"])
@pytest.mark.parametrize("firing", [1.0, 0.0], ids=["few", "many"])
@pytest.mark.parametrize("block_bytes", [2**23, 68 * F], ids=["one block", "blocks"])
@pytest.mark.parametrize("scaled", [False, True], ids=["plain", "scaled"])
@pytest.mark.parametrize("bandwidth", [0.0, 2.0], ids=["fixed", "learned"])
def test_either_layout_has_the_references_gradients(
    bandwidth: float, scaled: bool, block_bytes: int, firing: float, held: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(above, "MOST_HELD", held)
    monkeypatch.setattr(above, "MOST_FIRING", firing)
    monkeypatch.setattr(blocks, "BLOCK_BYTES", block_bytes)
    results = []
    for fast in (True, False):
        p = _problem(11.0)
        norm = p["norm"] if scaled else None
        given = (p["x"], p["W_enc"], p["b_enc"], p["threshold"], bandwidth)
        if fast:
            acts = ops.encode_above(*given, center=p["center"], norm=norm)
            assert acts.is_sparse == bool(held)
        else:
            acts = Acts(reference.encode_above(*given, center=p["center"], norm=norm), F)
        assert acts.fired().any()
        recon = ops.decode(acts, p["W_dec"]) if fast else acts.values @ p["W_dec"]
        ((recon - p["x"].detach()).pow(2).sum() + acts.values.tanh().sum()).backward()
        results.append((acts.dense().detach(), [p[name].grad for name in LEAVES]))
    (fast_acts, fast_grads), (true_acts, true_grads) = results
    torch.testing.assert_close(fast_acts, true_acts)
    for name, fast_grad, true_grad in zip(LEAVES, fast_grads, true_grads, strict=True):
        if name == "threshold" and not bandwidth:
            assert fast_grad is None
            continue
        assert fast_grad is not None
        assert true_grad is not None
        scale = true_grad.abs().max()
        torch.testing.assert_close(fast_grad / scale, true_grad / scale, rtol=1e-5, atol=1e-5)


def test_many_entries_are_left_dense() -> None:
    p = _problem(0.0)
    acts = ops.encode_above(p["x"], p["W_enc"], p["b_enc"], p["threshold"], 2.0)
    assert not acts.is_sparse
    torch.testing.assert_close(acts.values, reference.encode_above(p["x"], p["W_enc"], p["b_enc"], p["threshold"], 2.0))


def test_narrow_scores_decide_and_values_are_exact() -> None:
    p = _problem(11.0)
    acts = ops.encode_above(p["x"], p["W_enc"], p["b_enc"], p["threshold"], 2.0, dtype=torch.bfloat16)
    exact = reference.encode_above(p["x"], p["W_enc"], p["b_enc"], p["threshold"], 2.0)
    fires = acts.dense() != 0
    assert (fires == (exact != 0)).float().mean() > 0.999
    torch.testing.assert_close(acts.dense()[fires], (p["x"] @ p["W_enc"] + p["b_enc"])[fires], rtol=1e-5, atol=1e-5)


def _dense_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain autograd through every product over all features."""

    def encode(*given: Any, dtype: object = None, **more: Any) -> Acts:
        x, W_enc, b_enc, threshold, bandwidth = given
        each = threshold if isinstance(threshold, torch.Tensor) else torch.full((F,), threshold)
        return Acts(reference.encode_above(x, W_enc, b_enc, each, bandwidth, **more), F)

    monkeypatch.setattr(ops, "encode_above", encode)
    monkeypatch.setattr(ops, "decode", lambda acts, W_dec: acts.values @ W_dec)


def _step(function: dict[str, object], terms: dict[str, object]) -> tuple[Step, dict[str, torch.Tensor]]:
    site = Site(0, "resid_post")
    recipe = Recipe.from_dict(
        {"wiring": {"kind": "autoencoder", "n_features": F}, "function": function, "terms": terms}
    )
    dictionary = recipe.build((site,), (site,), {site: D}).train()
    x = torch.randn(N, D, generator=torch.Generator().manual_seed(1))
    dictionary.initialize_(recipe.initialize, Sample.of(x, x), torch.Generator().manual_seed(0))
    if function["kind"] == "relu":
        with torch.no_grad():
            dictionary.get_parameter("b_enc").sub_(dictionary.preacts(x).quantile(0.97))
    step = dictionary(x)
    torch.stack([term.value(step) for term in recipe.terms.values()]).sum().backward()
    grads = {name: p.grad for name, p in dictionary.named_parameters() if p.grad is not None}
    return step, grads


@pytest.mark.parametrize("held", [1.0, 0.0], ids=["sparse", "dense"])
@pytest.mark.parametrize(
    ("function", "sparsity"),
    [
        ({"kind": "jumprelu", "calibrate_l0": 3, "bandwidth": 0.2}, {"kind": "l0"}),
        ({"kind": "jumprelu", "calibrate_l0": 3, "bandwidth": 0.2}, {"kind": "target_l0", "target": 2.0}),
        ({"kind": "jumprelu", "calibrate_l0": 3, "bandwidth": 0.2}, {"kind": "tanh"}),
        ({"kind": "relu"}, {"kind": "l1"}),
        ({"kind": "relu"}, {"kind": "tanh_quad"}),
    ],
    ids=["l0", "target_l0", "tanh", "relu", "relu, tanh_quad"],
)
def test_a_training_step_has_the_gradients_of_the_dense_one(
    function: dict[str, object], sparsity: dict[str, object], held: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(above, "MOST_HELD", held)
    terms: dict[str, object] = {"reconstruction": {"kind": "squared_error"}, "sparsity": sparsity}
    sparse, fast = _step(function, terms)
    assert sparse.acts.is_sparse == bool(held)
    assert sparse.acts.fired().sum() > 20
    _dense_everywhere(monkeypatch)
    dense, true = _step(function, terms)
    assert not dense.acts.is_sparse
    torch.testing.assert_close(sparse.acts.dense(), dense.acts.dense())
    assert fast.keys() == true.keys()
    for name, grad in true.items():
        torch.testing.assert_close(fast[name], grad, rtol=1e-4, atol=1e-5 * float(grad.abs().max()))
