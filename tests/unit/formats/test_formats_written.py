"""What is written for SAELens, sparsify and dictionary_learning, read back; and what they cannot say, refused.

Other people's code reads the same files in ``make interop``.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from dictionary_cases import build
from foreign_cases import ABOUT, FOLDS_NORMS, FUNCTIONS, made, pursuit, tokens
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from monoscope import formats
from monoscope.core.errors import CannotHold
from monoscope.core.site import Site
from monoscope.dictionaries import Dictionary
from monoscope.formats.layout import Receipt
from monoscope.formats.layouts import layout_of
from monoscope.formats.opened import About

LAYOUTS = ("saelens", "sparsify", "dictionary_learning")


def written(dictionary: Dictionary, layout: str, path: Path, about: About = ABOUT) -> tuple[Receipt, Dictionary]:
    path.mkdir(exist_ok=True)
    receipt = layout_of(layout).write(dictionary, path, about)
    for file in receipt.files:
        assert (path / file).is_file()
    return receipt, formats.load(path)


def assert_same(ours: Dictionary, back: Dictionary, *, scaled: bool = False) -> None:
    """The same features fire, at the same values (times the decoder norms, where those were folded)."""
    x = tokens()
    frozen = ours.frozen()
    acts, found = frozen(x).acts.dense(), back(x).acts.dense()
    if scaled:
        acts = acts * frozen.decoder_norm()
    assert 0 < (acts != 0).float().mean() < 1
    assert torch.equal(found != 0, acts != 0)
    torch.testing.assert_close(found, acts, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(back(x).recon, frozen(x).recon, rtol=1e-5, atol=1e-5)
    assert back.reads == ours.reads
    assert back.writes == ours.writes


HELD = {
    "saelens": {"relu", "topk", "abs_topk", "batch_topk", "jumprelu", "gated"},
    "sparsify": {"topk", "group_max"},
    "dictionary_learning": {"relu", "topk", "batch_topk", "jumprelu", "gated"},
}


@pytest.mark.parametrize("scaled", [False, True], ids=["plain", "scaled"])
@pytest.mark.parametrize("center", [False, True], ids=["uncentered", "centered"])
@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_autoencoder_comes_back_or_is_refused(
    layout: str, function: str, center: bool, scaled: bool, tmp_path: Path
) -> None:
    dictionary = made(function, center=center, scale_by_decoder_norm=scaled)
    if function not in HELD[layout]:
        with pytest.raises(CannotHold) as refused:
            layout_of(layout).write(dictionary, tmp_path, ABOUT)
        assert refused.value.nearest
        assert not list(tmp_path.iterdir())
        return
    receipt, back = written(dictionary, layout, tmp_path)
    folded = scaled and function in FOLDS_NORMS
    assert_same(dictionary, back, scaled=folded)
    said = " ".join(receipt.steps)
    assert folded == ("decoder norms folded" in said)
    assert (scaled and function in ("batch_topk", "jumprelu")) == ("divided by the decoder norm" in said)
    assert (function == "batch_topk") == ("batch_topk frozen as jumprelu" in said)


@pytest.mark.parametrize("skip", [False, True], ids=["plain", "skip"])
@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_transcoder_comes_back_or_is_refused(layout: str, function: str, skip: bool, tmp_path: Path) -> None:
    dictionary = made(function, transcoder=True, skip=skip)
    held = {"saelens": {"relu", "batch_topk", "jumprelu", "gated"}, "sparsify": {"topk", "group_max"}}.get(
        layout, set()
    )
    if function not in held:
        with pytest.raises(CannotHold):
            layout_of(layout).write(dictionary, tmp_path, ABOUT)
        assert not list(tmp_path.iterdir())
        return
    about = ABOUT if layout == "sparsify" else About(model="openai-community/gpt2")
    _, back = written(dictionary, layout, tmp_path, about)
    assert_same(dictionary, back)


@pytest.mark.parametrize("normalizer", ["layer_norm", "token_norm", "center"])
def test_normalizers_are_saelens_words_and_nobody_elses(normalizer: str, tmp_path: Path) -> None:
    dictionary = made("jumprelu", normalizer=normalizer)
    _, back = written(dictionary, "saelens", tmp_path / "s")
    assert_same(dictionary, back)
    for layout in ("sparsify", "dictionary_learning"):
        with pytest.raises(CannotHold, match="normalize|thresholds"):
            layout_of(layout).write(made("topk", normalizer=normalizer), tmp_path, ABOUT)
    transcoder = made("relu", transcoder=True, normalizer=normalizer)
    _, back = written(transcoder, "saelens", tmp_path / "t")
    assert_same(transcoder, back)
    if normalizer == "layer_norm":
        with pytest.raises(CannotHold, match="eps"):
            layout_of("saelens").write(made("relu", normalizer=normalizer, normalizer_eps=1e-3), tmp_path, ABOUT)


@pytest.mark.parametrize("function", ["relu", "jumprelu"])
def test_an_sae_with_a_skip_is_a_skip_transcoder_to_its_own_site(function: str, tmp_path: Path) -> None:
    dictionary = made(function, skip=True, center=True)
    receipt, back = written(dictionary, "saelens", tmp_path)
    assert_same(dictionary, back)
    assert any("centering folded" in step for step in receipt.steps)


@pytest.mark.parametrize("wiring", ["crosscoder", "clt", "molt", "lorsa", "glu", "matching_pursuit"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_other_wirings_are_refused_with_what_comes_nearest(layout: str, wiring: str, tmp_path: Path) -> None:
    dictionary = build("pursuit" if wiring == "matching_pursuit" else "topk", wiring)
    with pytest.raises(CannotHold) as refused:
        layout_of(layout).write(dictionary, tmp_path, ABOUT)
    assert "native" in refused.value.nearest
    assert not list(tmp_path.iterdir())


def test_a_positive_pursuit_is_saelens_matching_pursuit(tmp_path: Path) -> None:
    dictionary = pursuit(tolerance=0.7, until_repeat=True)
    _, back = written(dictionary, "saelens", tmp_path / "d")
    assert_same(dictionary, back)
    assert back.activation.config.to_dict() == dictionary.activation.config.to_dict()


def test_saelens_always_finds_version_and_sites(tmp_path: Path) -> None:
    receipt, _ = written(made("jumprelu"), "saelens", tmp_path)
    config = json.loads((tmp_path / "cfg.json").read_text())
    assert (
        config["metadata"]
        | {
            "sae_lens_version": "6.54.12",
            "hook_name": "blocks.1.hook_resid_post",
            "hf_hook_name": "transformer.h.1.output",
            "model_name": "gpt2",
            "context_size": 128,
            "prepend_bos": True,
            "l0": 4.0,
        }
        == config["metadata"]
    )
    with safe_open(tmp_path / "sae_weights.safetensors", "pt") as file:
        assert set(file.keys()) == {"W_enc", "b_enc", "W_dec", "b_dec", "threshold"}
    assert receipt.lost == []


def test_what_a_target_does_not_say_is_in_the_receipt(tmp_path: Path) -> None:
    dictionary = made("jumprelu")
    dictionary.fold_(0.25, 0.25)
    receipt, back = written(dictionary, "saelens", tmp_path, About())
    assert_same(dictionary, back)
    assert any("acts_scale 0.25" in words for words in receipt.lost)
    assert any("language model" in words for words in receipt.lost)


def test_sparsify_names_the_directory_by_the_module(tmp_path: Path) -> None:
    layout_of("sparsify").write(made("topk"), tmp_path, ABOUT)
    assert (tmp_path / "h.1" / "sae.safetensors").is_file()
    transcoder = tmp_path / "t"
    transcoder.mkdir()
    layout_of("sparsify").write(made("topk", transcoder=True), transcoder, ABOUT)
    assert (transcoder / "h.1.mlp" / "cfg.json").is_file()
    nameless = tmp_path / "n"
    nameless.mkdir()
    pre = made("topk", transcoder=True)
    pre.reads = pre.writes = (Site(1, "mlp_in"),)
    receipt, back = written(pre, "sparsify", nameless)
    assert receipt.files[0] == "1.mlp_in/cfg.json"
    assert any("1.mlp_in" in words for words in receipt.lost)
    assert_same(pre, back)
    across = made("topk", transcoder=True)
    across.reads = (Site(1, "resid_mid"),)
    other = tmp_path / "o"
    receipt, back = written(across, "sparsify", other)
    assert receipt.files[0] == "1.resid_mid--1.mlp_out/cfg.json"
    assert_same(across, back)
    guessed = tmp_path / "g"
    guessed.mkdir()
    layout_of("sparsify").write(made("topk"), guessed, About())
    assert_same(made("topk"), formats.load(guessed / "layers.1"))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    layout=st.sampled_from(LAYOUTS),
    function=st.sampled_from(sorted(FUNCTIONS)),
    center=st.booleans(),
    scaled=st.booleans(),
    groups=st.integers(1, 6),
    seed=st.integers(0, 2**16),
)
def test_any_autoencoder_a_layout_holds_comes_back(
    layout: str,
    function: str,
    center: bool,
    scaled: bool,
    groups: int,
    seed: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    if function not in HELD[layout]:
        return
    dictionary = made(function, seed=seed, n_features=4 * groups, center=center, scale_by_decoder_norm=scaled)
    _, back = written(dictionary, layout, tmp_path_factory.mktemp("d"))
    x = tokens(seed + 1)
    frozen = dictionary.frozen()
    acts, recon = frozen(x).acts.dense(), frozen(x).recon
    if scaled and function in FOLDS_NORMS:
        acts = acts * frozen.decoder_norm()
    torch.testing.assert_close(back(x).acts.dense(), acts, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(back(x).recon, recon, rtol=1e-4, atol=1e-4)


def test_nothing_of_a_dictionary_is_changed_by_writing_it(tmp_path: Path) -> None:
    for function in FUNCTIONS:
        dictionary = made(function, scale_by_decoder_norm=True)
        before = dictionary.fingerprint()
        for layout in LAYOUTS:
            if function in HELD[layout]:
                path = tmp_path / f"{function}_{layout}"
                written(dictionary, layout, path)
        assert dictionary.fingerprint() == before


CONVERTED = {
    "saelens/gated": {"saelens", "dictionary_learning", "llamascopium"},
    "saelens/jumprelu": {"saelens", "dictionary_learning", "llamascopium"},
    "saelens/topk_rescaled": {"saelens", "sparsify", "dictionary_learning", "llamascopium"},
    "saelens/skip_transcoder": {"saelens"},
    "saelens/layer_norm": {"saelens"},
    "saelens/matching_pursuit": {"saelens"},
    "saelens_old/topk": {"saelens", "sparsify", "dictionary_learning", "llamascopium"},
    "sparsify/groupmax": {"sparsify"},
    "sparsify/transcode_skip": {"sparsify"},
    "dictionary_learning/batch_topk": {"saelens", "dictionary_learning", "llamascopium"},
}
"""Golden files, and the layouts that hold what is in them; circuit-tracer wants all layers together."""


@pytest.mark.parametrize("case", CONVERTED)
def test_golden_files_are_converted_to_what_can_hold_them(case: str, tmp_path: Path) -> None:
    held = set()
    for layout in ("saelens", "sparsify", "dictionary_learning", "llamascopium"):
        try:
            conversion = formats.convert(Path(__file__).parents[2] / "golden" / case, tmp_path / layout, layout)
        except CannotHold:
            assert not (tmp_path / layout).exists()
            continue
        assert conversion.comparison.is_same
        assert conversion.comparison.l0 > 0
        held.add(layout)
    assert held == CONVERTED[case]
