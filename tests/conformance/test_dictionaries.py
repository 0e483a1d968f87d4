"""What every dictionary must satisfy, generated over activation functions and kinds of autoencoder."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from monoscope.core.acts import Acts
from monoscope.core.site import Site
from monoscope.dictionaries import ActivationFunction, Autoencoder, Dictionary, Recipe, load
from monoscope.dictionaries.objective import Term

IN, OUT = Site(1, "mlp_in"), Site(1, "mlp_out")
D_IN, D_OUT, F, K, N = 12, 10, 40, 4, 64

FUNCTIONS = sorted(ActivationFunction.Config.kinds())
WIRINGS: dict[str, dict[str, Any]] = {
    "sae": {},
    "scaled": {"scale_by_decoder_norm": True, "unit_norm": False},
    "transcoder": {},
    "skip": {"skip": True},
}
SIZES = {"k": K, "calibrate_l0": float(K), "target": float(K)}


def recipe(function: str, wiring: str, **terms: dict[str, Any]) -> Recipe:
    """The smallest valid recipe of a function, with sizes that suit the toy."""
    fields = ActivationFunction.Config.kinds()[function].model_fields
    table = {"kind": function} | {name: value for name, value in SIZES.items() if name in fields}
    losses: dict[str, dict[str, Any]] = {"reconstruction": {"kind": "fvu"}}
    if function == "relu":
        losses = {"reconstruction": {"kind": "squared_error"}, "sparsity": {"kind": "l1"}}
    if function == "jumprelu":
        losses["sparsity"] = {"kind": "target_l0", "target": K}
    return Recipe.from_dict(
        {
            "wiring": {"kind": "autoencoder", "n_features": F, **WIRINGS[wiring]},
            "function": table,
            "terms": losses | terms,
        }
    )


def build(function: str, wiring: str = "sae", *, seed: int = 0, dtype: torch.dtype = torch.float32) -> Dictionary:
    """A dictionary in training, with no parameter at a special value."""
    generator = torch.Generator().manual_seed(seed)
    is_sae = wiring in ("sae", "scaled")
    chosen = recipe(function, wiring)
    dictionary = chosen.build((IN,), (IN if is_sae else OUT,), {IN: D_IN, OUT: D_OUT}).train()
    x, target = sample(is_sae, seed)
    dictionary.initialize_(chosen.initialize, x, target, generator)
    with torch.no_grad():
        for parameter in (dictionary.W_enc, dictionary.b_enc, dictionary.W_dec, dictionary.b_dec):
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
        if dictionary.W_skip is not None:
            dictionary.W_skip.normal_(generator=generator)
        dictionary.project_()
    dictionary(x, target)
    return dictionary.to(dtype)


def sample(is_sae: bool, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Activations read, and their targets."""
    generator = torch.Generator().manual_seed(seed + 1)
    x = torch.randn(N, D_IN, generator=generator) * 2 + 0.3
    return x, x if is_sae else torch.randn(N, D_OUT, generator=generator)


def data(dictionary: Dictionary) -> tuple[torch.Tensor, torch.Tensor]:
    """Activations for a dictionary."""
    dtype = dictionary.b_dec.dtype
    x, target = (t.to(dtype) for t in sample(dictionary.reads == dictionary.writes))
    return x, target


every = [pytest.param(f, w, id=f"{f}-{w}") for f in FUNCTIONS for w in WIRINGS]


@pytest.mark.parametrize(("function", "wiring"), every)
def test_shapes(function: str, wiring: str) -> None:
    dictionary = build(function, wiring)
    x, target = data(dictionary)
    step = dictionary(x.view(8, 8, -1), target.view(8, 8, -1))
    assert step.pre.shape == (8, 8, F)
    assert step.acts.dense().shape == (8, 8, F)
    assert step.recon.shape == step.target.shape == (8, 8, target.shape[-1])
    assert 0 < step.acts.l0().float().mean() < F


@pytest.mark.parametrize(("function", "wiring"), every)
def test_encode_agrees_with_the_function_applied_to_preacts(function: str, wiring: str) -> None:
    for mode in (True, False):
        dictionary = build(function, wiring).train(mode)
        x, _ = data(dictionary)
        expected = dictionary.activation(dictionary.preacts(x), dictionary.score_norm()).dense()
        torch.testing.assert_close(dictionary.encode(x).dense(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("function", "wiring"), every)
def test_both_layouts_give_the_same_loss_and_gradient(function: str, wiring: str) -> None:
    grads = []
    for layout in ("own", "dense"):
        dictionary = build(function, wiring)
        x, target = data(dictionary)
        acts = dictionary.encode(x)
        if layout == "dense":
            acts = Acts(acts.dense(), F)
        (dictionary.decode(acts, x) - target).pow(2).sum().backward()
        grads.append({name: p.grad for name, p in dictionary.named_parameters()})
    for name in grads[0]:
        torch.testing.assert_close(grads[0][name], grads[1][name], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(("function", "wiring"), every)
def test_save_and_load_are_bit_identical(function: str, wiring: str, tmp_path: Path) -> None:
    dictionary = build(function, wiring)
    x, _ = data(dictionary)
    dictionary.fold_(1.7, 1.7 if dictionary.reads == dictionary.writes else 0.4)
    dictionary.save(tmp_path / "d")
    back = load(tmp_path / "d")
    frozen = dictionary.frozen()
    assert torch.equal(back(x).acts.dense(), frozen(x).acts.dense())
    assert torch.equal(back(x).recon, frozen(x).recon)
    assert back.fingerprint() == frozen.fingerprint()
    assert back.acts_scale == 1.7
    assert (back.reads, back.writes) == (dictionary.reads, dictionary.writes)


@pytest.mark.parametrize(("function", "wiring"), every)
def test_frozen_is_what_evaluation_mode_computes(function: str, wiring: str) -> None:
    dictionary = build(function, wiring)
    x, target = data(dictionary)
    frozen, evaluated = dictionary.frozen()(x, target), dictionary.eval()(x, target)
    assert torch.equal(frozen.acts.dense(), evaluated.acts.dense())
    assert torch.equal(frozen.recon, evaluated.recon)


@pytest.mark.parametrize(("function", "wiring"), every)
def test_folding_the_scale_changes_no_output(function: str, wiring: str) -> None:
    dictionary = build(function, wiring, dtype=torch.float64).eval()
    x, _ = data(dictionary)
    s_in, s_out = (3.1, 3.1) if dictionary.reads == dictionary.writes else (3.1, 0.7)
    before = dictionary(x * s_in)
    dictionary.fold_(s_in, s_out)
    after = dictionary(x)
    torch.testing.assert_close(after.recon * s_out, before.recon, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(after.acts.dense(), before.acts.dense(), rtol=1e-10, atol=1e-10)
    assert torch.equal(after.acts.dense() != 0, before.acts.dense() != 0)
    with pytest.raises(ValueError, match="folded into these weights already"):
        dictionary.fold_(s_in, s_out)


@pytest.mark.parametrize(("function", "wiring"), every)
def test_feature_axes_alone_permute_a_dictionary(function: str, wiring: str) -> None:
    dictionary = build(function, wiring).eval()
    x, target = data(dictionary)
    order = torch.randperm(F, generator=torch.Generator().manual_seed(3))
    permuted = copy.deepcopy(dictionary)
    for module in permuted.modules():
        for name, axis in getattr(module, "feature_axes", {}).items():
            parameter = getattr(module, name)
            parameter.data = parameter.data.index_select(axis, order)
    before, after = dictionary(x, target), permuted(x, target)
    torch.testing.assert_close(after.acts.dense(), before.acts.dense()[:, order], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(after.recon, before.recon, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_rescaling_encoder_against_decoder_changes_nothing(function: str) -> None:
    dictionary = build(function, "scaled", dtype=torch.float64).eval()
    x, _ = data(dictionary)
    before = dictionary(x)
    with torch.no_grad():
        dictionary.W_enc.mul_(5.0)
        dictionary.b_enc.mul_(5.0)
        dictionary.W_dec.div_(5.0)
    after = dictionary(x)
    torch.testing.assert_close(after.recon, before.recon, rtol=1e-9, atol=1e-9)


GRADIENTS: dict[str, set[str]] = {
    "squared_error": {"W_enc", "b_enc", "W_dec", "b_dec", "threshold", "W_skip"},
    "fvu": {"W_enc", "b_enc", "W_dec", "b_dec", "threshold", "W_skip"},
    "l1": {"W_enc", "b_enc", "W_dec", "b_dec", "threshold"},
    "auxk": {"W_enc", "b_enc", "W_dec"},
    "l0": {"threshold"},
    "target_l0": {"threshold"},
}
"""Parameters that each term may move. b_dec is moved by l1 through the centering alone."""


def test_every_term_has_its_row_of_gradients() -> None:
    assert set(GRADIENTS) == set(Term.kinds())


@pytest.mark.parametrize("wiring", WIRINGS)
@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("kind", GRADIENTS)
def test_a_term_moves_exactly_the_parameters_it_should(kind: str, function: str, wiring: str) -> None:
    term = Term.from_dict({"kind": kind})
    if term.needs_function not in (None, function):
        pytest.skip(f"{kind} trains {term.needs_function} alone")
    dictionary = build(function, wiring)
    x, target = data(dictionary)
    step = dictionary(x, target)
    dead = torch.zeros(F, dtype=torch.bool)
    dead[step.acts.dense().sum(0).argsort()[:9]] = True
    term.value(dataclasses.replace(step, is_dead=dead)).backward()
    moved = {name.split(".")[-1] for name, p in dictionary.named_parameters() if p.grad is not None and p.grad.any()}
    present = {name.split(".")[-1] for name, _ in dictionary.named_parameters()}
    expected = GRADIENTS[kind] & present
    if kind == "l1" and not dictionary.config.center:
        expected -= {"b_dec"}
    assert moved == expected
    if kind == "auxk":
        assert not dictionary.W_enc.grad[:, ~dead].any()
        assert not dictionary.W_dec.grad[~dead].any()


@pytest.mark.parametrize("wiring", WIRINGS)
@pytest.mark.parametrize("kind", ["squared_error", "fvu", "l1"])
@pytest.mark.parametrize("function", FUNCTIONS)
def test_gradients_are_finite_differences(function: str, kind: str, wiring: str) -> None:
    dictionary = build(function, wiring, dtype=torch.float64).eval()
    x, target = (t[:6] for t in data(dictionary))
    term = Term.from_dict({"kind": kind})
    names = [name for name, _ in dictionary.named_parameters() if "threshold" not in name]
    kept = dictionary(x, target).acts.dense() != 0

    def loss(*parameters: torch.Tensor) -> torch.Tensor:
        step = torch.func.functional_call(dictionary, dict(zip(names, parameters, strict=True)), (x, target))
        assert torch.equal(step.acts.dense() != 0, kept), "the step crosses a threshold"
        # What the term reads off the dictionary has to be the parameters under test.
        with torch.nn.utils.stateless._reparametrize_module(dictionary, dict(zip(names, parameters, strict=True))):
            return term.value(step)

    parameters = tuple(dict(dictionary.named_parameters())[name].detach().clone().requires_grad_() for name in names)
    assert torch.autograd.gradcheck(loss, parameters, eps=1e-7, atol=1e-5)


def test_auxk_is_the_finite_difference_of_the_revived_features_alone() -> None:
    dictionary = build("topk", dtype=torch.float64).eval()
    x, target = (t[:6] for t in data(dictionary))
    step = dictionary(x, target)
    dead = torch.zeros(F, dtype=torch.bool)
    dead[:7] = True
    fixed = dataclasses.replace(step, recon=step.recon.detach(), is_dead=dead)
    term = Term.from_dict({"kind": "auxk", "k_aux": 3})

    def loss(W_enc: torch.Tensor, b_enc: torch.Tensor, W_dec: torch.Tensor) -> torch.Tensor:
        named = {"W_enc": W_enc, "b_enc": b_enc, "W_dec": W_dec}
        with torch.nn.utils.stateless._reparametrize_module(dictionary, named):
            return term.value(fixed)

    parameters = (dictionary.W_enc, dictionary.b_enc, dictionary.W_dec)
    assert torch.autograd.gradcheck(loss, tuple(p.detach().clone().requires_grad_() for p in parameters))


def test_identity_dictionary_reconstructs_exactly() -> None:
    chosen = Recipe.from_dict(
        {
            "wiring": {"kind": "autoencoder", "n_features": 2 * D_IN},
            "function": {"kind": "relu"},
            "terms": {"r": {"kind": "squared_error"}, "s": {"kind": "l1"}},
        }
    )
    dictionary = chosen.build((IN,), (IN,), {IN: D_IN})
    assert isinstance(dictionary, Autoencoder)
    eye = torch.eye(D_IN)
    with torch.no_grad():
        dictionary.W_dec.copy_(torch.cat([eye, -eye]))
        dictionary.W_enc.copy_(dictionary.W_dec.T)
    x, _ = sample(True)
    torch.testing.assert_close(dictionary(x).recon, x)
