"""Edits of dictionaries whose features are not rows of a decoder behind an encoder: maps, and pursuits."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from monoscope.core.errors import MismatchError
from monoscope.core.site import Site
from monoscope.dictionaries import Dictionary, Recipe
from monoscope.dictionaries.initialize import Sample
from monoscope.interventions import ablate, clamp, splice, steer
from monoscope.models import LanguageModel

SITES = {"molt": ("1.mlp_in", "1.mlp_out"), "matching_pursuit": ("1.resid_post", "1.resid_post")}


def build(kind: str, lm: LanguageModel, tokens: Tensor) -> Dictionary:
    reads, writes = (Site.parse(name) for name in SITES[kind])
    size = {"n_features": 21, "groups": 3} if kind == "molt" else {"n_features": 21}
    chosen = Recipe.from_dict({"wiring": {"kind": kind, **size}, "function": {"kind": FUNCTIONS[kind], "k": 4}})
    dictionary = chosen.build((reads,), (writes,), dict.fromkeys((reads, writes), 16))
    seen = lm.read(tokens, [reads, writes])
    sample = Sample.of(seen[reads].flatten(0, 1), seen[writes].flatten(0, 1))
    dictionary.initialize_(chosen.initialize, sample, torch.Generator().manual_seed(0))
    return dictionary.frozen()


FUNCTIONS = {"molt": "topk", "matching_pursuit": "pursuit"}


@pytest.mark.parametrize("kind", SITES)
def test_ablating_and_clamping_change_a_features_own_contribution(lm: LanguageModel, tokens: Tensor, kind: str) -> None:
    dictionary = build(kind, lm, tokens)
    (read,), (write,) = dictionary.reads, dictionary.writes
    seen = lm.read(tokens, [read, write])
    acts = dictionary.encode(seen[read])
    feature = int(acts.dense().abs().flatten(0, 1).sum(0).argmax())
    alone = acts.dense().clone()
    alone[..., torch.arange(21) != feature] = 0
    rest = type(acts)(acts.dense() - alone, 21)
    part = dictionary.decode(acts, seen[read]) - dictionary.decode(rest, seen[read])
    with lm.edit(ablate(dictionary, feature)):
        ablated = lm.read(tokens, [write])[write]
    torch.testing.assert_close(ablated[:, 1:], (seen[write] - part)[:, 1:], rtol=1e-4, atol=1e-5)
    with lm.edit(clamp(dictionary, feature, 0.0)):
        torch.testing.assert_close(lm.read(tokens, [write])[write], ablated)
    with lm.edit(splice(dictionary, error="keep")):
        torch.testing.assert_close(lm.read(tokens, [write])[write], seen[write])
    with lm.edit(splice(dictionary, error="drop")):
        spliced = lm.read(tokens, [write])[write]
    torch.testing.assert_close(spliced[:, 1:], dictionary(seen[read]).recon[:, 1:], rtol=1e-4, atol=1e-5)


def test_there_is_no_steering_along_a_map(lm: LanguageModel, tokens: Tensor) -> None:
    with pytest.raises(MismatchError, match="features of a Molt are maps"):
        steer(build("molt", lm, tokens), 3, 1.0)
