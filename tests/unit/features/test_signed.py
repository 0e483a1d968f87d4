"""Features with two ends: turning one around turns everything said of it around, and changes nothing else."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_text_model import TEXT, tiny_lm, tiny_tokenizer

from monoscope.core.site import Site
from monoscope.dictionaries import Autoencoder, Dictionary
from monoscope.dictionaries.variants import AbsTopK
from monoscope.evals import evaluate
from monoscope.features import Analysis, FeatureBundle, analyze
from monoscope.features.interesting import interesting
from monoscope.features.page import write_page
from monoscope.harvest import TokenWindows, live
from monoscope.interventions import ablate, clamp

SITE = Site(1, "resid_post")
F, K, TURNED = 96, 4, [2, 5, 11, 17, 40, 41, 42, 43]


def two_ended() -> Autoencoder:
    """An AbsTopK autoencoder whose features fire in both directions."""
    config = Autoencoder.Config(n_features=F, center=False)
    built = config.build(AbsTopK.Config(k=K), (SITE,), (SITE,), {SITE: 16})
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.normal_(generator=generator)
        built.b_enc.zero_()
    return built.frozen()


def turned(dictionary: Autoencoder) -> Autoencoder:
    """The same with some features pointing the other way."""
    twin = copy.deepcopy(dictionary)
    twin.W_enc[:, TURNED] *= -1
    twin.b_enc[TURNED] *= -1
    twin.W_dec[TURNED] *= -1
    return twin


@pytest.fixture(scope="module")
def windows() -> TokenWindows:
    words, rng = "".join(TEXT).split(), np.random.default_rng(0)
    return TokenWindows.from_text([" ".join(rng.choice(words, 6)) for _ in range(400)], tiny_tokenizer(), context=16)


@pytest.fixture(scope="module")
def bundles(windows: TokenWindows, tmp_path_factory: pytest.TempPathFactory) -> tuple[FeatureBundle, FeatureBundle]:
    out, made = tmp_path_factory.mktemp("signed"), []
    for name, dictionary in (("one", two_ended()), ("two", turned(two_ended()))):
        source = live(tiny_lm(), windows, [SITE])
        config = Analysis(window=8, top=10)
        made.append(analyze(dictionary, source, out / name, lm=tiny_lm(), config=config))
    return made[0], made[1]


def test_an_analysis_counts_both_ends_and_shows_them(bundles: tuple[FeatureBundle, FeatureBundle]) -> None:
    n_both = 0
    for f in range(F):
        one, two = (bundle.feature(f) for bundle in bundles)
        sign = -1 if f in TURNED else 1
        assert (one.n_fired, one.n_sequences) == (two.n_fired, two.n_sequences)
        if one.is_dead:
            continue
        low, high = one.quantiles[[0, -1]]
        assert sorted(two.quantiles[[0, -1]]) == pytest.approx(sorted([sign * low, sign * high]), rel=1e-5)
        assert two.mean_act == pytest.approx(sign * one.mean_act, rel=1e-4, abs=1e-6)
        shown, other = ([c.max_act for c in x.interval(0)] for x in (one, two))
        assert sorted(other) == pytest.approx(sorted(sign * a for a in shown), rel=2**-10)
        n_both += min(shown) < 0 < max(shown)
    assert n_both > 10
    features = [bundles[0].feature(f) for f in range(F)]
    alive = [feature for feature in features if not feature.is_dead]
    assert sum(feature.quantiles[0] < 0 < feature.max_act for feature in alive) > len(alive) / 2
    assert sum(feature.n_fired for feature in features) == K * bundles[0].manifest["data"]["n_tokens"]


def test_what_is_worth_a_look_does_not_depend_on_which_way_a_feature_points(
    bundles: tuple[FeatureBundle, FeatureBundle],
) -> None:
    one, two = ({i.feature: i.score for i in interesting(bundle, F)} for bundle in bundles)
    assert len(one.keys() & two.keys()) > 3
    for f in one.keys() & two.keys():
        assert one[f] == pytest.approx(two[f], rel=1e-3)


def test_a_page_states_the_most_negative_activation(
    bundles: tuple[FeatureBundle, FeatureBundle], tmp_path: Path
) -> None:
    text = write_page(tmp_path / "page.html", bundles[0]).read_text()
    assert "most negative activation" in text


def test_an_evaluation_does_not_depend_on_which_way_a_feature_points(windows: TokenWindows) -> None:
    one, two = (evaluate(tiny_lm(), d, windows).to_dict() for d in (two_ended(), turned(two_ended())))
    for part in ("fidelity", "firing", "losses"):
        assert two[part] == pytest.approx(one[part], rel=1e-4, abs=1e-6)
    assert one["firing"]["l0"] == pytest.approx(4.0)


def test_a_feature_is_held_at_a_negative_activation_and_taken_away_whole(windows: TokenWindows) -> None:
    lm, dictionary = tiny_lm(), two_ended()
    tokens = torch.from_numpy(np.asarray(windows.tokens[:4]).astype(np.int64))
    x = lm.read(tokens, [SITE])[SITE]
    dense = dictionary.encode(x).dense()
    f = int(((dense < 0).sum((0, 1)).minimum((dense > 0).sum((0, 1)))).argmax())
    acts, row = dense[..., f : f + 1], dictionary.W_dec[f]
    assert (acts < 0).any()
    assert (acts > 0).any()
    for edit, wanted in ((clamp(dictionary, f, -1.5, skip_first=0), -1.5), (ablate(dictionary, f, skip_first=0), 0.0)):
        with lm.edit(*edit):
            changed = lm.read(tokens, [SITE])[SITE]
        torch.testing.assert_close(changed, x + (wanted - acts) * row, rtol=1e-4, atol=1e-5)


def test_training_counts_a_negative_activation_as_firing() -> None:
    from monoscope.training.health import Health

    dictionary: Dictionary = two_ended()
    x = torch.randn(64, 16, generator=torch.Generator().manual_seed(0))
    acts, health = dictionary.encode(x), Health(F, 64)
    health.update(acts, 64)
    never_positive = (acts.dense() <= 0).all(0) & (acts.dense() < 0).any(0)
    health.update(acts, 64)
    assert torch.equal(health.is_dead, (acts.dense() == 0).all(0))
    assert not health.is_dead[never_positive].any()
