"""Crosscoders: planted features that emerge and turn, identical sites, heads that change places, and refusals."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from monoscope.core.errors import ConfigError
from monoscope.core.site import Site
from monoscope.dictionaries import Crosscoder, Recipe
from monoscope.dictionaries.initialize import Sample
from monoscope.dictionaries.trajectories import emergence, rotation
from monoscope.harvest import ActivationSource, from_array, together
from monoscope.training import train

SNAPSHOTS, PLANTED, D, F = 6, 48, 32, 64
HARD = {"reconstruction": {"kind": "fvu"}, "revive": {"kind": "auxk"}}
SOFT = {"reconstruction": {"kind": "squared_error"}, "sparsity": {"kind": "l1", "weight": 0.5}}


class Emerging:
    """A model in training: ``x_m = sum_i 1[m >= onset_i] a_i dir_i(m)``, directions turning by up to 1.5 rad."""

    def __init__(self, n: int, share: float = 0.06, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        first = torch.nn.functional.normalize(torch.randn(PLANTED, D, generator=generator), dim=1)
        other = torch.randn(PLANTED, D, generator=generator)
        other = torch.nn.functional.normalize(other - (other * first).sum(1, keepdim=True) * first, dim=1)
        angle = torch.linspace(0, 1.5, SNAPSHOTS)[:, None, None] * torch.rand(PLANTED, 1, generator=generator)
        self.directions = angle.cos() * first + angle.sin() * other
        self.onset = torch.arange(PLANTED) % SNAPSHOTS
        self.present = torch.arange(SNAPSHOTS)[:, None] >= self.onset
        acts = 0.5 + torch.rand(n, PLANTED, generator=generator)
        acts *= torch.rand(n, PLANTED, generator=generator) < share
        self.l0 = share * PLANTED
        self.x = [(acts * self.present[m]) @ self.directions[m] for m in range(SNAPSHOTS)]

    def source(self) -> ActivationSource:
        """Snapshots side by side."""
        labeled = {f"step{m}": from_array(x, "2.resid_post", seed=0, batch_tokens=1024) for m, x in enumerate(self.x)}
        return together(labeled)


def trained(world: Emerging, recipe: dict[str, Any], tokens: int) -> Crosscoder:
    source = world.source()
    found = train(
        recipe, source, reads=source.sites, tokens=tokens, batch_tokens=1024, optimizer={"kind": "adam", "lr": 1e-2}
    )
    assert isinstance(found, Crosscoder)
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("function", "gate", "terms"),
    [
        ({"kind": "relu"}, "shared", SOFT),
        ({"kind": "topk", "k": 4}, "shared", HARD),
        ({"kind": "jumprelu", "calibrate_l0": 3}, "per_site", HARD | {"sparsity": {"kind": "target_l0", "target": 10}}),
    ],
    ids=["relu", "topk", "jumprelu-gated"],
)
def test_onset_and_rotation_of_planted_features(function: dict[str, Any], gate: str, terms: dict[str, Any]) -> None:
    world = Emerging(60_000)
    wiring = {"kind": "crosscoder", "n_features": F, "gate": gate}
    found = trained(world, {"wiring": wiring, "function": function, "terms": terms}, 400_000)
    last = torch.nn.functional.normalize(found.W_dec[-1], dim=1) @ world.directions[-1].T
    cosine, match = last.max(0)
    recovered = cosine > 0.95
    assert recovered.float().mean() > 0.9
    onset = emergence(found.site_norms()[:, match])
    assert ((onset - world.onset).abs() <= 1)[recovered].all()
    turned = rotation(found.W_dec[:, match])
    planted = rotation(world.directions)
    alive = world.present.T[:, :, None] & world.present.T[:, None]
    assert (turned - planted).abs()[alive & recovered[:, None, None]].max() < 0.05


def test_identical_snapshots_have_equal_norms_and_do_not_turn() -> None:
    x = Emerging(4_000).x[-1]
    source = together({label: from_array(x, "2.resid_post", seed=0, batch_tokens=1024) for label in ("a", "b", "c")})
    wiring = {"kind": "crosscoder", "n_features": F}
    recipe = {"wiring": wiring, "function": {"kind": "batch_topk", "k": 3}, "terms": HARD}
    found = train(recipe, source, reads=source.sites, tokens=30_000, batch_tokens=1024)
    assert isinstance(found, Crosscoder)
    norms = found.site_norms()
    torch.testing.assert_close(norms, norms[:1].expand(3, -1))
    torch.testing.assert_close(rotation(found.W_dec), torch.ones(F, 3, 3))


TOPK = {"kind": "topk", "k": 4}


def build(function: dict[str, Any] = TOPK, terms: dict[str, Any] = HARD, **wiring: Any) -> Crosscoder:
    sites = tuple(Site(layer, "resid_post") for layer in range(3))
    table = {"wiring": {"kind": "crosscoder", "n_features": 20} | wiring, "function": function, "terms": terms}
    recipe = Recipe.from_dict(table)
    found = recipe.build(sites, sites, dict.fromkeys(sites, 8))
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(50, 3, 8, generator=generator)
    assert isinstance(found, Crosscoder)
    found.initialize_(recipe.initialize, Sample.of(x, x, 3, 3), generator)
    with torch.no_grad():
        for parameter in (found.W_enc, found.b_enc, found.W_dec, found.b_dec):
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return found.eval()


def permuted(found: Crosscoder, order: list[int]) -> Crosscoder:
    other = build(gate=found.config.gate)
    other.load_state_dict(found.state_dict())
    with torch.no_grad():
        for parameter in (other.W_enc, other.W_dec, other.b_dec):
            parameter.copy_(parameter[order].clone())
    return other


@pytest.mark.parametrize("gate", ["shared", "per_site"])
def test_permuting_heads_permutes_outputs(gate: str) -> None:
    found, order = build(gate=gate), [2, 0, 1]
    x = torch.randn(10, 3, 8)
    before, after = found(x), permuted(found, order)(x[:, order])
    torch.testing.assert_close(after.recon, before.recon[:, order])
    gates = before.acts.dense() if gate == "shared" else before.acts.dense()[:, order]
    torch.testing.assert_close(after.acts.dense(), gates)


def test_all_sites_start_from_the_same_weights() -> None:
    sites = tuple(Site(2, "resid_post", model=label) for label in ("a", "b"))
    recipe = Recipe.from_dict(
        {"wiring": {"kind": "crosscoder", "n_features": 20}, "function": {"kind": "batch_topk", "k": 4}}
    )
    found = recipe.build(sites, sites, dict.fromkeys(sites, 8))
    x = torch.randn(50, 2, 8)
    found.initialize_(recipe.initialize, Sample.of(x, x, 2, 2), torch.Generator().manual_seed(0))
    for name in ("W_enc", "W_dec"):
        assert torch.equal(found.get_parameter(name)[0], found.get_parameter(name)[1])
        assert found.get_parameter(name).any()


def norms_of(found: Crosscoder) -> Tensor:
    return torch.stack([rows.norm(dim=1) for rows in found.W_dec])


def test_norms_over_sites() -> None:
    torch.testing.assert_close(build(norm="l1").decoder_norm(), norms_of(build()).sum(0))
    torch.testing.assert_close(build(norm="l2").decoder_norm(), norms_of(build()).square().sum(0).sqrt())
    torch.testing.assert_close(build(gate="per_site").decoder_norm(), norms_of(build()))


def test_a_gated_feature_is_silent_where_its_norm_is_small() -> None:
    sparse = {"reconstruction": {"kind": "fvu"}, "sparsity": {"kind": "target_l0"}}
    found = build({"kind": "jumprelu", "threshold": 0.5}, sparse, gate="per_site")
    with torch.no_grad():
        found.W_dec[1, 5:] *= 1e-3
    dense = found(torch.randn(40, 3, 8)).acts.dense()
    fires = dense.any(0)
    assert fires[[0, 2], 5:].any()
    assert fires[1, :5].any()
    assert not fires[1, 5:].any()
    both = (dense[:, 0] != 0) & (dense[:, 2] != 0)
    assert torch.equal(dense[:, 0][both], dense[:, 2][both])


@pytest.mark.parametrize(
    ("wiring", "function", "reads", "writes", "said"),
    [
        ({}, "topk", ["2.resid_post"], ["1.resid_post"], "reads 2.resid_post, which the model comes to after 1.resid"),
        (
            {},
            "topk",
            ["0.mlp_in", "1.mlp_in"],
            ["0.mlp_out"],
            "reads 1.mlp_in, which the model comes to after 0.mlp_out",
        ),
        ({}, "topk", ["1.mlp_in"], ["1.attn_out"], "comes to after 1.attn_out"),
        ({}, "topk", ["0.resid_post", "0.resid_post"], ["0.resid_post"], "0.resid_post is read twice"),
        ({}, "topk", ["0.resid_post", "1.mlp_out"], ["1.mlp_out"], "0.resid_post has 8, 1.mlp_out has 6"),
        ({"gate": "per_site"}, "relu", ["0.resid_post"], ["0.resid_post"], "tells sites apart by scores"),
        (
            {"gate": "per_site", "scale_by_decoder_norm": False},
            "topk",
            ["0.resid_post"],
            ["0.resid_post"],
            "needs scores",
        ),
    ],
)
def test_refusals(wiring: dict[str, Any], function: str, reads: list[str], writes: list[str], said: str) -> None:
    terms = SOFT if function == "relu" else HARD
    sizes = {} if function == "relu" else {"k": 4}
    recipe = Recipe.from_dict(
        {
            "wiring": {"kind": "crosscoder", "n_features": 20} | wiring,
            "function": {"kind": function} | sizes,
            "terms": terms,
        }
    )
    sites = [tuple(map(Site.parse, names)) for names in (reads, writes)]
    widths = {site: 6 if site.kind == "mlp_out" else 8 for site in {*sites[0], *sites[1]}}
    with pytest.raises(ConfigError, match=said.replace(".", r"\.")):
        recipe.build(sites[0], sites[1], widths)


def test_sites_of_other_models_have_no_order() -> None:
    reads, writes = (Site.parse("2.resid_post@tuned"),), (Site.parse("1.resid_post@base"),)
    recipe = Recipe.from_dict({"wiring": {"kind": "crosscoder", "n_features": 70}})
    assert recipe.build(reads, writes, dict.fromkeys((*reads, *writes), 8)).n_features == 70
