"""Features that write at several sites, or have no encoder, are described like any other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_text_model import TEXT, tiny_lm

from monoscope.core.errors import MismatchError
from monoscope.core.site import Site
from monoscope.dictionaries import Crosscoder, CrossLayer, Dictionary, Recipe
from monoscope.dictionaries.variants import TopK
from monoscope.features import Analysis, FeatureBundle, analyze
from monoscope.features.weights.directions import directions, written
from monoscope.features.weights.logits import logit_effects
from monoscope.harvest import TokenWindows, live

D = 16
MLP_IN, MLP_OUT, RESID = (tuple(Site(layer, kind) for layer in (0, 1)) for kind in ("mlp_in", "mlp_out", "resid_post"))


def randomized(built: Dictionary) -> Dictionary:
    generator = torch.Generator().manual_seed(0)
    for parameter in built.parameters():
        torch.nn.init.normal_(parameter, std=0.3, generator=generator)
    return built.frozen()


def clt() -> Dictionary:
    config = CrossLayer.Config(n_features=12)
    return randomized(config.build(TopK.Config(k=2), MLP_IN, MLP_OUT, dict.fromkeys((*MLP_IN, *MLP_OUT), D)))


def crosscoder(gate: str = "shared") -> Dictionary:
    config = Crosscoder.Config(n_features=24, gate=gate)
    return randomized(config.build(TopK.Config(k=4), RESID, RESID, dict.fromkeys(RESID, D)))


def pursuit() -> Dictionary:
    recipe = Recipe.from_dict(
        {"wiring": {"kind": "matching_pursuit", "n_features": 24}, "function": {"kind": "pursuit", "k": 3}}
    )
    return randomized(recipe.build(RESID[1:], RESID[1:], {RESID[1]: D}))


def analyzed(dictionary: Dictionary, out: Path) -> FeatureBundle:
    lm = tiny_lm()
    windows = TokenWindows.from_text(TEXT, lm.tokenizer, context=24)
    sites = list(dict.fromkeys((*dictionary.reads, *dictionary.writes)))
    return analyze(dictionary, live(lm, windows, sites), out, lm=lm, config=Analysis(window=16))


@pytest.mark.parametrize("make", [clt, crosscoder, pursuit])
def test_bundles_of_every_wiring(make, tmp_path: Path) -> None:
    dictionary = make()
    bundle = analyzed(dictionary, tmp_path / "b.mono")
    decoder = bundle.decoder()
    assert decoder is not None
    assert decoder.shape == (24, D * len(dictionary.writes))
    lm = tiny_lm()
    windows = TokenWindows.from_text(TEXT, lm.tokenizer, context=24)
    sites = list(dict.fromkeys((*dictionary.reads, *dictionary.writes)))
    l0, n = 0, 0
    for batch in live(lm, windows, sites):
        acts = dictionary.encode(dictionary.gather(batch.flat())[0])
        l0, n = l0 + int(acts.l0().sum()), n + len(acts.values)
    assert bundle.manifest["stats"]["l0"] == pytest.approx(l0 / n)
    assert bundle.manifest["dictionary"]["d_model"] == D


def test_with_gates_a_feature_fires_where_any_is_open(tmp_path: Path) -> None:
    dictionary = crosscoder("per_site")
    bundle = analyzed(dictionary, tmp_path / "b.mono")
    lm = tiny_lm()
    windows = TokenWindows.from_text(TEXT, lm.tokenizer, context=24)
    fires, n = 0, 0
    for batch in live(lm, windows, RESID):
        acts = dictionary.encode(dictionary.gather(batch.flat())[0]).dense()
        fires, n = fires + int((acts != 0).any(1).sum()), n + len(acts)
    assert bundle.manifest["stats"]["l0"] == pytest.approx(fires / n)
    assert 4 < fires / n < 8


def test_norms_and_cosines_of_each_site() -> None:
    dictionary = crosscoder()
    columns = directions(dictionary, np.ones(24, bool))
    rows = torch.stack([dictionary.decoder_rows(site) for site in RESID], dim=1)
    norms = np.stack([columns.lists["write_norms"][f] for f in range(24)])
    assert norms == pytest.approx(rows.norm(dim=2).numpy(), rel=1e-5)
    assert columns.scalars["dec_norm"] == pytest.approx(rows.flatten(1).norm(dim=1).numpy(), rel=1e-5)
    cosines = np.stack([columns.lists["write_cosine"][f] for f in range(24)])
    expected = torch.nn.functional.cosine_similarity(rows[:, 0], rows[:, 1])
    assert cosines.max(1) == pytest.approx(1, abs=1e-5)
    assert cosines.min(1) == pytest.approx(expected.numpy(), abs=1e-5)


def test_a_feature_that_writes_nothing_at_a_layer_has_norm_0_there() -> None:
    columns = directions(clt(), np.ones(24, bool))
    assert columns.lists["write_norms"][20][0] == 0
    assert columns.lists["write_norms"][20][1] > 0


def test_what_is_added_to_the_stream_adds_up_and_of_its_states_the_last_counts() -> None:
    lm = tiny_lm()
    added, states = clt(), crosscoder()
    effect = logit_effects(added, lm).scalars["logit_max"]
    with torch.no_grad():
        added.get_parameter("W_dec.0")[:, 0], rest = 0, added.get_parameter("W_dec.0")[:, 0].clone()
        added.get_parameter("W_dec.0")[:, 1] += rest
        states.get_parameter("W_dec")[0] *= 5
    assert logit_effects(added, lm).scalars["logit_max"] == pytest.approx(effect, rel=1e-4)
    assert logit_effects(states, lm).scalars["logit_max"] == pytest.approx(
        logit_effects(crosscoder(), lm).scalars["logit_max"]
    )


def test_maps_have_no_directions_to_describe(tmp_path: Path) -> None:
    recipe = Recipe.from_dict(
        {"wiring": {"kind": "molt", "n_features": 3, "groups": 2, "rank": 2}, "function": {"kind": "topk", "k": 1}}
    )
    molt = randomized(recipe.build(MLP_IN[:1], MLP_OUT[:1], dict.fromkeys((*MLP_IN, *MLP_OUT), D)))
    assert written(molt) is None
    with pytest.raises(MismatchError, match="are maps, and a bundle describes directions"):
        analyzed(molt, tmp_path / "b.mono")
