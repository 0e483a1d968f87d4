from __future__ import annotations

import pytest
import torch

from monoscope.core.errors import MismatchError, UserError
from monoscope.core.site import Site
from monoscope.interventions import ablate, clamp, patch, splice, steer

SITE = Site.parse("1.resid_post")


def at_write_site(lm, dictionary, tokens, *edits):
    """What stands at the write site under edits."""
    site = dictionary.writes[0]
    with lm.edit(*edits):
        return lm.read(tokens, [site])[site]


def strongest(lm, dictionary, tokens) -> int:
    """A feature that fires on the text."""
    x = lm.read(tokens, dictionary.reads)[dictionary.reads[0]]
    return int(dictionary.encode(x[:, 1:]).dense().sum((0, 1)).argmax())


@pytest.fixture(params=["sae", "transcoder"])
def dictionary(request):
    return request.getfixturevalue(request.param)


def test_steer_moves_by_a_distance_along_the_feature(lm, dictionary, tokens):
    clean = at_write_site(lm, dictionary, tokens)
    moved = at_write_site(lm, dictionary, tokens, steer(dictionary, 3, 8.0)) - clean
    row = dictionary.W_dec[3]
    torch.testing.assert_close(moved[:, 1:], (8 * row / row.norm()).expand(2, 6, -1))
    assert (moved[:, 0] == 0).all()
    assert (at_write_site(lm, dictionary, tokens, steer(dictionary, 3, 8.0, skip_first=0)) != clean).any(-1)[:, 0].all()


def test_ablating_takes_away_contributions_and_keeps_the_error(lm, dictionary, tokens):
    chosen = [strongest(lm, dictionary, tokens), 7]
    seen = lm.read(tokens, [*dictionary.reads, *dictionary.writes])
    acts = dictionary.encode(seen[dictionary.reads[0]]).dense()
    expected = seen[dictionary.writes[0]] - acts[..., chosen] @ dictionary.W_dec[chosen]
    ablated = at_write_site(lm, dictionary, tokens, ablate(dictionary, chosen))
    torch.testing.assert_close(ablated[:, 1:], expected[:, 1:])
    assert torch.equal(ablated[:, 0], seen[dictionary.writes[0]][:, 0])
    assert not torch.allclose(ablated, seen[dictionary.writes[0]])


def test_ablating_a_feature_that_does_not_fire_changes_nothing(lm, dictionary, tokens):
    x = lm.read(tokens, dictionary.reads)[dictionary.reads[0]]
    silent = int((~dictionary.encode(x).fired()).nonzero()[0])
    with lm.edit(ablate(dictionary, silent)):
        edited = lm.logits(tokens)
    assert torch.equal(edited, lm.logits(tokens))


def test_clamp_holds_an_activation(lm, sae, tokens):
    feature = strongest(lm, sae, tokens)
    seen = lm.read(tokens, [SITE])[SITE]
    acts = sae.encode(seen).dense()[..., feature]
    clamped = at_write_site(lm, sae, tokens, clamp(sae, feature, 2.5))
    expected = seen + (2.5 - acts)[..., None] * sae.W_dec[feature]
    torch.testing.assert_close(clamped[:, 1:], expected[:, 1:])


def test_clamping_to_zero_is_ablating(lm, dictionary, tokens):
    feature = strongest(lm, dictionary, tokens)
    clamped = at_write_site(lm, dictionary, tokens, clamp(dictionary, feature, 0.0))
    torch.testing.assert_close(clamped, at_write_site(lm, dictionary, tokens, ablate(dictionary, feature)))


def test_edits_see_what_the_ones_before_them_left(lm, sae, tokens):
    feature = strongest(lm, sae, tokens)
    dropped = at_write_site(lm, sae, tokens, splice(sae, error="drop"))
    both = at_write_site(lm, sae, tokens, splice(sae, error="drop"), steer(sae, feature, 1.5))
    direction = torch.nn.functional.normalize(sae.W_dec[feature], dim=0)
    torch.testing.assert_close(both[:, 1:], (dropped + 1.5 * direction)[:, 1:])


def test_patch_replaces_whole_activations(lm, tokens):
    donor = torch.randn(2, 7, 16)
    with lm.edit(patch("1.resid_post", donor)):
        assert torch.equal(lm.read(tokens, [SITE])[SITE], donor)
    with lm.edit(patch(SITE, torch.ones(16), skip_first=2)):
        seen = lm.read(tokens, [SITE])[SITE]
    assert (seen[:, 2:] == 1).all()
    assert torch.equal(seen[:, :2], lm.read(tokens, [SITE])[SITE][:, :2])


def test_patching_with_the_sites_own_activations_changes_no_logit(lm, tokens):
    donor = lm.read(tokens, [SITE])[SITE]
    with lm.edit(patch(SITE, donor)):
        assert torch.equal(lm.logits(tokens), lm.logits(tokens))
        patched = lm.logits(tokens)
    assert torch.equal(patched, lm.logits(tokens))


def test_a_donor_that_does_not_fit_is_an_error(lm, tokens):
    with (
        lm.edit(patch(SITE, torch.ones(3, 16))),
        pytest.raises(MismatchError, match=r"donor of \[3, 16\] does not fit 1.resid_post, which is \[2, 7, 16\]"),
    ):
        lm.logits(tokens)


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_first_position_is_that_of_the_text_not_of_its_padding(lm, sae, tokens, side):
    pad = torch.zeros(2, 3).long()
    parts = [pad, tokens] if side == "left" else [tokens, pad]
    padded = torch.cat(parts, dim=1)
    mask = torch.cat([torch.full_like(part, part is tokens).bool() for part in parts], dim=1)
    columns = slice(3, None) if side == "left" else slice(0, 7)
    with lm.edit(steer(sae, 3, 8.0)):
        torch.testing.assert_close(lm.logits(padded, mask)[:, columns], lm.logits(tokens), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("edit", ["steer", "ablate", "clamp", "splice"])
def test_cached_generation_is_editing_the_whole_text(lm, dictionary, tokens, edit):
    edits = {
        "steer": steer(dictionary, 3, 4.0),
        "ablate": ablate(dictionary, [1, 2, 3, 4, 5]),
        "clamp": clamp(dictionary, 3, 2.0),
        "splice": splice(dictionary, error="drop"),
    }[edit]
    with lm.edit(edits):
        generated = lm.generate(tokens, max_new_tokens=6)
        rerun = lm.logits(generated).argmax(-1)
    assert torch.equal(generated[:, 7:], rerun[:, 6:-1])


def test_edits_work_in_the_models_dtype(lm, sae, tokens):
    lm.hf.to(torch.bfloat16)
    clean = lm.read(tokens, [SITE])[SITE]
    moved = at_write_site(lm, sae, tokens, steer(sae, 3, 8.0), ablate(sae, [4, 5]))
    assert moved.dtype == torch.bfloat16
    assert torch.equal(moved[:, 0], clean[:, 0])


def test_a_feature_the_dictionary_lacks_is_an_error(sae):
    with pytest.raises(UserError, match="no feature 40: the dictionary has features 0 to 39"):
        steer(sae, 40, 1.0)
    with pytest.raises(UserError, match="no feature -1"):
        ablate(sae, [3, -1])


def test_a_dictionary_that_writes_before_it_reads_is_an_error(lm, backwards, tokens):
    with lm.edit(ablate(backwards, 3)), pytest.raises(MismatchError, match=r"comes to 0\.resid_post.* before 2\.resid"):
        lm.logits(tokens)
