"""What the papers say of their loss terms, one by one; which parameters each may move is in conformance."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from small_autoencoder import D, F, K, N, activations, autoencoder, recipe, term
from torch import Tensor
from torch.nn.utils import stateless

from monoscope.core.errors import ConfigError
from monoscope.dictionaries import Autoencoder
from monoscope.dictionaries.variants.topk import FEW

SQUARED = {"kind": "squared_error"}
SPARSE = {"kind": "jumprelu", "threshold": 0.3}, SQUARED, {"kind": "l0"}


def strength(dictionary: Autoencoder, x: Tensor) -> Tensor:
    """Activations times decoder norms."""
    return dictionary.encode(x).dense().abs() * dictionary.W_dec.norm(dim=1)


def gradients(value: Tensor, dictionary: Autoencoder, *names: str) -> list[Tensor]:
    """Gradients of a value, zeros where it does not depend on a parameter."""
    parameters = [dictionary.get_parameter(name) for name in names]
    return list(torch.autograd.grad(value, parameters, materialize_grads=True))


class TestPenalties:
    def test_lp_is_l1_at_one_and_counts_at_zero(self) -> None:
        dictionary = autoencoder(*SPARSE, unit_norm=False)
        step = dictionary(activations())
        torch.testing.assert_close(term("lp", p=1.0).value(step), term("l1").value(step))
        torch.testing.assert_close(term("lp", p=1e-6).value(step), step.acts.l0().float().mean(), rtol=1e-4, atol=0)
        active = strength(dictionary, activations())
        torch.testing.assert_close(term("lp", p=0.4).value(step), (active[active > 0] ** 0.4).sum() / N)

    def test_the_gradient_of_lp_is_finite_where_features_are_silent(self) -> None:
        dictionary = autoencoder({"kind": "topk", "k": K})
        for grad in gradients(term("lp", p=0.3).value(dictionary(activations())), dictionary, "W_enc", "W_dec"):
            assert grad.isfinite().all()
            assert grad.any()

    def test_tanh_and_its_quadratic_form(self) -> None:
        dictionary = autoencoder(*SPARSE, unit_norm=False)
        step = dictionary(activations())
        q = (4 * strength(dictionary, activations())).tanh().mean(0)
        torch.testing.assert_close(term("tanh").value(step), q.sum())
        torch.testing.assert_close(term("tanh_quad", s=0.02).value(step), (q + q**2 / 0.02).sum())

    def test_the_quadratic_form_costs_three_times_as_much_at_its_frequency(self) -> None:
        # Its gradient per activation is (1 + 2 q / s) c (1 - tanh^2) n / N.
        dictionary = autoencoder(*SPARSE, unit_norm=False)
        step = dictionary(activations())
        acts = step.acts.dense()
        norm = dictionary.W_dec.norm(dim=1).detach()
        squashed = (4 * acts * norm).tanh()
        q = squashed.mean(0)
        (grad,) = torch.autograd.grad(term("tanh_quad").value(step), acts)
        expected = (1 + 2 * q / 0.01) * 4 * (1 - squashed**2) * norm / N
        fires = acts > 0
        torch.testing.assert_close(grad[fires], expected[fires])

    @pytest.mark.parametrize("function", ["relu", "jumprelu"])
    @pytest.mark.parametrize("kind", ["l1", "lp", "tanh", "tanh_quad"])
    def test_a_penalty_moves_encoder_and_decoder_norms_but_no_decoder_bias(self, kind: str, function: str) -> None:
        dictionary = autoencoder(
            {"kind": function}, SQUARED, {"kind": "l1" if function == "relu" else "l0"}, center=False
        )
        dictionary.zero_grad()
        term(kind).value(dictionary(activations())).backward()
        for name in ("W_enc", "b_enc", "W_dec"):
            grad = dictionary.get_parameter(name).grad
            assert grad is not None
            assert grad.any(), name
        assert dictionary.b_dec.grad is None

    def test_rescaling_a_feature_changes_no_penalty(self) -> None:
        dictionary = autoencoder({"kind": "relu"}, SQUARED, {"kind": "l1"}, unit_norm=False).double()
        x = activations(dtype=torch.float64)
        kinds = ("l1", "lp", "tanh", "tanh_quad")
        before = [term(kind).value(dictionary(x)) for kind in kinds]
        with torch.no_grad():
            scale = torch.linspace(0.2, 5, F, dtype=torch.float64)
            dictionary.W_enc.mul_(scale)
            dictionary.b_enc.mul_(scale)
            dictionary.W_dec.div_(scale[:, None])
        torch.testing.assert_close([term(kind).value(dictionary(x)) for kind in kinds], before)


RELU = {"kind": "relu"}, SQUARED, {"kind": "l1"}
GATED = {"kind": "gated"}, SQUARED, {"kind": "gate_l1"}, {"kind": "gate_aux"}
ENCODER = ("W_enc", "b_enc")
SMOOTH = {
    "lp": (RELU, (*ENCODER, "W_dec")),
    "tanh": (RELU, (*ENCODER, "W_dec")),
    "tanh_quad": (RELU, (*ENCODER, "W_dec")),
    "preact": (SPARSE, (*ENCODER, "W_dec", "activation.threshold")),
    "matryoshka": (({"kind": "abs_topk", "k": K},), (*ENCODER, "W_dec", "b_dec")),
    "multi_topk": (({"kind": "topk", "k": K},), (*ENCODER, "W_dec", "b_dec")),
    "gate_l1": (GATED, ("W_enc", "W_dec", "activation.b_gate")),
    "gate_aux": (GATED, ("W_enc", "activation.b_gate")),
    "kl": (
        ({"kind": "variational", "k": K, "sigma": 0.5, "learn_sigma": True},),
        (*ENCODER, "activation.log_variance"),
    ),
}


@pytest.mark.parametrize("kind", SMOOTH)
def test_gradients_are_finite_differences(kind: str) -> None:
    losses, names = SMOOTH[kind]
    dictionary = autoencoder(*losses, unit_norm=False, center=False).double()
    x = activations(5, torch.float64)

    def value(*parameters: Tensor) -> Tensor:
        with stateless._reparametrize_module(dictionary, dict(zip(names, parameters, strict=True))):
            return term(kind).value(dictionary(x))

    parameters = tuple(dictionary.get_parameter(name).detach().clone().requires_grad_() for name in names)
    assert torch.autograd.gradcheck(value, parameters, eps=1e-7, atol=1e-5)


class TestPreAct:
    @pytest.mark.parametrize("scaled", [False, True])
    def test_it_is_totals_minus_what_is_active(self, scaled: bool) -> None:
        dictionary = autoencoder(*SPARSE, unit_norm=False, center=False, scale_by_decoder_norm=scaled).double()
        x = activations(dtype=torch.float64)
        step = dictionary(x)
        names = ("W_enc", "b_enc", "activation.threshold")
        got = term("preact").value(step)
        n = dictionary.W_dec.norm(dim=1)
        th = dictionary.get_parameter("activation.threshold") / (n if scaled else 1.0)
        pre = x @ dictionary.W_enc + dictionary.b_enc
        active = pre > th
        silent = (~active).double().sum(0)
        assert silent.min() > 0
        assert silent.max() < N
        total = x.sum(0) @ dictionary.W_enc + N * dictionary.b_enc - (pre * active).sum(0)
        torch.testing.assert_close(got, (n / N * (silent * th - total)).sum())
        W_enc, b_enc, threshold = gradients(got, dictionary, *names)
        rest = x.sum(0)[:, None] - x.T @ active.double()
        torch.testing.assert_close(W_enc, -(n / N) * rest)
        torch.testing.assert_close(b_enc, -(n / N) * silent)
        torch.testing.assert_close(threshold, silent / N if scaled else n / N * silent)

    def test_it_may_move_dead_features_alone(self) -> None:
        dictionary = autoencoder(*SPARSE, center=False)
        step = dictionary(activations())
        assert term("preact", dead_only=True).value(step) == 0
        is_dead = torch.arange(F) < 5
        value = term("preact", dead_only=True).value(dataclasses.replace(step, is_dead=is_dead))
        (W_enc,) = gradients(value, dictionary, "W_enc")
        assert W_enc[:, :5].any(0).all()
        assert not W_enc[:, 5:].any()


FUNCTIONS: list[tuple[dict[str, Any], ...]] = [
    ({"kind": "topk", "k": K},),
    ({"kind": "batch_topk", "k": 3.5},),
    ({"kind": "abs_topk", "k": K},),
    SPARSE,
]


class TestMatryoshka:
    PREFIXES = (3, 10, 17, F)

    @pytest.mark.parametrize("units", ["squared_error", "fvu"])
    @pytest.mark.parametrize("losses", FUNCTIONS, ids=lambda losses: losses[0]["kind"])
    def test_it_is_the_sum_of_the_errors_of_all_prefixes(self, losses: tuple[dict[str, Any], ...], units: str) -> None:
        dictionary = autoencoder(*losses)
        x = activations()
        weights = (1.0, 0.5, 2.0, 0.25)
        step = dictionary(x)
        got = term("matryoshka", prefixes=self.PREFIXES, level_weights=weights, units=units).value(step)
        acts, expected = step.acts.dense(), torch.zeros(())
        for end, weight in zip(self.PREFIXES, weights, strict=True):
            recon = acts[:, :end] @ dictionary.W_dec[:end] + dictionary.b_dec
            expected = expected + weight * (x - recon).pow(2).sum()
        expected = expected / (N if units == "squared_error" else (x - x.mean(0)).pow(2).sum())
        torch.testing.assert_close(got, expected)
        names = ("W_enc", "b_enc", "W_dec", "b_dec")
        wanted = torch.autograd.grad(expected, [dictionary.get_parameter(name) for name in names], retain_graph=True)
        for name, a, b in zip(names, gradients(got, dictionary, *names), wanted, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5, msg=lambda m, name=name: f"{name}: {m}")

    def test_one_prefix_is_plain_reconstruction(self) -> None:
        step = autoencoder({"kind": "topk", "k": K})(activations())
        for units in ("fvu", "squared_error"):
            value = term("matryoshka", prefixes=(F,), units=units).value(step)
            torch.testing.assert_close(value, term(units).value(step))

    def test_usual_prefixes(self) -> None:
        assert term("matryoshka").ends(3200) == (100, 300, 700, 1500, 3200)  # pyright: ignore[reportAttributeAccessIssue]

    def test_its_units_decide_what_may_stand_beside_it(self) -> None:
        topk, auxk = {"kind": "topk", "k": K}, {"kind": "auxk"}
        assert recipe(topk, {"kind": "matryoshka"}, auxk).terms
        assert recipe({"kind": "relu"}, {"kind": "matryoshka", "units": "squared_error"}, {"kind": "l1"}).terms
        with pytest.raises(ConfigError, match="kind 'fvu'"):
            recipe(topk, {"kind": "matryoshka", "units": "squared_error"}, auxk)

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"prefixes": [8, 4, F]}, "rise from at least 1"),
            ({"prefixes": [4, 4, F]}, "rise from at least 1"),
            ({"prefixes": [0, F]}, "rise from at least 1"),
            ({"prefixes": []}, "rise from at least 1"),
            ({"prefixes": [4, 16]}, "all 32 features, found 16"),
            ({"prefixes": [4, 64]}, "all 32 features, found 64"),
            ({"prefixes": [4, F], "level_weights": [1.0]}, "1 numbers for 2 prefixes"),
        ],
    )
    def test_prefixes_that_are_none_are_refused(self, settings: dict[str, Any], message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            recipe({"kind": "topk", "k": K}, {"kind": "matryoshka"} | settings)


class TestMultiTopK:
    def test_it_is_the_error_with_four_times_k(self) -> None:
        dictionary, more = (autoencoder({"kind": "topk", "k": k}) for k in (K, 4 * K))
        torch.testing.assert_close(
            term("multi_topk").value(dictionary(activations())), term("fvu").value(more(activations()))
        )

    def test_no_more_than_all_features_are_kept(self) -> None:
        dictionary, full = (autoencoder({"kind": "topk", "k": k}) for k in (K, F))
        value = term("multi_topk", factor=100).value(dictionary(activations()))
        torch.testing.assert_close(value, term("fvu").value(full(activations())))


class TestAuxK:
    @pytest.mark.parametrize(("k_aux", "least"), [(6, -4.0), (10, -1.0)], ids=["of many", "of few"])
    def test_of_more_dead_features_than_k_aux_the_largest_of_each_token_serve(self, k_aux: int, least: float) -> None:
        dictionary, x = autoencoder({"kind": "topk", "k": K}), activations()
        weights = [dictionary.W_enc, dictionary.b_enc, dictionary.W_dec]
        with torch.no_grad():
            dictionary.b_enc.copy_(torch.linspace(least, 0.5, F))
        step = dataclasses.replace(dictionary(x), is_dead=torch.arange(F) % 3 > 0)
        value = term("auxk", k_aux=k_aux).value(step)

        dead = step.dead[0]
        assert (len(dead) <= FEW * k_aux) == (k_aux == 10)
        pre = (x - dictionary.b_dec.detach()) @ dictionary.W_enc[:, dead] + dictionary.b_enc[dead]
        n_positive = (pre > 0).sum(1)
        assert n_positive.min() < k_aux < n_positive.max()
        acts = pre.relu() * (pre >= pre.topk(k_aux).values[:, -1:])
        error = step.error.detach()
        unexplained = (error - acts @ dictionary.W_dec[dead]).square().sum()
        expected = unexplained / (error - error.mean(0)).square().sum()
        torch.testing.assert_close(value, expected)
        torch.testing.assert_close(torch.autograd.grad(value, weights), torch.autograd.grad(expected, weights))

    @pytest.mark.parametrize("kind", ["topk", "abs_topk"])
    def test_a_dead_feature_turns_to_what_is_left_out(self, kind: str) -> None:
        # Two directions in the data; the live feature has the first, the dead one starts across both.
        generator = torch.Generator().manual_seed(4)
        parts = torch.rand(512, 2, generator=generator) + 0.5
        x = parts @ torch.eye(2, D)
        dictionary = autoencoder({"kind": kind, "k": 1}, n_features=2, center=False)
        with torch.no_grad():
            dictionary.W_dec[0] = dictionary.W_enc[:, 0] = torch.eye(D)[0]
            dictionary.W_dec[1] = torch.nn.functional.normalize(torch.ones(D), dim=0)
            dictionary.W_enc[:, 1] = dictionary.W_dec[1] * 0.1
            dictionary.b_enc.zero_()
            dictionary.b_dec.zero_()
        optimizer = torch.optim.Adam([dictionary.W_enc, dictionary.b_enc, dictionary.W_dec], lr=0.02)
        live = dictionary.W_dec[0].clone()
        for _ in range(200):
            step = dictionary(x)
            fixed = dataclasses.replace(
                step, recon=parts[:, :1] * torch.eye(2, D)[0], is_dead=torch.tensor([False, True])
            )
            term("auxk").value(fixed).backward()
            optimizer.step()
            optimizer.zero_grad()
            dictionary.project_()
        assert torch.equal(dictionary.W_dec[0], live)
        assert torch.nn.functional.cosine_similarity(dictionary.W_dec[1], torch.eye(D)[1], dim=0) > 0.99
