"""What every dictionary must satisfy, generated over activation functions and wirings."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import pytest
import torch
from dictionary_cases import D_IN, IN, MOVES, WIRINGS, build, data, inputs, moved, pairs, role
from torch.nn.utils import stateless

from monoscope.core.acts import Acts
from monoscope.dictionaries import Autoencoder, Dictionary, Recipe, load
from monoscope.dictionaries.objective import Term

every = pytest.mark.parametrize(("function", "wiring"), pairs())


def scales(dictionary: Dictionary) -> tuple[torch.Tensor, torch.Tensor]:
    """Activation scales, another for every site; the same for what is read and written."""
    s_in = 3.1 + torch.arange(len(dictionary.reads), dtype=torch.float64)
    s_out = 0.7 + 0.2 * torch.arange(len(dictionary.writes), dtype=torch.float64)
    return s_in, s_in if dictionary.reads == dictionary.writes else s_out


def times(x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Activations times the scale of their site."""
    return x * (scale if len(scale) == 1 else scale[:, None])


@every
def test_shapes(function: str, wiring: str) -> None:
    dictionary = build(function, wiring)
    x, target = data(wiring, dictionary)
    step = dictionary(x, target)
    batch = WIRINGS[wiring].batch
    assert (step.pre.shape[: len(batch)], step.pre.shape[-1]) == (batch, dictionary.n_features)
    assert step.acts.n_features == dictionary.n_features
    assert step.acts.dense().shape[: len(batch)] == batch
    assert step.recon.shape == step.target.shape == target.shape
    assert step.n_tokens == torch.Size(batch).numel()
    assert 0 < step.acts.l0().float().mean() < dictionary.n_features


@every
def test_any_shape_of_batch_is_the_flat_batch(function: str, wiring: str) -> None:
    dictionary = build(function, wiring).eval()
    if not dictionary.per_token:
        pytest.skip("it reads sequences, whose shape matters")
    x, target = data(wiring, dictionary)
    flat, shaped = dictionary(x, target), dictionary(x.unflatten(0, (8, 8)), target.unflatten(0, (8, 8)))
    torch.testing.assert_close(shaped.recon.flatten(0, 1), flat.recon, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(shaped.acts.dense().flatten(0, 1), flat.acts.dense(), rtol=1e-5, atol=1e-5)


@every
def test_a_mask_leaves_the_tokens_that_count(function: str, wiring: str) -> None:
    dictionary = build(function, wiring).eval()
    x, target = data(wiring, dictionary)
    mask = torch.rand(WIRINGS[wiring].batch, generator=torch.Generator().manual_seed(5)) < 0.6
    whole, part = dictionary(x, target), dictionary(x, target, mask)
    torch.testing.assert_close(part.recon, whole.recon[mask], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(part.acts.dense(), whole.acts.dense()[mask], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(part.pre, whole.pre[mask], rtol=1e-5, atol=1e-5)
    assert torch.equal(part.target, target[mask])
    assert part.n_tokens == mask.sum()


@every
def test_encode_agrees_with_the_function_applied_to_preacts(function: str, wiring: str) -> None:
    if function == "pursuit":
        pytest.skip("a pursuit chooses by what earlier choices left, which pre-activations do not say")
    for mode in (True, False):
        dictionary = build(function, wiring).train(mode)
        x, _ = data(wiring, dictionary)
        expected = dictionary.activation(dictionary.preacts(x), dictionary.score_norm()).dense()
        torch.testing.assert_close(dictionary.encode(x).dense(), expected, rtol=1e-5, atol=1e-5)


@every
def test_both_layouts_give_the_same_loss_and_gradient(function: str, wiring: str) -> None:
    grads = []
    for layout in ("own", "dense"):
        dictionary = build(function, wiring)
        x, target = data(wiring, dictionary)
        acts = dictionary.encode(x)
        if layout == "dense":
            acts = Acts(acts.dense(), acts.n_features)
        (dictionary.decode(acts, x) - target).pow(2).sum().backward()
        grads.append({name: p.grad for name, p in dictionary.named_parameters()})
    for name in grads[0]:
        torch.testing.assert_close(grads[0][name], grads[1][name], rtol=1e-4, atol=1e-3)


@every
def test_decoding_is_the_sum_of_its_parts(function: str, wiring: str) -> None:
    dictionary = build(function, wiring, dtype=torch.float64).eval()
    x, target = data(wiring, dictionary)
    step = dictionary(x, target)
    nothing = dictionary.decode(Acts(torch.zeros_like(step.acts.dense()), dictionary.n_features), x)
    total = nothing
    for features in torch.arange(dictionary.n_features).split(max(1, dictionary.n_features // 3)):
        acts = Acts(step.acts.where(features), len(features))
        total = total + dictionary.decode_of(acts, x, features)
        torch.testing.assert_close(dictionary.preacts_of(x, features), step.pre[..., features])
    torch.testing.assert_close(total, step.recon)


@every
def test_a_prefix_decodes_as_if_the_rest_were_silent(function: str, wiring: str) -> None:
    dictionary = build(function, wiring, dtype=torch.float64).eval()
    x, _ = data(wiring, dictionary)
    acts, m = dictionary.encode(x), dictionary.n_features // 3
    silenced = acts.dense().clone()
    silenced[..., m:] = 0
    expected = dictionary.decode(Acts(silenced, dictionary.n_features), x)
    torch.testing.assert_close(dictionary.decode(acts.prefix(m), x), expected)


@every
def test_save_and_load_are_bit_identical(function: str, wiring: str, tmp_path: Path) -> None:
    dictionary = build(function, wiring)
    x, _ = data(wiring, dictionary)
    s_in, s_out = scales(dictionary)
    dictionary.fold_(s_in, s_out)
    dictionary.save(tmp_path / "d")
    back = load(tmp_path / "d")
    frozen = dictionary.frozen()
    assert torch.equal(back(x).acts.dense(), frozen(x).acts.dense())
    assert torch.equal(back(x).recon, frozen(x).recon)
    assert back.fingerprint() == frozen.fingerprint()
    assert back.acts_scale == (s_in.item() if len(s_in) == 1 else tuple(s_in.tolist()))
    assert (back.reads, back.writes) == (dictionary.reads, dictionary.writes)


@every
def test_frozen_is_what_evaluation_mode_computes(function: str, wiring: str) -> None:
    dictionary = build(function, wiring)
    x, target = data(wiring, dictionary)
    twin, modes = dictionary.frozen(), [module.training for module in dictionary.modules()]
    assert all(modes)
    assert not {x.data_ptr() for x in twin.state_dict().values()} & {
        x.data_ptr() for x in dictionary.state_dict().values()
    }
    frozen, evaluated = twin(x, target), dictionary.eval()(x, target)
    torch.testing.assert_close(frozen.acts.dense(), evaluated.acts.dense(), rtol=1e-6, atol=1e-6)
    assert torch.equal(frozen.acts.dense() != 0, evaluated.acts.dense() != 0)
    torch.testing.assert_close(frozen.recon, evaluated.recon, rtol=1e-5, atol=1e-5)


@every
def test_folding_the_scale_changes_no_output(function: str, wiring: str) -> None:
    dictionary = build(function, wiring, dtype=torch.float64).eval()
    x, _ = data(wiring, dictionary)
    s_in, s_out = scales(dictionary)
    before = dictionary(times(x, s_in))
    dictionary.fold_(s_in, s_out)
    after = dictionary(x)
    torch.testing.assert_close(times(after.recon, s_out), before.recon, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(after.acts.dense(), before.acts.dense(), rtol=1e-10, atol=1e-10)
    assert torch.equal(after.acts.dense() != 0, before.acts.dense() != 0)
    with pytest.raises(ValueError, match="folded into these weights already"):
        dictionary.fold_(s_in, s_out)


@every
def test_feature_axes_alone_permute_a_dictionary(function: str, wiring: str) -> None:
    dictionary = build(function, wiring).eval()
    x, target = data(wiring, dictionary)
    generator, start = torch.Generator().manual_seed(3), 0
    parts = []
    for size in dictionary.feature_blocks:
        parts.append(start + torch.randperm(size, generator=generator))
        start += size
    order = torch.cat(parts)
    assert start == dictionary.n_features
    permuted = copy.deepcopy(dictionary)
    for name, axis in dictionary.feature_axes.items():
        parameter, features = permuted.get_parameter(name), dictionary.features_of(name)
        parameter.data = parameter.data.index_select(axis, order[features.start : features.stop] - features.start)
    for name, axis in dictionary.activation.feature_axes.items():
        parameter = getattr(permuted.activation, name)
        parameter.data = parameter.data.index_select(axis, order)
    before, after = dictionary(x, target), permuted(x, target)
    torch.testing.assert_close(after.acts.dense(), before.acts.dense()[..., order], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(after.recon, before.recon, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("function", "wiring"), [p for p in pairs() if p.values[1] == "scaled"])
def test_rescaling_encoder_against_decoder_changes_nothing(function: str, wiring: str) -> None:
    dictionary = build(function, wiring, dtype=torch.float64).eval()
    x, _ = data(wiring, dictionary)
    before = dictionary(x)
    with torch.no_grad():
        dictionary.W_enc.mul_(5.0)
        dictionary.b_enc.mul_(5.0)
        dictionary.W_dec.div_(5.0)
    after = dictionary(x)
    torch.testing.assert_close(after.recon, before.recon, rtol=1e-9, atol=1e-9)


class Quadratic:
    """A model whose predictions get worse with the square of a reconstruction: what end-to-end training needs."""

    def divergence(self, recon: torch.Tensor) -> torch.Tensor:
        """Mean square."""
        return recon.pow(2).mean()


def test_every_term_has_its_row_of_moves() -> None:
    assert set(MOVES) == set(Term.kinds())


@every
@pytest.mark.parametrize("kind", MOVES)
def test_a_term_moves_exactly_the_parameters_it_should(kind: str, function: str, wiring: str) -> None:
    term = Term.from_dict({"kind": kind})
    if term.needs_function not in (None, function):
        pytest.skip(f"{kind} trains {term.needs_function} alone")
    dictionary = build(function, wiring)
    x, target = data(wiring, dictionary)
    step = dictionary(x, target)
    dead = torch.zeros(dictionary.n_features, dtype=torch.bool)
    dead[step.acts.dense().flatten(0, -2).abs().sum(0).argsort()[: dictionary.n_features // 4]] = True
    term.value(dataclasses.replace(step, is_dead=dead, downstream=Quadratic())).backward()
    roles = set(MOVES[kind])
    if "centering" in roles and WIRINGS[wiring].is_centered:
        roles.add("bias")
    expected = {name for name, p in dictionary.named_parameters() if role(wiring, name) in roles and p.requires_grad}
    assert moved(dictionary) == expected
    if kind == "auxk":
        for name in expected:
            features = dictionary.features_of(name)
            alive = ~dead[features.start : features.stop]
            assert not dictionary.get_parameter(name).grad.movedim(dictionary.feature_axes[name], 0)[alive].any()


@every
@pytest.mark.parametrize("kind", ["squared_error", "fvu", "l1"])
def test_gradients_are_finite_differences(function: str, kind: str, wiring: str) -> None:
    dictionary = build(function, wiring, dtype=torch.float64).eval()
    x, target = (t[:6] for t in data(wiring, dictionary, seed=1))  # a running threshold is a score seen with seed 0
    term = Term.from_dict({"kind": kind})
    names = [name for name, _ in dictionary.named_parameters() if "threshold" not in name]
    kept = dictionary(x, target).acts.dense() != 0

    def loss(*parameters: torch.Tensor) -> torch.Tensor:
        # What the term reads off the dictionary has to be the parameters under test.
        with stateless._reparametrize_module(dictionary, dict(zip(names, parameters, strict=True))):
            step = dictionary(x, target)
            assert torch.equal(step.acts.dense() != 0, kept), "the step crosses a threshold"
            return term.value(step)

    parameters = tuple(dictionary.get_parameter(name).detach().clone().requires_grad_() for name in names)
    assert torch.autograd.gradcheck(loss, parameters, eps=1e-7, atol=1e-5, fast_mode=True)


def test_auxk_is_the_finite_difference_of_the_revived_features_alone() -> None:
    dictionary = build("topk", dtype=torch.float64).eval()
    x, target = (t[:6] for t in data("sae", dictionary))
    step = dictionary(x, target)
    dead = torch.zeros(dictionary.n_features, dtype=torch.bool)
    dead[:7] = True
    fixed = dataclasses.replace(step, recon=step.recon.detach(), is_dead=dead)
    term = Term.from_dict({"kind": "auxk", "k_aux": 3})

    def loss(W_enc: torch.Tensor, b_enc: torch.Tensor, W_dec: torch.Tensor) -> torch.Tensor:
        with stateless._reparametrize_module(dictionary, {"W_enc": W_enc, "b_enc": b_enc, "W_dec": W_dec}):
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
    x, _ = inputs("sae")
    torch.testing.assert_close(dictionary(x).recon, x)
