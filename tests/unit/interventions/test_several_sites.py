"""Edits of dictionaries that write at several sites: along the forward pass, or from what another pass read."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from monoscope.core.errors import UserError
from monoscope.core.site import Site
from monoscope.dictionaries import Crosscoder, CrossLayer
from monoscope.dictionaries.variants import BatchTopK, TopK
from monoscope.dictionaries.variants.layer_topk import LayerTopK
from monoscope.interventions import ablate, clamp, splice, steer

D, F = 16, 20
MLP_IN, MLP_OUT, RESID = (
    tuple(Site(layer, kind) for layer in range(3)) for kind in ("mlp_in", "mlp_out", "resid_post")
)


def randomized(built):
    generator = torch.Generator().manual_seed(0)
    for parameter in built.parameters():
        torch.nn.init.normal_(parameter, std=0.3, generator=generator)
    return built.frozen()


def cross_layer(function=None, **options) -> CrossLayer:
    config = CrossLayer.Config(n_features=F, **options)
    return randomized(
        config.build(function or TopK.Config(k=3), MLP_IN, MLP_OUT, dict.fromkeys((*MLP_IN, *MLP_OUT), D))
    )


def crosscoder(sites=RESID, **options) -> Crosscoder:
    config = Crosscoder.Config(n_features=F, **options)
    return randomized(config.build(TopK.Config(k=5), sites, sites, dict.fromkeys(sites, D)))


def read(lm, tokens, sites) -> Tensor:
    found = lm.read(tokens, sites)
    return torch.stack([found[site] for site in sites], dim=-2)


@pytest.mark.parametrize("error", ["keep", "leaf"])
def test_with_the_error_kept_logits_are_the_models(lm, tokens, error):
    with lm.edit(splice(cross_layer(skip=True), error=error)):
        spliced = lm.logits(tokens)
    torch.testing.assert_close(spliced, lm.logits(tokens), atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("function", [TopK.Config(k=3), BatchTopK.Config(k=4)], ids=["topk", "thresholds"])
def test_each_layer_is_reconstructed_from_what_was_read_so_far(lm, tokens, function):
    clt = cross_layer(function, skip=True)
    with lm.edit(splice(clt, error="drop", skip_first=0)):
        x, written = read(lm, tokens, MLP_IN), read(lm, tokens, MLP_OUT)
    torch.testing.assert_close(written, clt(x).recon, rtol=1e-4, atol=1e-4)
    clean = read(lm, tokens, MLP_IN)
    torch.testing.assert_close(x[..., 0, :], clean[..., 0, :])
    assert not torch.allclose(x[..., 2, :], clean[..., 2, :], atol=1e-2)


def test_tokens_that_do_not_count_stay_as_they_are(lm, tokens):
    where = torch.rand(tokens.shape, generator=torch.Generator().manual_seed(1)) < 0.5
    clt = cross_layer()
    with lm.edit(splice(clt, error="drop", skip_first=0, where=where)):
        x, written = read(lm, tokens, MLP_IN), read(lm, tokens, MLP_OUT)
    torch.testing.assert_close(written[where], clt(x).recon[where], rtol=1e-4, atol=1e-4)
    first = lm.read(tokens, MLP_OUT[:1])[MLP_OUT[0]]
    assert torch.equal(written[..., 0, :][~where], first[~where])


def test_ablating_takes_away_what_features_write_at_each_layer(lm, tokens):
    clt, features = cross_layer(), torch.arange(F)
    before = clt(read(lm, tokens, MLP_IN)).acts.where(features)
    assert before.any()
    with lm.edit(ablate(clt, features, skip_first=0)):
        written = read(lm, tokens, MLP_OUT)
        x = read(lm, tokens, MLP_IN)
    clean = lm.read(tokens, MLP_OUT[:1])[MLP_OUT[0]]
    torch.testing.assert_close(written[..., 0, :], clean - before @ clt.decoder_rows(MLP_OUT[0], features))
    own = lm.read(tokens, MLP_OUT)[MLP_OUT[1]]
    assert not torch.allclose(written[..., 1, :], own, atol=1e-3)
    torch.testing.assert_close(x[..., 0, :], read(lm, tokens, MLP_IN)[..., 0, :])


def test_features_of_later_layers_are_known_when_they_are_read(lm, tokens):
    clt, feature = cross_layer(), 2 * F + 4
    with lm.edit(clamp(clt, feature, 7.0, skip_first=0)):
        written = read(lm, tokens, MLP_OUT)
    clean, x = read(lm, tokens, MLP_OUT), read(lm, tokens, MLP_IN)
    torch.testing.assert_close(written[..., :2, :], clean[..., :2, :])
    acts = clt(x).acts.dense()[..., feature, None]
    moved = clean[..., 2, :] + (7.0 - acts) * clt.decoder_rows(MLP_OUT[2])[feature]
    torch.testing.assert_close(written[..., 2, :], moved, rtol=1e-4, atol=1e-4)


def test_steering_moves_every_site_by_a_part_of_the_distance(lm, tokens):
    clt, feature = cross_layer(), F + 1
    clean = read(lm, tokens, MLP_OUT)
    with lm.edit(steer(clt, feature, 3.0, skip_first=0)):
        moved = lm.read(tokens, MLP_OUT)
    rows = torch.stack([clt.decoder_rows(site)[feature] for site in MLP_OUT])
    assert not rows[0].any()
    torch.testing.assert_close(moved[MLP_OUT[0]], clean[..., 0, :])
    step = moved[MLP_OUT[1]] - clean[..., 1, :]
    torch.testing.assert_close(step, (3.0 * rows[1] / rows.norm()).expand_as(step), rtol=1e-4, atol=1e-4)
    with lm.edit(steer(clt, feature, 3.0, at="2.mlp_out", skip_first=0)):
        step = lm.read(tokens, MLP_OUT)[MLP_OUT[2]] - clean[..., 2, :]
    torch.testing.assert_close(step.norm(dim=-1), torch.full(tokens.shape, 3.0))


def test_a_crosscoder_over_layers_is_spliced_from_another_pass(lm, tokens):
    found = crosscoder(gate="per_site")
    given = lm.read(tokens, RESID)
    recon = found(read(lm, tokens, RESID)).recon
    with lm.edit(splice(found, error="drop", skip_first=0, given=given)):
        torch.testing.assert_close(read(lm, tokens, RESID), recon)
    with lm.edit(splice(found, error="keep", given=given)):
        torch.testing.assert_close(lm.logits(tokens), lm.logits(tokens), atol=2e-5, rtol=2e-5)


def test_ablating_from_another_pass_changes_each_site_once(lm, tokens):
    found, features = crosscoder(), torch.arange(F)
    given = lm.read(tokens, RESID)
    clean = read(lm, tokens, RESID)
    with lm.edit(ablate(found, features, skip_first=0, given=given)):
        left = read(lm, tokens, RESID)
    torch.testing.assert_close(left, clean - (found(clean).recon - found.b_dec), rtol=1e-4, atol=1e-4)


def test_of_several_models_the_one_that_is_named_is_edited(lm, tokens):
    sites = tuple(Site(1, "resid_post", model=label) for label in ("base", "tuned"))
    found = crosscoder(sites)
    x = lm.read(tokens, ["1.resid_post"])[Site(1, "resid_post")]
    given = dict(zip(sites, (x, 2 * x), strict=True))
    recon = found(torch.stack(list(given.values()), dim=-2)).recon
    with lm.edit(splice(found, error="drop", skip_first=0, given=given, model="tuned")):
        torch.testing.assert_close(lm.read(tokens, ["1.resid_post"])[Site(1, "resid_post")], recon[..., 1, :])
    with lm.edit(steer(found, 3, 2.0, skip_first=0, model="base")):
        step = lm.read(tokens, ["1.resid_post"])[Site(1, "resid_post")] - x
    direction = torch.nn.functional.normalize(found.W_dec[0, 3], dim=0)
    torch.testing.assert_close(step, (2.0 * direction).expand_as(x), rtol=1e-4, atol=1e-4)


def test_a_dictionary_of_one_labeled_model_needs_no_name(lm, tokens):
    site = Site(1, "resid_post", model="tuned")
    with lm.edit(splice(crosscoder((site,)), error="keep")):
        torch.testing.assert_close(lm.logits(tokens), lm.logits(tokens), atol=2e-5, rtol=2e-5)


def test_what_one_pass_does_not_give_is_refused():
    with pytest.raises(UserError, match=r"write at 0\.resid_post also read 1\.resid_post, .* comes later; pass what"):
        splice(crosscoder())
    sites = tuple(Site(1, "resid_post", model=label) for label in ("base", "tuned"))
    with pytest.raises(UserError, match="writes in the models 'base', 'tuned'; name the one"):
        steer(crosscoder(sites), 0, 1.0)
    with pytest.raises(UserError, match="also read 1.resid_post@tuned, which is not in this model"):
        ablate(crosscoder(sites), 0, model="base")
    with pytest.raises(UserError, match=r"also read 1\.mlp_in"):
        splice(cross_layer(LayerTopK(k=9)))
    with pytest.raises(UserError, match=r"not at 3\.mlp_out"):
        steer(cross_layer(), 0, 1.0, at="3.mlp_out")
