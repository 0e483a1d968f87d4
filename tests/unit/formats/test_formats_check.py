"""Whether a dictionary fits: numbers, what is suspicious in words, and rules that files leave open."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from dictionary_cases import WIRINGS, build, data
from small_autoencoder import SITE, D, recipe

from monoscope.core.site import Site
from monoscope.dictionaries import Dictionary
from monoscope.evals.metrics import Fidelity
from monoscope.formats.check import check, choose, elsewhere, random_inputs, sample
from monoscope.formats.folder import LocalFolder
from monoscope.formats.layout import Layout
from monoscope.formats.lazy import Lazy
from monoscope.formats.open import Found
from monoscope.formats.opened import About, Opened
from monoscope.harvest import from_array

MEAN = torch.full((D,), 5.0)


def fitting(published: Mapping[str, float] | None = None) -> Dictionary:
    """A dictionary of the axes and their opposites around a mean, of which two fire."""
    made = recipe({"kind": "topk", "k": 2}, n_features=2 * D).build((SITE,), (SITE,), {SITE: D})
    axes = torch.cat([torch.eye(D), -torch.eye(D)])
    with torch.no_grad():
        made.get_parameter("W_dec").copy_(axes)
        made.get_parameter("W_enc").copy_(axes.T)
        made.get_parameter("b_dec").copy_(MEAN)
    made = made.frozen()
    made.provenance = {} if published is None else {"opened": {"layout": "saelens", "published": dict(published)}}
    return made


def own(n: int = 200) -> torch.Tensor:
    """Two axes of a token, around the mean."""
    generator = torch.Generator().manual_seed(4)
    x = torch.zeros(n, D)
    x.scatter_(1, torch.rand(n, D, generator=generator).topk(2).indices, torch.randn(n, 2, generator=generator))
    return x + MEAN


def test_a_fit_is_measured_as_evaluations_measure_it() -> None:
    x = own() + 0.1 * torch.randn(200, D, generator=torch.Generator().manual_seed(5))
    found = check(fitting(), {SITE: x})
    measure = Fidelity(D)
    measure.update(x, fitting()(x).recon)
    assert found.fvu == pytest.approx(measure.result().fvu, rel=1e-9)
    assert 0 < found.fvu < 0.1
    assert (found.l0, found.n_tokens, found.where, found.warnings) == (2.0, 200, str(SITE), ())
    source = from_array(x, SITE, batch_tokens=30)
    position = source.state_dict()
    assert check(fitting(), source).fvu == pytest.approx(found.fvu, rel=1e-9)
    assert check(fitting(), source, tokens=50).n_tokens == 60
    assert source.state_dict() == position


def test_activations_of_another_site_are_noticed_in_words() -> None:
    elsewhere = torch.randn(200, D, generator=torch.Generator().manual_seed(6))
    found = check(fitting(), {SITE: elsewhere})
    assert found.fvu > 1
    assert found.warnings == (
        f"FVU {found.fvu:.2g} at 0.resid_post: worse than none; these look like activations of another site, or other "
        "rules",
    )


def test_published_numbers_are_what_to_expect() -> None:
    x = own() + 0.3 * torch.randn(200, D, generator=torch.Generator().manual_seed(5))
    assert check(fitting({"fvu": 0.3, "l0": 2.5}), {SITE: x}).warnings == ()
    high, many = check(fitting({"fvu": 0.01, "l0": 71.0}), {SITE: x}).warnings
    assert "and 0.01 was published: another model, site or text" in high
    assert many.startswith(
        "2 features fire on a token at 0.resid_post, and 71 were published: thresholds in other units"
    )
    assert check(fitting({"fvu": 0.01}), {SITE: x}).to_dict()["published_fvu"] == 0.01


def test_silence_and_noise_are_noticed() -> None:
    silent = build("jumprelu").frozen()
    x, _ = data("sae", silent)
    with torch.no_grad():
        silent.get_parameter("activation.threshold").fill_(1e6)
    assert any("no feature fires at 1.mlp_in" in words for words in check(silent, {silent.reads[0]: x}).warnings)
    dense = build("relu").frozen()
    assert any("which is not sparse" in words for words in check(dense, {dense.reads[0]: x}).warnings)


@pytest.mark.parametrize(("x", "said"), [(torch.ones(5, D), "all the same"), (torch.ones(1, D), "at least two tokens")])
def test_nothing_to_explain_is_an_error(x: torch.Tensor, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        check(fitting(), {SITE: x})


def test_the_candidate_that_fits_is_chosen() -> None:
    right, wrong, broken = fitting(), fitting(), fitting()
    with torch.no_grad():
        wrong.get_parameter("b_dec").zero_()
        broken.get_parameter("b_dec").fill_(1e30)
    chosen = choose({"broken": broken, "zero": wrong, "mean": right}, {SITE: own()})
    assert chosen.name == "mean"
    assert chosen.words.startswith("mean: FVU ")
    assert "with zero" in chosen.words


class Undecided(Layout):
    """A layout whose files do not say whether b_dec was folded."""

    name = "undecided"
    choices: ClassVar[Mapping[str, tuple[str, ...]]] = {"bias": ("zero", "mean"), "unused": ("a", "b")}

    def evidence(self, folder: Any) -> str | None:
        return "always"

    def read(self, folder: Any, entry: str = "", choices: Mapping[str, str] | None = None) -> Opened:
        bias = (choices or {}).get("bias", "zero")
        d = fitting()
        table = {"reads": [str(SITE)], "writes": [str(SITE)], "widths": {str(SITE): D}, **d.config_dict()}
        tensors = {name: Lazy.of(tensor) for name, tensor in d.state_dict().items()}
        if bias == "zero":
            tensors["b_dec"] = Lazy.of(torch.zeros(D))
        return Opened(self.name, table, tensors, About(chosen={"bias": bias}))


def test_rules_left_open_are_settled_by_activations_and_on_the_record(tmp_path: Path) -> None:
    found = Found(LocalFolder(tmp_path), Undecided(), "always")
    assert found.open().about.chosen == {"bias": "zero"}
    fitted = found.fitted({SITE: own()})
    assert fitted.about.chosen == {"bias": "mean"}
    assert fitted.about.inferred[0].startswith("bias = mean: FVU ")
    assert found.fitted({SITE: own()}, bias="zero").about.chosen == {"bias": "zero"}


@pytest.mark.parametrize("wiring", WIRINGS)
def test_features_fire_on_random_inputs_of_any_wiring(wiring: str) -> None:
    function = "pursuit" if "pursuit" in wiring else "batch_topk"
    dictionary = build(function, wiring).frozen()
    batches = sample(random_inputs(dictionary, 64))
    assert sum(batch.n_tokens for batch in batches) == 64
    assert dictionary(*dictionary.gather(batches[0])).acts.l0().float().mean() > 0.5


def test_random_inputs_reach_thresholds_in_any_units() -> None:
    dictionary = build("jumprelu").frozen()
    with torch.no_grad():
        dictionary.get_parameter("activation.threshold").fill_(500.0)
    (batch,) = sample(random_inputs(dictionary, 64))
    assert dictionary.encode(dictionary.gather(batch)[0]).l0().float().mean() > 0.5
    assert isinstance(next(iter(batch.activations)), Site)


def test_where_a_dictionary_fits_is_found_among_other_sites() -> None:
    wrong, right = Site(1, "resid_post"), Site(2, "mlp_out")
    noise = torch.randn(200, D, generator=torch.Generator().manual_seed(6))
    fvu = elsewhere(fitting(), {wrong: noise, right: own()}, [wrong, right])
    assert fvu[right] < 0.1 < 1 < fvu[wrong]
