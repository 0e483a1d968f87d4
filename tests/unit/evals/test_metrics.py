from __future__ import annotations

from dataclasses import asdict

import pytest
import torch
from torch import Tensor

from monoscope.core.acts import Acts
from monoscope.core.errors import DataError
from monoscope.evals.metrics import Fidelity, Firing, Moments, NextToken


def fidelity(target: Tensor, recon: Tensor, sizes: tuple[int, ...] = (), mean: Tensor | None = None) -> dict:
    """Metrics of one accumulator, fed in batches of the given sizes and a rest."""
    accumulator = Fidelity(target.shape[1], mean)
    sizes = (*sizes, len(target) - sum(sizes))
    for x, y in zip(target.split(sizes), recon.split(sizes), strict=True):
        accumulator.update(x, y)
    return asdict(accumulator.result())


def firing(acts: Acts, norm: Tensor | None = None) -> dict:
    accumulator = Firing(torch.ones(acts.n_features) if norm is None else norm)
    accumulator.update(acts)
    return asdict(accumulator.result())


def next_token(wanted: Tensor, clean: Tensor, **changed: Tensor) -> NextToken:
    losses = NextToken()
    losses.update(wanted, clean)
    for name, logits in changed.items():
        losses.update_changed(name, wanted, clean, logits)
    return losses


def sparse_acts(n: int = 200, features: int = 12) -> Tensor:
    return torch.randn(n, features) * (torch.rand(n, features) < 0.2)


@pytest.mark.parametrize(
    ("scale", "offset", "saebench"), [(2, 2, 1.072), (1, 0, 0.904), (1, 2, 0.974), (3.9, 0, -0.82), (10, 0, 1.017)]
)
def test_explained_variance_removes_the_mean_whatever_the_scale(scale, offset, saebench):
    x = scale * (torch.randn(100_000, 16, dtype=torch.float64) + offset)
    recon = x + 0.3 * scale * torch.randn_like(x)
    result = fidelity(x, recon, mean=x.mean(0))
    assert result["ev"] == pytest.approx(0.910, abs=0.005)
    assert result["fvu"] == pytest.approx(1 - result["ev"], abs=1e-12)
    assert result["legacy_ratio"] == pytest.approx(0.897, abs=0.005)
    assert result["ev_saebench"] == pytest.approx(saebench, abs=0.1 if scale == 3.9 else 0.005)


def test_definitions():
    x, recon = torch.randn(50, 6).double() + 3, torch.randn(50, 6).double()
    result = fidelity(x, recon)
    error = (x - recon).square().sum(1)
    assert result["fvu"] == pytest.approx((error.sum() / (x - x.mean(0)).square().sum()).item())
    assert result["nmse"] == pytest.approx((error.mean() / x.square().sum(1).mean()).item())
    assert result["mse"] == pytest.approx(torch.nn.functional.mse_loss(recon, x).item())
    assert result["cosine"] == pytest.approx(torch.cosine_similarity(x, recon).mean().item())
    assert result["shrinkage"] == pytest.approx((recon.norm(dim=1) / x.norm(dim=1)).mean().item())
    assert result["bias"] == pytest.approx((recon.square().sum() / (x * recon).sum()).item())
    assert result["legacy_ratio"] is None


def test_identity_and_zero_reconstructions():
    x = torch.randn(100, 5) + 1
    identity, zero = fidelity(x, x), fidelity(x, torch.zeros_like(x))
    exact = {"ev": 1, "fvu": 0, "nmse": 0, "mse": 0, "cosine": 1, "shrinkage": 1, "bias": 1}
    assert {name: identity[name] for name in exact} == pytest.approx(exact)
    assert zero["ev"] < 0
    assert (zero["nmse"], zero["cosine"], zero["shrinkage"], zero["bias"]) == (1, 0, 0, None)


@pytest.mark.parametrize("sizes", [(1, 1, 1), (37,), (0, 50)])
def test_fidelity_does_not_depend_on_batches_or_their_order(sizes):
    x = torch.randn(100, 5) + 1e4  # a mean far from 0, where one-pass sums lose the variance
    recon, mean = x + 0.1 * torch.randn_like(x), x.double().mean(0)
    whole = fidelity(x, recon, mean=mean)
    order = torch.randperm(100)
    assert fidelity(x, recon, sizes, mean) == pytest.approx(whole, rel=1e-9)
    assert fidelity(x[order], recon[order], sizes, mean) == pytest.approx(whole, rel=1e-9)


def test_merging_is_as_good_as_seeing_everything():
    x, recon = torch.randn(60, 4), torch.randn(60, 4)
    mean = x.mean(0)
    parts = [Fidelity(4, mean), Fidelity(4, mean), Fidelity(4, mean)]
    parts[0].update(x[:7], recon[:7])
    parts[1].update(x[7:], recon[7:])
    parts[0].merge(parts[2])
    parts[2].merge(parts[0])
    parts[2].merge(parts[1])
    assert asdict(parts[2].result()) == pytest.approx(fidelity(x, recon, mean=mean), rel=1e-12)


def test_short_vectors_are_counted_and_left_out_of_directions():
    x = torch.cat([torch.randn(10, 3), torch.full((4, 3), 1e-9)])
    result = fidelity(x, x)
    assert result["n_short"] == 4
    assert result["n_tokens"] == 14
    assert result["cosine"] == pytest.approx(1)


def test_moments_match_torch():
    x = torch.randn(30, 4).double() * 2 + 5
    moments = Moments(4)
    for part in x.split(7):
        moments.update(part)
    torch.testing.assert_close(moments.mean, x.mean(0))
    assert moments.spread == pytest.approx((x - x.mean(0)).square().sum().item())
    assert moments.power == pytest.approx(x.square().sum().item())


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_values_that_are_not_finite_raise_and_name_the_row(bad):
    x, broken = torch.randn(9, 3), torch.randn(9, 3)
    broken[5, 1] = bad
    with pytest.raises(DataError, match="activations hold a value that is not finite; the first is in row 5 of 9"):
        Fidelity(3).update(broken, x)
    with pytest.raises(DataError, match="reconstructions .* row 5"):
        Fidelity(3).update(x, broken)
    with pytest.raises(DataError, match="feature activations .* row 5"):
        Firing(torch.ones(3)).update(Acts(broken, 3))
    with pytest.raises(DataError, match="spliced losses .* row 5"):
        NextToken().update_changed("spliced", torch.zeros(9).long(), x, broken)


def test_nothing_to_measure_raises():
    with pytest.raises(DataError, match="tokens that differ; found 0"):
        Fidelity(3).result()
    with pytest.raises(DataError, match="found 5, all with the same"):
        fidelity(torch.ones(5, 3), torch.zeros(5, 3))
    with pytest.raises(DataError, match="no tokens"):
        Firing(torch.ones(3)).result()


def test_firing_counts_what_is_not_zero():
    acts = torch.tensor([[1.0, 0, 0, -2], [0, 0, 0, -1], [3, 0, 0, 0], [0, 0, 0, 1]])
    result = firing(Acts(acts, 4), norm=torch.tensor([2.0, 1, 1, 0.5]))
    assert result["l0"] == 5 / 4
    assert result["l1"] == (2 * (1 + 3) + 0.5 * (2 + 1 + 1)) / 4
    assert result["dead_share"] == 1 / 2
    assert result["dense_1_share"] == result["dense_10_share"] == 1 / 2


def test_shares_of_dense_features():
    acts = torch.zeros(1000, 4)
    acts[:10, 0], acts[:11, 1], acts[:101, 2] = 1, 1, 1  # exactly 1 % is not above 1 %
    result = firing(Acts(acts, 4))
    assert (result["dense_1_share"], result["dense_10_share"], result["dead_share"]) == (0.5, 0.25, 0.25)


def test_firing_is_the_same_in_both_layouts_and_any_batches():
    dense = sparse_acts()
    values, indices = dense.abs().topk(8)
    sparse = Acts(dense.gather(1, indices), 12, indices)
    assert (values[:, -1] == 0).all(), "the sparse layout must hold every activation, and some padding"
    whole = firing(Acts(dense, 12))
    assert firing(sparse) == pytest.approx(whole)
    parts = [Firing(torch.ones(12)) for _ in range(3)]
    for part, acts in zip(parts, dense[torch.randperm(200)].split([1, 150, 49]), strict=True):
        part.update(Acts(acts, 12))
    parts[0].merge(parts[1])
    parts[0].merge(parts[2])
    assert asdict(parts[0].result()) == pytest.approx(whole)


def test_firing_does_not_change_with_order_sign_or_scale_of_features():
    acts, norm, order = sparse_acts(), torch.rand(12) + 0.5, torch.randperm(12)
    whole = firing(Acts(acts, 12), norm)
    assert firing(Acts(acts[:, order], 12), norm[order]) == pytest.approx(whole)
    assert firing(Acts(-acts, 12), norm) == pytest.approx(whole)
    assert firing(Acts(acts / 3, 12), norm * 3) == pytest.approx(whole)


def test_a_dead_feature_and_a_duplicate_change_what_they_should():
    acts = sparse_acts()
    whole = firing(Acts(acts, 12))
    with_dead = firing(Acts(torch.cat([acts, torch.zeros(200, 12)], dim=1), 24))
    assert with_dead["l0"] == pytest.approx(whole["l0"])
    assert with_dead["dead_share"] == pytest.approx((whole["dead_share"] + 1) / 2)
    twice = firing(Acts(torch.cat([acts, acts], dim=1), 24))
    assert twice["l0"] == pytest.approx(2 * whole["l0"])
    assert twice["dense_10_share"] == whole["dense_10_share"]


def test_next_token_losses_are_those_of_torch():
    clean, other, wanted = torch.randn(700, 11), torch.randn(700, 11), torch.randint(11, (700,))
    losses = next_token(wanted, clean, spliced=(clean + other) / 2, zero=other)
    assert losses.ce("clean") == pytest.approx(torch.nn.functional.cross_entropy(clean, wanted).item(), rel=1e-5)
    assert losses.ce("zero") == pytest.approx(torch.nn.functional.cross_entropy(other, wanted).item(), rel=1e-5)
    divergence = torch.nn.functional.kl_div(
        other.log_softmax(1), clean.log_softmax(1), log_target=True, reduction="batchmean"
    )
    assert losses.kl("zero") == pytest.approx(divergence.item(), rel=1e-5)
    by_hand = (losses.ce("zero") - losses.ce("spliced")) / (losses.ce("zero") - losses.ce("clean"))
    assert losses.ce_recovered("spliced", "zero") == pytest.approx(by_hand)
    assert losses.kl_recovered("spliced", "zero") == pytest.approx(1 - losses.kl("spliced") / losses.kl("zero"))


def test_recovered_shares_at_their_ends_and_where_nothing_is_at_stake():
    clean, zero, wanted = torch.randn(20, 7), torch.randn(20, 7), torch.randint(7, (20,))
    losses = next_token(wanted, clean, same=clean, ablated=zero, zero=zero)
    assert losses.ce_recovered("same", "zero") == losses.kl_recovered("same", "zero") == 1
    assert losses.ce_recovered("ablated", "zero") == losses.kl_recovered("ablated", "zero") == 0
    assert losses.ce_recovered("zero", "same") is None
    assert losses.kl_recovered("zero", "same") is None


def test_next_token_losses_do_not_depend_on_batches():
    clean, other, wanted = torch.randn(60, 7), torch.randn(60, 7), torch.randint(7, (60,))
    whole = next_token(wanted, clean, zero=other)
    parts = [next_token(wanted[rows], clean[rows], zero=other[rows]) for rows in (slice(0, 13), slice(13, None))]
    parts[1].merge(parts[0])
    assert parts[1].ce("zero") == pytest.approx(whole.ce("zero"), rel=1e-9)
    assert parts[1].kl("zero") == pytest.approx(whole.kl("zero"), rel=1e-6)
