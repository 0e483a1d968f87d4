"""What the papers say of their activation functions, one by one; what holds for all of them is in conformance."""

from __future__ import annotations

import pytest
import torch
from small_autoencoder import D, F, K, N, activations, autoencoder, function
from torch import Tensor

from monoscope.core.acts import Acts
from monoscope.core.errors import ConfigError
from monoscope.dictionaries import Autoencoder
from monoscope.dictionaries.objective import SquaredError, Term
from monoscope.dictionaries.step import Step
from monoscope.dictionaries.variants import KL, L1, GateAux, Gated, GateL1, JumpReLU, TopK, Variational


def pre(seed: int = 0, n: int = N) -> Tensor:
    """Pre-activations, about half of them negative."""
    return torch.randn(n, F, generator=torch.Generator().manual_seed(seed))


def step_of(dictionary: Autoencoder) -> Step:
    """A pass over random activations."""
    return dictionary(activations())


GATED = (
    {"kind": "gated"},
    {"kind": "squared_error"},
    {"kind": "gate_l1"},
    {"kind": "gate_aux"},
)


class TestGated:
    def test_both_paths_share_directions(self) -> None:
        gated = function("gated")
        with torch.no_grad():
            for parameter in (gated.b_gate, gated.b_mag, gated.r):
                parameter.normal_(generator=torch.Generator().manual_seed(3))
        u = pre()
        fires = u + gated.b_gate > 0
        expected = torch.where(fires, (gated.r.exp() * u + gated.b_mag).clamp_min(0), 0)
        torch.testing.assert_close(gated(u).dense(), expected)
        assert (fires & (expected == 0)).any(), "an open gate with a negative magnitude is part of the test"

    @pytest.mark.parametrize("scaled", [False, True])
    def test_frozen_is_a_jumprelu_with_the_magnitudes_encoder(self, scaled: bool) -> None:
        dictionary = autoencoder(*GATED, scale_by_decoder_norm=scaled, unit_norm=False).double()
        gated: Gated = dictionary.activation  # pyright: ignore[reportAssignmentType]
        x = torch.randn(500, D, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
        frozen = dictionary.frozen()
        assert isinstance(frozen.activation, JumpReLU)
        torch.testing.assert_close(frozen.W_enc, dictionary.W_enc * gated.r.exp())
        shared = dictionary.b_enc  # enters both paths
        torch.testing.assert_close(frozen.b_enc, shared * gated.r.exp() + gated.b_mag)
        threshold = (gated.b_mag - gated.r.exp() * gated.b_gate).clamp_min(0)
        norm = dictionary.decoder_norm() if scaled else 1.0
        torch.testing.assert_close(frozen.activation.threshold, threshold * norm)
        acts, expected = frozen.encode(x).dense(), dictionary.encode(x).dense()
        assert torch.equal(acts != 0, expected != 0)
        torch.testing.assert_close(acts, expected)
        torch.testing.assert_close(frozen(x).recon, dictionary(x).recon)

    def test_reconstruction_moves_no_gate_and_the_gates_terms_no_magnitude(self) -> None:
        for term, moves in (
            ("squared_error", {"W_enc", "W_dec", "b_dec", "activation.b_mag", "activation.r"}),
            ("gate_l1", {"W_enc", "W_dec", "b_dec", "activation.b_gate"}),
            ("gate_aux", {"W_enc", "b_dec", "activation.b_gate"}),
        ):
            dictionary = autoencoder(*GATED)
            Term.from_dict({"kind": term}).value(step_of(dictionary)).backward()
            got = {name for name, p in dictionary.named_parameters() if p.grad is not None and p.grad.any()}
            assert got == moves, term

    def test_the_auxiliary_term_holds_the_decoder_fixed(self) -> None:
        dictionary = autoencoder(*GATED, center=False)
        GateAux().value(step_of(dictionary)).backward()
        for parameter in (dictionary.W_dec, dictionary.b_dec):
            assert parameter.grad is None or not parameter.grad.any()

    def test_the_auxiliary_term_is_the_error_of_what_the_gates_alone_reconstruct(self) -> None:
        dictionary = autoencoder(*GATED).double()
        x = torch.randn(6, D, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
        gate = dictionary.preacts(x) + dictionary.get_parameter("activation.b_gate")
        recon = gate.relu() @ dictionary.W_dec.detach() + dictionary.b_dec.detach()
        expected = (x - recon).pow(2).sum() / 6
        names = ("W_enc", "b_dec", "activation.b_gate")
        parameters = [dictionary.get_parameter(name) for name in names]
        grads = torch.autograd.grad(expected, parameters)
        value = GateAux().value(dictionary(x))
        torch.testing.assert_close(value, expected)
        for got, wanted in zip(torch.autograd.grad(value, parameters), grads, strict=True):
            torch.testing.assert_close(got, wanted)

    def test_the_penalty_is_on_open_gates_times_decoder_norms(self) -> None:
        dictionary = autoencoder(*GATED, unit_norm=False)
        step = step_of(dictionary)
        gate = (step.pre + dictionary.get_parameter("activation.b_gate")).relu()
        torch.testing.assert_close(GateL1().value(step), (gate * dictionary.W_dec.norm(dim=1)).sum() / N)

    @pytest.mark.parametrize(
        ("terms", "message"),
        [
            ((), "needs|sparse only by a penalty"),
            (({"kind": "gate_l1"},), "gate_aux"),
            (({"kind": "gate_l1"}, {"kind": "gate_aux"}, {"kind": "fvu"}, {"kind": "auxk"}), "its own bias"),
        ],
    )
    def test_recipes_that_leave_the_gate_untrained_are_refused(self, terms: tuple, message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            autoencoder({"kind": "gated"}, {"kind": "squared_error"}, *terms)
        with pytest.raises(ConfigError, match="trains parameters of 'gated'"):
            autoencoder({"kind": "topk", "k": 4}, {"kind": "squared_error"}, {"kind": "gate_aux"})


class TestTopKWithoutReLU:
    def test_negative_ones_stay_where_fewer_than_k_are_positive(self) -> None:
        u = pre() - 1.5
        acts = function("topk", k=K, relu=False)(u).dense()
        few = (u > 0).sum(1) < K
        assert few.any()
        assert not few.all()
        for row, kept in zip(u, acts, strict=True):
            best = row.argsort(descending=True)[:K]
            assert set(kept.nonzero().flatten().tolist()) == set(best.tolist())
            torch.testing.assert_close(kept[best], row[best])
        with_relu = function("topk", k=K)(u).dense()
        assert torch.equal(acts[~few], with_relu[~few])
        assert not torch.equal(acts[few], with_relu[few])

    def test_a_dictionary_encodes_by_it_and_says_that_it_is_signed(self) -> None:
        dictionary = autoencoder({"kind": "topk", "k": F - 4, "relu": False}).eval()
        x = activations()
        acts = dictionary.encode(x)
        assert dictionary.activation.is_signed
        assert (acts.values < 0).any()
        torch.testing.assert_close(acts.dense(), dictionary.activation(dictionary.preacts(x)).dense())


class TestAbsTopK:
    def test_the_largest_magnitudes_survive_with_their_signs(self) -> None:
        u = pre()
        acts = function("abs_topk", k=K)(u).dense()
        for row, kept in zip(u, acts, strict=True):
            best = row.abs().argsort(descending=True)[:K]
            assert set(kept.nonzero().flatten().tolist()) == set(best.tolist())
            torch.testing.assert_close(kept[best], row[best])
        assert (acts < 0).any()

    def test_flipping_a_feature_changes_no_reconstruction(self) -> None:
        dictionary = autoencoder({"kind": "abs_topk", "k": K})
        before = step_of(dictionary)
        with torch.no_grad():
            dictionary.W_enc[:, 3] *= -1
            dictionary.b_enc[3] *= -1
            dictionary.W_dec[3] *= -1
        after = step_of(dictionary)
        torch.testing.assert_close(after.recon, before.recon)
        torch.testing.assert_close(after.acts.dense()[:, 3], -before.acts.dense()[:, 3])
        assert before.acts.dense()[:, 3].any()


class TestGroupMax:
    def test_the_largest_of_each_group_survives(self) -> None:
        u = pre()
        expected = torch.zeros_like(u)
        for n in range(N):
            for first in range(0, F, F // K):
                best = first + int(u[n, first : first + F // K].argmax())
                expected[n, best] = max(float(u[n, best]), 0.0)
        torch.testing.assert_close(function("group_max", k=K)(u).dense(), expected)

    def test_as_many_groups_as_features_is_relu_and_one_group_keeps_one_feature(self) -> None:
        u = pre()
        torch.testing.assert_close(function("group_max", k=F)(u).dense(), u.relu())
        torch.testing.assert_close(function("group_max", k=1)(u).dense(), function("topk", k=1)(u).dense())

    def test_it_is_topk_where_the_largest_lie_in_distinct_groups(self) -> None:
        u = pre(n=2000)
        best = u.topk(K, dim=-1).indices // (F // K)
        apart = best.sort(-1).values.diff(dim=-1).ne(0).all(-1)
        assert 20 < apart.sum() < 1000
        torch.testing.assert_close(
            function("group_max", k=K)(u[apart]).dense(), function("topk", k=K)(u[apart]).dense()
        )

    def test_groups_of_different_sizes_are_refused(self) -> None:
        with pytest.raises(ConfigError, match="5 groups, which do not divide 32 features"):
            function("group_max", k=5)


class TestAcrossLayers:
    def test_they_are_topk_and_batch_topk_over_all_features(self) -> None:
        u = pre()
        torch.testing.assert_close(function("layer_topk", k=K)(u).dense(), function("topk", k=K)(u).dense())
        torch.testing.assert_close(
            function("batch_layer_topk", k=2.5)(u).dense(), function("batch_topk", k=2.5)(u).dense()
        )

    @pytest.mark.parametrize("kind", ["layer_topk", "batch_layer_topk"])
    def test_one_layer_refuses_them(self, kind: str) -> None:
        with pytest.raises(ConfigError, match=f"one layer; use '{kind.replace('layer_', '')}'"):
            autoencoder({"kind": kind, "k": K})

    @pytest.mark.parametrize(
        "kind", ["topk", "abs_topk", "batch_topk", "layer_topk", "batch_layer_topk", "variational"]
    )
    def test_more_than_all_features_cannot_be_kept(self, kind: str) -> None:
        with pytest.raises(ConfigError, match="k is 33, more than the"):
            function(kind, k=F + 1)


class TestVariational:
    def test_without_noise_it_is_topk_bit_for_bit(self) -> None:
        u = pre().requires_grad_()
        weight = pre(seed=9)
        results = []
        for f in (function("variational", k=K, sigma=0.0).train(), function("topk", k=K)):
            acts = f(u).dense()
            (grad,) = torch.autograd.grad((acts * weight).sum(), u)
            results.append((acts, grad))
        assert torch.equal(results[0][0], results[1][0])
        assert torch.equal(results[0][1], results[1][1])

    def test_inference_keeps_the_largest_means(self) -> None:
        f, u = function("variational", k=K, sigma=2.0), pre()
        expected = function("topk", k=K)(u).dense()
        assert not torch.equal(f.train()(u).dense(), expected)
        assert torch.equal(f.eval()(u).dense(), expected)
        assert isinstance(f.frozen(), TopK)
        assert torch.equal(f.frozen()(u).dense(), expected)

    def test_noise_has_the_scale_of_sigma_and_follows_the_number_of_the_batch(self) -> None:
        f = function("variational", k=F, sigma=0.5).train()
        u = torch.full((4000, F), 30.0)
        noise = f(u).dense() - 30
        assert noise.std().item() == pytest.approx(0.5, rel=0.02)
        assert abs(noise.mean().item()) < 0.01
        assert torch.equal(f(u).dense() - 30, noise), "a batch keeps its noise"
        f.observe(Acts(u, F))
        other = f(u).dense() - 30
        assert not torch.equal(other, noise)
        resumed = function("variational", k=F, sigma=0.5).train()
        resumed.load_state_dict(f.state_dict())
        assert torch.equal(resumed(u).dense() - 30, other)

    def test_the_divergence_from_a_standard_normal(self) -> None:
        dictionary = autoencoder({"kind": "variational", "k": K, "sigma": 0.7, "learn_sigma": True})
        f: Variational = dictionary.activation  # pyright: ignore[reportAssignmentType]
        step = step_of(dictionary)
        mu, sigma = step.pre.relu(), (0.5 * f.log_variance).exp()
        exact = torch.distributions.kl_divergence(
            torch.distributions.Normal(mu, sigma), torch.distributions.Normal(0.0, 1.0)
        )
        torch.testing.assert_close(KL().value(step), exact.sum(-1).mean())
        free = exact.mean(0).clamp_min(0.9)
        assert 0 < (exact.mean(0) < 0.9).sum() < F
        torch.testing.assert_close(KL(free_bits=0.9).value(step), free.sum())

    def test_its_gradient_at_unit_noise_is_the_mean(self) -> None:
        dictionary = autoencoder({"kind": "variational", "k": K, "sigma": 1.0}, center=False)
        (KL().value(step_of(dictionary)) * 3.0).backward()
        mu = step_of(dictionary).pre.relu()
        torch.testing.assert_close(dictionary.b_enc.grad, 3.0 * mu.mean(0), rtol=1e-6, atol=1e-6)

    def test_a_learned_sigma_moves_and_stays_in_its_range(self) -> None:
        dictionary = autoencoder({"kind": "variational", "k": K, "sigma": 0.5, "learn_sigma": True})
        f: Variational = dictionary.activation  # pyright: ignore[reportAssignmentType]
        step_of(dictionary).error.pow(2).sum().backward()
        assert f.log_variance.grad is not None
        assert f.log_variance.grad.any()
        with torch.no_grad():
            f.log_variance.fill_(50.0)
        dictionary.project_()
        assert f.log_variance.max() == 2.0
        with pytest.raises(ConfigError, match="cannot start at 0"):
            function("variational", k=K, sigma=0.0, learn_sigma=True)


class TestJumpReLU:
    def test_threshold_gradients_are_the_density_at_the_threshold(self) -> None:
        scores = torch.rand(200_000, 4, generator=torch.Generator().manual_seed(7))
        config = JumpReLU.Config(threshold=0.5, bandwidth=0.1)
        f = config.build(4)
        (f.active(scores).sum() / len(scores)).backward()
        torch.testing.assert_close(f.threshold.grad, torch.full((4,), -1.0), rtol=0.03, atol=0)
        f = config.build(4)
        (f(scores).dense().sum() / len(scores)).backward()
        torch.testing.assert_close(f.threshold.grad, torch.full((4,), -0.5), rtol=0.03, atol=0)


def test_an_l1_penalty_shrinks_by_half_its_weight() -> None:
    a, weight = 2.0, 0.6
    dictionary = autoencoder({"kind": "relu"}, {"kind": "squared_error"}, {"kind": "l1"}, n_features=1, center=False)
    with torch.no_grad():
        dictionary.W_enc.zero_()
        dictionary.b_dec.zero_()
        dictionary.W_dec.copy_(torch.eye(1, D))
        dictionary.b_enc.fill_(a - weight / 2)
    step = dictionary(a * torch.eye(1, D))
    loss = SquaredError().value(step) + weight * L1().value(step)
    loss.backward()
    assert step.acts.dense().item() == pytest.approx(a - weight / 2)
    assert dictionary.b_enc.grad is not None
    assert dictionary.b_enc.grad.item() == pytest.approx(0.0, abs=1e-6), "the loss is least where a is shrunk"
