from __future__ import annotations

import pytest
import torch

from monoscope.core.errors import UserError
from monoscope.core.site import Site
from monoscope.interventions import ablate, clamp, steer
from monoscope.interventions.operators import Operator, operate
from monoscope.interventions.where import Trace, Where, traced, where

SITE = Site.parse("1.resid_post")


def at_write_site(lm, dictionary, tokens, *edits):
    site = dictionary.writes[0]
    with lm.edit(*edits):
        return lm.read(tokens, [site])[site]


def firing(lm, dictionary, tokens, n: int) -> list[int]:
    """Features that fire on the text, the strongest first."""
    x = lm.read(tokens, dictionary.reads)[dictionary.reads[0]]
    return dictionary.encode(x[:, 1:]).dense().sum((0, 1)).topk(n).indices.tolist()


@pytest.fixture(params=["sae", "transcoder"])
def dictionary(request):
    return request.getfixturevalue(request.param)


def test_single_operators_are_the_edits_of_the_same_names(lm, dictionary, tokens):
    feature = firing(lm, dictionary, tokens, 1)[0]
    same = [
        (Operator(feature, "distance", 3.0), steer(dictionary, feature, 3.0)),
        (Operator(feature, "clamp", 2.0), clamp(dictionary, feature, 2.0)),
        (Operator(feature, "scale", 0.0), ablate(dictionary, feature)),
    ]
    for operator, edits in same:
        mine = at_write_site(lm, dictionary, tokens, operate(dictionary, [operator]))
        torch.testing.assert_close(mine, at_write_site(lm, dictionary, tokens, edits))


def test_what_is_added_is_an_activation_a_length_or_a_share(lm, dictionary, tokens):
    clean = at_write_site(lm, dictionary, tokens)
    row = dictionary.W_dec[5]
    unit = row / row.norm()
    expected = {"add": 2.0 * row, "distance": 2.0 * unit, "share": 2.0 * clean.norm(dim=-1, keepdim=True) * unit}
    for kind, change in expected.items():
        moved = at_write_site(lm, dictionary, tokens, operate(dictionary, [Operator(5, kind, 2.0)]))
        torch.testing.assert_close(moved[:, 1:], (clean + change)[:, 1:])
        assert torch.equal(moved[:, 0], clean[:, 0])


def test_floors_and_caps_move_activations_on_one_side_only(lm, dictionary, tokens):
    feature = firing(lm, dictionary, tokens, 1)[0]
    x = lm.read(tokens, dictionary.reads)[dictionary.reads[0]]
    acts = dictionary.encode(x).dense()[..., feature]
    middle = float(acts[:, 1:].max()) / 2
    clean = at_write_site(lm, dictionary, tokens)
    for kind, wanted in (("floor", acts.clamp_min(middle)), ("cap", acts.clamp_max(middle))):
        moved = at_write_site(lm, dictionary, tokens, operate(dictionary, [Operator(feature, kind, middle)]))
        change = (wanted - acts)[..., None] * dictionary.W_dec[feature]
        torch.testing.assert_close(moved[:, 1:], (clean + change)[:, 1:])
        assert not torch.allclose(moved, clean)


def test_the_order_of_operators_does_not_matter(lm, sae, tokens):
    a, b = firing(lm, sae, tokens, 2)
    some = [Operator(a, "clamp", 3.0), Operator(b, "scale", 0.0), Operator(9, "share", 0.3)]
    forwards = at_write_site(lm, sae, tokens, operate(sae, some))
    backwards = at_write_site(lm, sae, tokens, operate(sae, some[::-1]))
    torch.testing.assert_close(forwards, backwards)
    x = lm.read(tokens, sae.reads)[sae.reads[0]]
    acts = sae.encode(x).dense()
    change = (3.0 - acts[..., [a]]) * sae.W_dec[a] - acts[..., [b]] * sae.W_dec[b]
    change = change + 0.3 * x.norm(dim=-1, keepdim=True) * sae.W_dec[9] / sae.W_dec[9].norm()
    torch.testing.assert_close(forwards[:, 1:], (x + change)[:, 1:])


def test_operators_that_change_nothing_leave_the_logits(lm, sae, tokens):
    feature = firing(lm, sae, tokens, 1)[0]
    idle = [Operator(feature, "scale", 1.0), Operator(3, "floor", -1e9), Operator(4, "add", 0.0)]
    with lm.edit(operate(sae, idle)):
        edited = lm.logits(tokens)
    assert torch.equal(edited, lm.logits(tokens))


def test_what_cannot_be_meant_is_refused(sae):
    with pytest.raises(UserError, match="feature 3 is changed twice"):
        operate(sae, [Operator(3, "add", 1.0), Operator(3, "clamp", 1.0)])
    with pytest.raises(UserError, match="no feature 99999"):
        operate(sae, [Operator(99999, "add", 1.0)])
    assert operate(sae, []) == ()


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        (Where(), [1, 2, 3, 4, 5, 6]),
        (Where(prompt=(-1,), generation=()), [3]),
        (Where(prompt=(), generation="all"), [4, 5, 6]),
        (Where(prompt=(0, 2), generation=(1,)), [2, 5]),
    ],
)
def test_places_are_named_by_what_a_token_is(lm, sae, tokens, selection, expected):
    """Of seven tokens the first four are the prompt; position 0 is left as it is by every edit."""
    edits = where(operate(sae, [Operator(5, "add", 2.0)]), selection, 4)
    changed = (at_write_site(lm, sae, tokens, edits) != at_write_site(lm, sae, tokens)).any(-1)
    assert changed[0].nonzero()[:, 0].tolist() == expected


def test_cached_generation_selects_the_same_places_as_whole_rows(lm, sae, tokens):
    selection = Where(prompt=(-1,), generation=(0, 2))
    edits = where(operate(sae, [Operator(5, "distance", 40.0)]), selection, tokens.shape[1])
    with lm.edit(edits):
        cached = lm.generate(tokens, max_new_tokens=5)
        whole = tokens
        for _ in range(5):
            whole = torch.cat([whole, lm.logits(whole)[:, -1].argmax(-1, keepdim=True)], dim=1)
    assert torch.equal(cached, whole)


def test_places_outside_the_text_are_refused(sae):
    edits = operate(sae, [Operator(5, "add", 1.0)])
    with pytest.raises(UserError, match="the prompt has 4 tokens, places 0 to 3; found 4"):
        where(edits, Where(prompt=(4,)), 4)
    with pytest.raises(UserError, match="counted from 0, found -1"):
        where(edits, Where(generation=(-1,)), 4)
    with pytest.raises(UserError, match="no token is selected"):
        where(edits, Where(prompt=(), generation=()), 4)


def test_a_trace_tells_how_far_each_token_was_moved(lm, sae, tokens):
    trace = Trace()
    row = tokens[:1]
    clean = at_write_site(lm, sae, row)[0]
    at_write_site(lm, sae, row, traced(operate(sae, [Operator(5, "distance", 2.0)]), trace))
    (change,) = trace.taken()
    assert change.site == "1.resid_post"
    assert change.n_changed == 6
    torch.testing.assert_close(torch.tensor(change.relative), torch.cat([torch.zeros(1), 2 / clean[1:].norm(dim=-1)]))
    assert trace.n_passes == 1
    assert trace.taken() == []


def test_a_change_that_is_not_finite_is_refused(lm, sae, tokens):
    with pytest.raises(UserError, match="not finite; lower its strength"):
        at_write_site(
            lm, sae, tokens[:1], traced(operate(sae, [Operator(5, "add", 1e38), Operator(6, "add", 1e38)]), Trace())
        )
