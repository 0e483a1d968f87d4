"""Published sets: files laid out by hand from their description compute what numpy does, and no wrong rule does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from published_files import (
    Arrays,
    arrays,
    canonical,
    fvu,
    inputs,
    jumprelu,
    l0,
    topk,
    write_json,
    write_npz,
    write_pt,
    write_safetensors,
)
from tiny_models import model

from monoscope import formats
from monoscope.core.errors import ConfigError, DataError, MismatchError, UserError
from monoscope.dictionaries import Dictionary
from monoscope.formats.opened import Opened


def computed(opened: Opened | Dictionary, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Features and reconstruction."""
    dictionary = opened.dictionary() if isinstance(opened, Opened) else opened
    given = torch.from_numpy(x)
    acts = dictionary.encode(given)
    return acts.dense().numpy(), dictionary.decode(acts, given).numpy()


def check(opened: Opened, x: np.ndarray, acts: np.ndarray, recon: np.ndarray) -> None:
    found_acts, found_recon = computed(opened, x)
    assert 0 < l0(acts) < acts.shape[1] / 1.5, "all or nothing would prove little"
    np.testing.assert_array_equal(found_acts != 0, acts != 0)
    np.testing.assert_allclose(found_acts, acts, rtol=1e-5, atol=1e-5 * acts.max())
    np.testing.assert_allclose(found_recon, recon, rtol=1e-5, atol=1e-5 * np.abs(recon).max())
    feature = 3
    np.testing.assert_allclose(opened.direction(feature).float(), opened.dictionary().W_dec[feature], rtol=1e-6)


# -- Gemma Scope 1 ----------------------------------------------------------------------------------------------------


RES = "gemma-scope-2b-pt-res/layer_12/width_16k/average_l0_82"


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("lower", [False, True])
def test_gemma_scope(tmp_path: Path, lower: bool, compressed: bool) -> None:
    """A file of 40 features: the directory says no width."""
    w = canonical(2304, 40)
    names = {"W_enc": "w_enc", "W_dec": "w_dec"} if lower else {}
    directory = tmp_path / "gemma-scope-2b-pt-res" / "layer_12" / "average_l0_82"
    write_npz(directory / "params.npz", {names.get(k, k): v for k, v in w.items()}, compressed=compressed)
    opened = formats.open(directory)
    x = inputs(2304) / 20
    acts = jumprelu(x @ w["W_enc"] + w["b_enc"], w["threshold"])
    check(opened, x, acts, acts @ w["W_dec"] + w["b_dec"])
    described = opened.describe()
    assert described["layout"] == "gemma_scope"
    assert described["evidence"] == "params.npz"
    assert described["reads"] == described["writes"] == ["12.resid_post"]
    assert described["model"] == "google/gemma-2-2b"
    assert described["published"] == {"l0": 82.0}
    assert described["skip_first"] == 1
    assert described["wiring"]["kind"] == "autoencoder"
    assert "center" not in described["wiring"]


@pytest.mark.parametrize(
    ("repository", "d", "reads", "writes", "model"),
    [
        ("gemma-scope-9b-it-res", 3584, "9.resid_post", "9.resid_post", "google/gemma-2-9b-it"),
        ("gemma-scope-2b-pt-mlp", 2304, "9.mlp_out", "9.mlp_out", "google/gemma-2-2b"),
        ("gemma-scope-2b-pt-att", 2048, "9.z", "9.z", "google/gemma-2-2b"),
        ("gemma-scope-9b-pt-att", 4096, "9.z", "9.z", "google/gemma-2-9b"),
        ("gemma-scope-2b-pt-transcoders", 2304, "9.mlp_normalized", "9.mlp_out", "google/gemma-2-2b"),
        ("models--google--gemma-scope-2b-pt-res/snapshots/0123abcd", 2304, "9.resid_post", "9.resid_post",
         "google/gemma-2-2b"),
    ],
)  # fmt: skip
def test_what_gemma_scope_reads_is_in_its_names(
    tmp_path: Path, repository: str, d: int, reads: str, writes: str, model: str
) -> None:
    write_npz(tmp_path / repository / "layer_9" / "average_l0_71" / "params.npz", canonical(d, 4))
    opened = formats.open(tmp_path / repository)
    assert opened.about.entry == "layer_9/average_l0_71"
    assert (opened.table["reads"], opened.table["writes"], opened.about.model) == ([reads], [writes], model)


def test_embeddings_are_read_where_the_model_has_multiplied_them(tmp_path: Path) -> None:
    d = 2304
    w = canonical(d, 40)
    directory = tmp_path / "gemma-scope-2b-pt-res" / "embedding" / "average_l0_6"
    write_npz(directory / "params.npz", w)
    raw = inputs(d) / 20
    acts = jumprelu(raw @ w["W_enc"] + w["b_enc"], w["threshold"])
    recon = (acts @ w["W_dec"] + w["b_dec"]) * np.sqrt(d)
    at_site = (raw * np.sqrt(d)).astype(np.float32)
    opened = formats.open(directory)
    found_acts, found = computed(opened, at_site)
    np.testing.assert_array_equal(found_acts != 0, acts != 0)
    np.testing.assert_allclose(found_acts, acts, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found, recon, rtol=1e-4, atol=1e-2)
    assert opened.table["reads"] == ["embed"]
    as_is = jumprelu(at_site @ w["W_enc"] + w["b_enc"], w["threshold"])
    assert l0(as_is) > 1.2 * l0(acts), "the unscaled rule fires far more"


def test_thresholds_below_zero_decide_nothing_behind_a_relu(tmp_path: Path) -> None:
    w = canonical(2304, 40)
    w["threshold"][:10] = -3
    write_npz(tmp_path / "gemma-scope-2b-pt-res" / "layer_0" / "params.npz", w)
    x = inputs(2304) / 20
    acts = jumprelu(x @ w["W_enc"] + w["b_enc"], w["threshold"])
    assert (acts >= 0).all()
    check(formats.open(tmp_path / "gemma-scope-2b-pt-res"), x, acts, acts @ w["W_dec"] + w["b_dec"])


@pytest.mark.parametrize(
    ("name", "d", "n", "says"),
    [
        ("gemma-scope-2b-pt-res/layer_1/width_16k/average_l0_9", 2304, 32, "has 32 features, and its name says 16k"),
        ("gemma-scope-9b-pt-res/layer_1/average_l0_9", 2304, 8, "what res of Gemma 2 9b reads has 3584"),
        ("gemma-scope-2b-pt-att/layer_1/average_l0_9", 2304, 8, "what att of Gemma 2 2b reads has 2048"),
        ("elsewhere/layer_1/average_l0_9", 2304, 8, "no name says what .*; say it, as in set="),
        ("gemma-scope-2b-pt-res/average_l0_9", 2304, 8, "no name says of which layer .*; say it, as in layer="),
    ],
)
def test_names_of_gemma_scope_that_contradict_the_file(tmp_path: Path, name: str, d: int, n: int, says: str) -> None:
    write_npz(tmp_path / name / "params.npz", canonical(d, n))
    with pytest.raises(UserError, match=says):
        formats.open(tmp_path / name)


def test_what_no_name_says_is_chosen(tmp_path: Path) -> None:
    write_npz(tmp_path / "mine" / "params.npz", canonical(16, 8))
    opened = formats.open(tmp_path / "mine", set="mlp", layer="4")
    assert opened.table["reads"] == ["4.mlp_out"]
    assert opened.about.chosen == {"set": "mlp", "layer": "4"}
    with pytest.raises(ConfigError, match="set is 'res' or .* found 'mpl'"):
        formats.open(tmp_path / "mine", set="mpl", layer="4")
    with pytest.raises(ConfigError, match="layer is a whole number, found 'four'"):
        formats.open(tmp_path / "mine", set="mlp", layer="four")


def test_widths_are_names_of_powers_of_two() -> None:
    from monoscope.formats.published import has_rounded

    for n, name in [(2**14, "16k"), (2**15, "32k"), (2**16, "65k"), (2**17, "131k"), (2**18, "262k"), (2**20, "1m")]:
        assert has_rounded(n, name)
    assert not has_rounded(2**16, "64k")
    assert not has_rounded(2**14, "65k")


# -- Gemma Scope 2 ----------------------------------------------------------------------------------------------------


IN, OUT = "model.layers.5.pre_feedforward_layernorm.output", "model.layers.5.post_feedforward_layernorm.output"


def lower(w: Arrays) -> Arrays:
    return {name.lower(): value for name, value in w.items()}


def gemma_scope_2(path: Path, w: Arrays, **config: Any) -> Path:
    write_safetensors(path / "params.safetensors", w)
    if config:
        write_json(path / "config.json", config)
    return path


@pytest.mark.parametrize("d_out", [12, 7])
def test_gemma_scope_2_skips_are_not_transposed(tmp_path: Path, d_out: int) -> None:
    d, n = 12, 40
    w = canonical(d, n, d_out)
    skip = arrays({"A": (d, d_out)}, 3)["A"]
    x = inputs(d) / 3
    acts = jumprelu(x @ w["W_enc"] + w["b_enc"], w["threshold"])
    recon = acts @ w["W_dec"] + w["b_dec"] + x @ skip
    config = {
        "architecture": "jump_relu",
        "type": "transcoder",
        "model_name": "google/gemma-v3-1b-pt",
        "width": n,
        "l0": 100,
        "affine_connection": True,
        "hf_hook_point_in": IN,
        "hf_hook_point_out": OUT,
    }
    path = gemma_scope_2(tmp_path / "t", lower(w) | {"affine_skip_connection": skip}, **config)
    opened = formats.open(path)
    check(opened, x, acts, recon)
    described = opened.describe()
    assert (described["reads"], described["writes"]) == (["5.mlp_in"], ["5.mlp_out"])
    assert described["model"] == "google/gemma-3-1b-pt"
    assert described["published"] == {"l0": 100.0}
    assert "inferred" not in described
    if d_out == d:
        wrong = acts @ w["W_dec"] + w["b_dec"] + x @ skip.T
        found = computed(opened, x)[1]
        assert fvu(found, recon) < 1e-8
        assert fvu(wrong, recon) > 0.1


def test_gemma_scope_2_transcoders_fit_the_model_at_the_site_they_name(tmp_path: Path) -> None:
    """A skip fitted to a tiny Gemma's MLP: right after the gain and untransposed, worse in every other way."""
    lm = model("gemma3_text")
    sites = ["1.mlp_in", "1.mlp_normalized", "1.mlp_out"]
    torch.manual_seed(0)
    read = lm.read(torch.randint(3, 90, (40, 20)), sites)
    x, before_gain, target = (value.flatten(0, 1).numpy() for value in read.values())
    fitted = np.linalg.lstsq(np.c_[x, np.ones(len(x))], target, rcond=None)[0].astype(np.float32)
    d, n = lm.d_model, 8
    w = {"w_enc": np.zeros((d, n), np.float32), "b_enc": np.zeros(n, np.float32), "threshold": np.ones(n, np.float32)}
    w |= {"w_dec": np.zeros((n, d), np.float32), "b_dec": fitted[d], "affine_skip_connection": fitted[:d]}
    points = {"hf_hook_point_in": IN.replace("5", "1"), "hf_hook_point_out": OUT.replace("5", "1")}
    opened = formats.open(gemma_scope_2(tmp_path / "t", w, model_name="google/gemma-3-1b-pt", **points))
    dictionary = opened.dictionary()
    given = lm.read(torch.randint(3, 90, (40, 20)), [*dictionary.reads, *dictionary.writes, "1.mlp_normalized"])
    x, target, before_gain = (value.flatten(0, 1).numpy() for value in given.values())
    right = fvu(computed(opened, x)[1], target)
    assert right < 0.95 * fvu(computed(opened, before_gain)[1], target)
    assert right < 0.8 * fvu(x @ fitted[:d].T + fitted[d], target)


@pytest.mark.parametrize(
    ("directory", "d", "reads", "writes"),
    [
        ("resid_post/layer_22_width_16k_l0_medium", 8, "22.resid_post", "22.resid_post"),
        ("resid_post_all/layer_3_width_16k_l0_small", 8, "3.resid_post", "3.resid_post"),
        ("attn_out_all/layer_3_width_16k_l0_small", 8, "3.z", "3.z"),
        ("mlp_out/layer_3_width_16k_l0_big", 8, "3.mlp_out", "3.mlp_out"),
        ("transcoder_all/layer_5_width_16k_l0_big", 8, "5.mlp_in", "5.mlp_out"),
    ],
)
def test_without_a_configuration_the_directory_says_what_gemma_scope_2_reads(
    tmp_path: Path, directory: str, d: int, reads: str, writes: str
) -> None:
    path = gemma_scope_2(tmp_path / "gemma-scope-2-4b-it" / directory, lower(canonical(d, 16384)))
    opened = formats.open(tmp_path / "gemma-scope-2-4b-it")
    assert opened.about.entry == directory
    assert (opened.table["reads"], opened.table["writes"]) == ([reads], [writes])
    assert opened.about.model == "google/gemma-3-4b-it"
    assert any("no config.json" in words for words in opened.about.inferred)
    assert formats.open(path).table["reads"] == [reads]


@pytest.mark.parametrize("skip", [False, True])
def test_gemma_scope_2_cross_layer_transcoders_keep_their_last_layer(tmp_path: Path, skip: bool) -> None:
    n_layers, d, n = 3, 10, 24
    path = tmp_path / "gemma-scope-2-1b-it" / "clt" / "mine"
    layers: list[Arrays] = []
    for layer in range(n_layers):
        w = canonical(d, n, seed=layer)
        w["W_dec"] = arrays({"w": (n, n_layers, d)}, 10 + layer)["w"]  # targets below the layer hold numbers, too
        w |= {"affine_skip_connection": arrays({"A": (d, d)}, 20 + layer)["A"]} if skip else {}
        layers.append(w)
        write_safetensors(path / f"params_layer_{layer}.safetensors", lower(w))
    write_safetensors(path / "examples.safetensors", arrays({"tokens": (3, 3)}))
    opened = formats.open(path)
    assert opened.table["reads"] == ["0.mlp_in", "1.mlp_in", "2.mlp_in"]
    assert opened.table["writes"] == ["0.mlp_out", "1.mlp_out", "2.mlp_out"]
    assert opened.about.files == tuple(f"params_layer_{layer}.safetensors" for layer in range(n_layers))
    x = np.stack([inputs(d, seed=50 + layer) / 2 for layer in range(n_layers)], axis=1)
    acts = [jumprelu(x[:, i] @ w["W_enc"] + w["b_enc"], w["threshold"]) for i, w in enumerate(layers)]
    recon = np.stack([layers[t]["b_dec"] + np.zeros((len(x), d), np.float32) for t in range(n_layers)], axis=1)
    everything = recon.copy()
    for target in range(n_layers):
        for layer in range(n_layers):
            part = acts[layer] @ layers[layer]["W_dec"][:, target]
            everything[:, target] += part
            recon[:, target] += part if layer <= target else 0
        recon[:, target] += x[:, target] @ layers[target]["affine_skip_connection"] if skip else 0
    found_acts, found = computed(opened, x)
    np.testing.assert_array_equal(found_acts != 0, np.concatenate(acts, 1) != 0)
    np.testing.assert_allclose(found_acts, np.concatenate(acts, 1), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found, recon, rtol=1e-5, atol=1e-4)
    assert fvu(everything, recon) > 0.1, "targets in front of a layer are not written"
    last = opened.direction(2 * n + 5)
    np.testing.assert_allclose(last[2], layers[2]["W_dec"][5, 2])
    assert not last[:2].any()
    quiet = opened.dictionary().decode(
        opened.dictionary().encode(torch.zeros(1, n_layers, d) - 1e6), torch.zeros(1, 3, d)
    )
    assert quiet.shape == (1, n_layers, d)


def test_gemma_scope_2_that_contradicts_itself(tmp_path: Path) -> None:
    w = lower(canonical(8, 16384))
    skip = {"affine_skip_connection": np.zeros((8, 8), np.float32)}
    base = tmp_path / "gemma-scope-2-1b-pt"
    place = base / "transcoder_all" / "layer_5_width_16k_l0_big_affine"
    with pytest.raises(
        MismatchError, match="lacks affine_skip_connection, and the name of its directory says otherwise"
    ):
        formats.open(gemma_scope_2(place, w))
    place = base / "transcoder_all" / "layer_6_width_16k_l0_big"
    with pytest.raises(MismatchError, match="has affine_skip_connection, and config.json says otherwise"):
        formats.open(gemma_scope_2(place, w | skip, affine_connection=False))
    with pytest.raises(MismatchError, match=r"reads 5.mlp_in, and its directory is called layer_6_width"):
        formats.open(gemma_scope_2(place, w, hf_hook_point_in=IN, hf_hook_point_out=OUT))
    with pytest.raises(MismatchError, match="has 16,384 features, and config.json says 65536"):
        formats.open(gemma_scope_2(place, w, width=65536))
    with pytest.raises(ConfigError, match="sets norm, for which no rule is known"):
        formats.open(gemma_scope_2(place, w, norm="layer"))
    with pytest.raises(ConfigError, match="architecture is 'topk', and only 'jump_relu' is read"):
        formats.open(gemma_scope_2(place, w, architecture="topk"))
    with pytest.raises(DataError, match="holds w_gate, for which no rule is known"):
        formats.open(gemma_scope_2(place, w | {"w_gate": w["b_enc"]}, l0=5))
    with pytest.raises(ConfigError, match="what it reads is not known"):
        formats.open(gemma_scope_2(tmp_path / "mine", w))
    with pytest.raises(DataError, match="crosscoder of Gemma Scope 2"):
        formats.open(gemma_scope_2(base / "crosscoder" / "layer_16_31_40_53_width_65k_l0_big", w))
    write_safetensors(base / "clt" / "a" / "params_layer_0.safetensors", w)
    write_safetensors(base / "clt" / "a" / "params_layer_2.safetensors", w)
    with pytest.raises(DataError, match=r"lacks params_layer_\[1\] of a cross-layer transcoder up to layer 2"):
        formats.open(base / "clt" / "a")
    with pytest.raises(DataError, match="set of 4 dictionaries"):
        formats.open(base)


# -- Llama Scope and R1-Distill ---------------------------------------------------------------------------------------


def scoped(d: int, n: int, d_out: int | None = None, seed: int = 0) -> tuple[Arrays, Arrays]:
    """Weights as numpy computes with them, and as torch keeps them."""
    w = canonical(d, n, d_out, seed)
    w["W_dec"] /= np.linalg.norm(w["W_dec"], axis=1, keepdims=True)
    kept = {"encoder.weight": w["W_enc"].T, "encoder.bias": w["b_enc"]}
    return w, kept | {"decoder.weight": w["W_dec"].T, "decoder.bias": w["b_dec"]}


def llama_scope(path: Path, kept: Arrays, hooks: tuple[str, str], norms: tuple[float, float], **more: Any) -> Path:
    write_safetensors(path / "checkpoints" / "final.safetensors", kept)
    n, d = kept["encoder.weight"].shape
    config = {
        "d_model": d,
        "d_sae": n,
        "hook_point_in": hooks[0],
        "hook_point_out": hooks[1],
        "jump_relu_threshold": 0.5,
        "norm_activation": "dataset-wise",
        "dataset_average_activation_norm": dict(zip(("in", "out"), norms, strict=True)),
    }
    write_json(path / "hyperparams.json", config | more)
    return path


@pytest.mark.parametrize("units", ["normalized", "raw"])
@pytest.mark.parametrize("kind", ["R", "A", "M", "TC"])
def test_llama_scope(tmp_path: Path, kind: str, units: str) -> None:
    d, n, t = 8, 64, 0.8
    w, kept = scoped(d, n)
    hook_out = {"R": "hook_resid_post", "A": "hook_attn_out", "M": "hook_mlp_out", "TC": "hook_mlp_out"}[kind]
    hook_in = "ln2.hook_normalized" if kind == "TC" else hook_out
    norms = (0.9, 0.5 if kind == "TC" else 0.9)
    hooks = (f"blocks.4.{hook_in}", f"blocks.4.{hook_out}")
    path = llama_scope(tmp_path / f"Llama3_1-8B-Base-L4{kind}-8x", kept, hooks, norms, jump_relu_threshold=t)
    s_in, s_out = (np.sqrt(d) / norm for norm in norms)
    x = inputs(d) * 0.5
    # the units of training, by the section: weights expect s x, the threshold is of raw features
    pre = (s_in * x) @ w["W_enc"] + w["b_enc"]
    acts = pre * (pre > t * s_in)
    recon = (acts @ w["W_dec"] + w["b_dec"]) / s_out
    opened = formats.open(path, units=units)
    shown = acts if units == "normalized" else acts / s_in
    check(opened, x, shown.astype(np.float32), recon.astype(np.float32))
    assert opened.table["acts_scale"] == (pytest.approx(s_in) if units == "normalized" else 1.0)
    assert opened.table["reads"] == [{"TC": "4.mlp_normalized"}.get(kind) or opened.table["writes"][0]]
    wrong = pre * (pre > t)  # the threshold left as it lies in the file
    assert l0(wrong) > 1.3 * l0(acts)


@pytest.mark.parametrize("units", ["normalized", "raw"])
def test_llama_scope_may_gate_on_pre_activations_times_decoder_norms(tmp_path: Path, units: str) -> None:
    d, n, t = 8, 64, 0.3
    w, kept = scoped(d, n)
    grown = np.linspace(0.5, 3, n, dtype=np.float32)
    w["W_dec"] *= grown[:, None]
    kept["decoder.weight"] = w["W_dec"].T
    hooks = ("blocks.4.ln2.hook_normalized", "blocks.4.hook_mlp_out")
    path = llama_scope(tmp_path / "x", kept, hooks, (1.5, 0.7), jump_relu_threshold=t)
    s_in, s_out = np.sqrt(d) / 1.5, np.sqrt(d) / 0.7
    x = inputs(d) * 0.5
    pre = (s_in * x) @ w["W_enc"] + w["b_enc"]
    acts = np.maximum(pre, 0) * (pre * grown > t * s_in)
    assert not np.array_equal(acts != 0, pre > t * s_in)
    shown = acts if units == "normalized" else acts / s_in
    recon = (acts @ w["W_dec"] + w["b_dec"]) / s_out
    opened = formats.open(path, units=units, gate="pre_times_norm")
    check(opened, x, shown.astype(np.float32), recon.astype(np.float32))
    assert opened.about.chosen == {"units": units, "gate": "pre_times_norm"}


def test_llama_scope_has_the_scale_of_its_published_files(tmp_path: Path) -> None:
    """Layer 0, attention, 32 times: width 4096, average norm 0.5703125, threshold 0.00946044921875."""
    d, n = 4096, 2
    kept = {"encoder.weight": np.zeros((n, d), np.float32), "encoder.bias": np.zeros(n, np.float32)}
    kept |= {"decoder.weight": np.zeros((d, n), np.float32), "decoder.bias": np.zeros(d, np.float32)}
    hooks = ("blocks.0.hook_attn_out",) * 2
    path = llama_scope(tmp_path / "x", kept, hooks, (0.5703125,) * 2, jump_relu_threshold=0.00946044921875)
    opened = formats.open(path)
    assert opened.table["acts_scale"] == pytest.approx(112.219178082, rel=1e-10)
    threshold = opened.tensors["activation.threshold"].read()
    assert threshold.tolist() == pytest.approx([1.06164383561644] * 2, rel=1e-6)
    path = llama_scope(tmp_path / "y", kept, ("blocks.0.hook_resid_post",) * 2, (1.0859375,) * 2)
    assert formats.open(path).table["acts_scale"] == pytest.approx(58.935251798561, rel=1e-10)


def r1(path: Path, kept: Arrays, log: np.ndarray, hook: str, norm: float, **more: Any) -> Path:
    own = {"log_jumprelu_threshold": log, f"dataset_average_activation_norm.{hook}": np.float32(norm).reshape(())}
    write_safetensors(path / "sae_weights.safetensors", kept | own)
    n, d = kept["encoder.weight"].shape
    config = {"d_model": d, "expansion_factor": n // d, "hook_point_in": hook, "hook_point_out": hook}
    write_json(path / "config.json", config | {"norm_activation": "dataset-wise", "act_fn": "jumprelu"} | more)
    return path


@pytest.mark.parametrize("units", ["normalized", "raw"])
def test_r1_distill_has_its_thresholds_in_normalized_units(tmp_path: Path, units: str) -> None:
    d, n = 8, 64
    w, kept = scoped(d, n)
    log = np.log(w["threshold"])
    mix = "800M-Slimpajama-0-OpenR1-Math-220k"
    hook = "blocks.5.hook_resid_post"
    path = r1(tmp_path / "Llama-Scope-R1-Distill" / mix / "L5R", kept, log, hook, 1.2)
    s = float(np.sqrt(d) / np.float32(1.2))
    x = inputs(d) * 0.4
    pre = (s * x) @ w["W_enc"] + w["b_enc"]
    acts = pre * (pre > np.exp(log))
    recon = (acts @ w["W_dec"] + w["b_dec"]) / s
    opened = formats.open(path, units=units)
    shown = acts if units == "normalized" else acts / s
    check(opened, x, shown.astype(np.float32), recon.astype(np.float32))
    wrong = pre * (pre > np.exp(log) * s)  # Llama Scope's rule
    assert l0(wrong) < 0.8 * l0(acts)
    assert opened.about.model == "deepseek-ai/DeepSeek-R1-Distill-Llama-8B"
    assert opened.about.prepend_bos is True
    assert opened.about.trained == {"text": mix}
    assert formats.open(tmp_path / "Llama-Scope-R1-Distill").about.entry == f"{mix}/L5R"


def test_r1_distill_layer_0_has_the_published_scale(tmp_path: Path) -> None:
    d = 4096
    kept = {"encoder.weight": np.zeros((2, d), np.float32), "encoder.bias": np.zeros(2, np.float32)}
    kept |= {"decoder.weight": np.zeros((d, 2), np.float32), "decoder.bias": np.zeros(d, np.float32)}
    norm = 64 / 53.529954019974
    path = r1(tmp_path / "x", kept, np.zeros(2, np.float32), "blocks.0.hook_resid_post", norm)
    assert formats.open(path).table["acts_scale"] == pytest.approx(53.529954019974, rel=1e-6)


def test_llama_scope_that_contradicts_itself(tmp_path: Path) -> None:
    _, kept = scoped(8, 64)
    hooks = ("blocks.4.hook_resid_post",) * 2

    def opened(name: str = "x", hooks: tuple[str, str] = hooks, **more: Any) -> Opened:
        return formats.open(llama_scope(tmp_path / name, kept, hooks, (1.5, 1.5), **more))

    with pytest.raises(
        MismatchError, match="writes 4.resid_post, and its directory is called Llama3_1-8B-Base-L5R|L5R"
    ):
        opened("Llama3_1-8B-Base-L5R-8x")
    with pytest.raises(MismatchError, match="writes 4.resid_post, and its directory"):
        opened("Llama3_1-8B-Base-L4M-8x")
    with pytest.raises(MismatchError, match="has 64 features of width 8, and its name says 32 times"):
        opened("Llama3_1-8B-Base-L4R-32x")
    with pytest.raises(MismatchError, match="d_sae is 65, and the weights have 64"):
        opened(d_sae=65)
    with pytest.raises(ConfigError, match="jump_relu_threshold in .* is -1"):
        opened(jump_relu_threshold=-1.0)
    with pytest.raises(ConfigError, match="jump_relu_threshold is a number, found None"):
        opened(jump_relu_threshold=None)
    with pytest.raises(ConfigError, match="act_fn is 'topk', and only 'jumprelu' is read"):
        opened(act_fn="topk")
    with pytest.raises(ConfigError, match="apply_decoder_bias_to_pre_encoder is True"):
        opened(apply_decoder_bias_to_pre_encoder=True)
    with pytest.raises(DataError, match="no dataset_average_activation_norm"):
        opened(dataset_average_activation_norm={})
    for norm in (0.0, -1.0, 1e30):
        with pytest.raises(DataError, match="cannot have been measured"):
            opened(dataset_average_activation_norm={"in": norm, "out": 1.0})
    with pytest.raises(ConfigError, match="units is 'normalized' or 'raw', found 'row'"):
        formats.open(tmp_path / "x", units="row")


# -- Qwen-Scope -------------------------------------------------------------------------------------------------------


REPO = "SAE-Res-Qwen3-1.7B-Base-W1K-L0_4"


def qwen(w: Arrays) -> Arrays:
    return {"W_enc": w["W_enc"].T, "W_dec": w["W_dec"].T, "b_enc": w["b_enc"], "b_dec": w["b_dec"]}


def test_qwen_scope(tmp_path: Path) -> None:
    w = canonical(2048, 1024)
    w["b_enc"] -= 3 * np.abs(w["b_enc"]).max()  # fewer than k are positive in some rows
    write_pt(tmp_path / REPO / "layer3.sae.pt", qwen(w))
    x = inputs(2048) / 20
    pre = x @ w["W_enc"] + w["b_enc"]
    acts = topk(pre, 4)
    assert ((acts > 0).sum(1) < 4).any()
    opened = formats.open(tmp_path / REPO / "layer3.sae.pt")
    found_acts, found = computed(opened, x)
    np.testing.assert_array_equal(found_acts != 0, acts != 0)
    np.testing.assert_allclose(found, acts @ w["W_dec"] + w["b_dec"], rtol=1e-4, atol=1e-4)
    described = opened.describe()
    assert described["reads"] == ["3.resid_post"]
    assert described["function"] == {"kind": "topk", "k": 4}
    assert described["model"] == "Qwen/Qwen3-1.7B-Base"
    assert described["skip_first"] == 1
    assert "restricts its use" in described["warnings"][0]
    np.testing.assert_array_equal(opened.direction(17), w["W_dec"][17])


def test_qwen_scope_keeps_k_features_where_enough_are_positive(tmp_path: Path) -> None:
    w = canonical(2048, 1024)
    write_pt(tmp_path / REPO / "layer0.sae.pt", qwen(w))
    acts, _ = computed(formats.open(tmp_path / REPO), inputs(2048))
    assert ((acts > 0).sum(1) == 4).all()


@pytest.mark.parametrize(
    ("repository", "layer", "d", "n", "says"),
    [
        ("SAE-Res-Qwen3-1.7B-Base-W2K-L0_4", 3, 2048, 1024, "has 1,024 features, and its name says 2K"),
        ("SAE-Res-Qwen3.5-27B-W80K-L0_4", 3, 4, 80_000, "has 80,000 features, and its name says 80K"),
        ("SAE-Res-Qwen3-1.7B-Base-W1K-L0_4", 28, 2048, 1024, "is of layer 28, and .* has layers 0..27"),
        ("SAE-Res-Qwen3-8B-Base-W1K-L0_4", 3, 2048, 1024, "the stream of Qwen/Qwen3-8B-Base has 4096"),
        ("elsewhere", 3, 2048, 1024, "does not hold k, and no name says it; say it, as in k="),
        ("SAE-Res-Qwen3-1.7B-Base-W1K-L0_2000", 3, 2048, 1024, "k is 2000, more than the dictionary's 1024"),
    ],
)
def test_names_of_qwen_scope_that_contradict_the_file(
    tmp_path: Path, repository: str, layer: int, d: int, n: int, says: str
) -> None:
    write_pt(tmp_path / repository / f"layer{layer}.sae.pt", qwen(canonical(d, n)))
    with pytest.raises(UserError, match=says):
        formats.open(tmp_path / repository).dictionary()


def test_qwen_scope_of_80k_is_80_times_1024_and_unknown_models_are_said_to_be(tmp_path: Path) -> None:
    write_pt(tmp_path / "SAE-Res-Qwen9-1B-W80K-L0_50" / "layer0.sae.pt", qwen(canonical(4, 81920)))
    opened = formats.open(tmp_path / "SAE-Res-Qwen9-1B-W80K-L0_50")
    assert opened.n_features == 81920
    assert "Qwen/Qwen9-1B is not a model there is a known set of" in opened.about.warnings[1]
    write_pt(tmp_path / "mine" / "layer0.sae.pt", qwen(canonical(8, 16)))
    opened = formats.open(tmp_path / "mine", k="3", model="me/model")
    assert opened.table["function"] == {"kind": "topk", "k": 3}
    assert opened.about.model == "me/model"


# -- OpenAI -----------------------------------------------------------------------------------------------------------


def openai(path: Path, w: Arrays, activation: str, state: dict[str, Any] | None = None, **more: Any) -> Path:
    n = w["b_enc"].shape[0]
    kept = {"pre_bias": w["b_dec"], "latent_bias": w["b_enc"]}
    kept |= {"encoder.weight": w["W_enc"].T, "decoder.weight": w["W_dec"].T}
    kept |= {"latents_activation_frequency": np.zeros(n, np.int64), "latents_mean_square": np.zeros(n, np.float32)}
    kept |= {"stats_last_nonzero": np.zeros(n, np.int64)}
    settings: dict[str, Any] = {"activation": activation} | ({} if state is None else {"activation_state_dict": state})
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({name: torch.from_numpy(np.ascontiguousarray(v)) for name, v in kept.items()} | settings | more, path)
    return path


def test_openai_topk_has_a_layer_norm_and_relu_has_none(tmp_path: Path) -> None:
    d, n, k = 16, 64, 5
    w = canonical(d, n)
    x = inputs(d) * 3 + 1
    mean, std = x.mean(1, keepdims=True), x.std(1, ddof=1, keepdims=True)
    z = (x - mean) / (std + 1e-5)
    acts = topk((z - w["b_dec"]) @ w["W_enc"] + w["b_enc"], k)
    recon = (acts @ w["W_dec"] + w["b_dec"]) * std + mean
    state = {"k": k, "postact_fn": "ReLU"}
    path = openai(tmp_path / "gpt2-small" / "resid_post_mlp_v5_32k" / "autoencoders" / "6.pt", w, "TopK", state)
    with pytest.raises(MismatchError, match="has 64 features, and its name says 32k"):
        formats.open(path)
    path = openai(tmp_path / "resid_post_mlp" / "autoencoders" / "6.pt", w, "TopK", state)
    opened = formats.open(path)
    check(opened, x, acts, recon)
    assert opened.table["reads"] == ["6.resid_post"]
    shifted, _ = 2.5 * x + 7, None
    found_acts, found = computed(opened, shifted.astype(np.float32))
    np.testing.assert_array_equal(found_acts != 0, acts != 0)
    np.testing.assert_allclose(found, 2.5 * recon + 7, rtol=1e-4, atol=1e-3)

    path = openai(tmp_path / "resid_delta_mlp_v4" / "autoencoders" / "2.pt", w, "ReLU", {})
    acts = np.maximum((x - w["b_dec"]) @ w["W_enc"] + w["b_enc"], 0)
    opened = formats.open(path)
    found_acts, found = computed(opened, x)
    np.testing.assert_allclose(found_acts, acts, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(found, acts @ w["W_dec"] + w["b_dec"], rtol=1e-5, atol=1e-3)
    assert opened.table["reads"] == ["2.mlp_out"]


@pytest.mark.parametrize(
    ("location", "site"),
    [
        ("resid_post_mlp_v5_128k", "6.resid_post"),
        ("resid_post_attn_v5_32k", "6.resid_mid"),
        ("resid_delta_mlp_v5_32k", "6.mlp_out"),
        ("resid_delta_attn_v5_32k", "6.attn_out"),
        ("mlp_post_act_v1", "6.mlp_act"),
    ],
)
def test_locations_of_openai(tmp_path: Path, location: str, site: str) -> None:
    w = canonical(4, 131072 if "128k" in location else 32768 if "32k" in location else 64)
    path = openai(tmp_path / location / "autoencoders" / "6.pt", w, "TopK", {"k": 32, "postact_fn": "ReLU"})
    assert formats.open(path).table["reads"] == [site]
    assert formats.open(tmp_path / location).table["reads"] == [site]


def test_what_is_not_said_of_an_openai_file_is_chosen_or_refused(tmp_path: Path) -> None:
    w = canonical(8, 16)
    path = openai(tmp_path / "x" / "a.pt", w, "TopK", {"k": 4, "postact_fn": "ReLU"})
    with pytest.raises(ConfigError, match="no name says where"):
        formats.open(path)
    assert formats.open(path, location="mlp_post_act", layer="3").table["reads"] == ["3.mlp_act"]
    path = openai(tmp_path / "resid_post_mlp" / "1.pt", w, "TopK", {"k": 4, "postact_fn": "Identity"})
    with pytest.raises(ConfigError, match="the activation is 'TopK' with .*Identity"):
        formats.open(path)
    path = openai(tmp_path / "resid_post_mlp" / "2.pt", w, "GELU")
    with pytest.raises(ConfigError, match="the activation is 'GELU'"):
        formats.open(path)
    path = openai(tmp_path / "resid_post_mlp" / "3.pt", w, "ReLU", {}, normalize=True)
    with pytest.raises(DataError, match="holds normalize, for which no rule is known"):
        formats.open(path)


class Evil:
    """What a pickle may bring along."""

    def __reduce__(self) -> Any:
        return (print, ("this ran",))


def test_pickles_with_code_are_not_opened(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = openai(tmp_path / "resid_post_mlp" / "1.pt", canonical(8, 16), "ReLU", {}, hook=Evil())
    with pytest.raises(DataError):
        formats.open(path)
    with pytest.raises(DataError, match="would run its code"):
        formats.open(path, "openai")
    assert "this ran" not in capsys.readouterr().out


# -- Goodfire, qresearch and smaller sets -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("repository", "file", "d", "layers", "site", "model"),
    [
        ("Llama-3.3-70B-Instruct-SAE-l50", "Llama-3.3-70B-Instruct-SAE-l50.pt", 8192,
         ("encoder_linear", "decoder_linear"), "50.resid_post", "meta-llama/Llama-3.3-70B-Instruct"),
        ("Llama-3.1-8B-Instruct-SAE-l19", "Llama-3.1-8B-Instruct-SAE-l19.pth", 4096,
         ("encoder_linear", "decoder_linear"), "19.resid_post", "meta-llama/Llama-3.1-8B-Instruct"),
        ("DeepSeek-R1-Distill-Llama-8B-SAE-l19", "sae.pt", 4096,
         ("encoder", "decoder"), "19.resid_post", "deepseek-ai/DeepSeek-R1-Distill-Llama-8B"),
    ],
)  # fmt: skip
def test_goodfire_and_qresearch(
    tmp_path: Path, repository: str, file: str, d: int, layers: tuple[str, str], site: str, model: str
) -> None:
    w = canonical(d, 24)
    kept = {f"{layers[0]}.weight": w["W_enc"].T, f"{layers[0]}.bias": w["b_enc"]}
    kept |= {f"{layers[1]}.weight": w["W_dec"].T, f"{layers[1]}.bias": w["b_dec"]}
    kept = {name: np.ascontiguousarray(value) for name, value in kept.items()}
    write_pt(tmp_path / repository / file, kept)
    opened = formats.open(tmp_path / repository)
    x = inputs(d) / 30
    acts = np.maximum(x @ w["W_enc"] + w["b_enc"], 0)
    found_acts, found = computed(opened, x)
    np.testing.assert_allclose(found_acts, acts, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found, acts @ w["W_dec"] + w["b_dec"], rtol=1e-4, atol=1e-4)
    assert opened.table["reads"] == [site]
    assert opened.about.model == model
    assert opened.layout == ("qresearch" if layers[0] == "encoder" else "goodfire")
    write_pt(tmp_path / "elsewhere" / "a.pt", kept)
    with pytest.raises(ConfigError, match="no name says of which layer"):
        formats.open(tmp_path / "elsewhere")
    assert formats.open(tmp_path / "elsewhere", layer="7", model="me/mine").table["reads"] == ["7.resid_post"]


def test_goodfire_of_another_width_than_its_model(tmp_path: Path) -> None:
    kept = {"encoder_linear.weight": np.zeros((4, 8), np.float32), "encoder_linear.bias": np.zeros(4, np.float32)}
    kept |= {"decoder_linear.weight": np.zeros((8, 4), np.float32), "decoder_linear.bias": np.zeros(8, np.float32)}
    write_pt(tmp_path / "Llama-3.1-8B-Instruct-SAE-l19" / "a.pth", kept)
    with pytest.raises(MismatchError, match="reads 8 numbers, and the stream of .* has 4096"):
        formats.open(tmp_path / "Llama-3.1-8B-Instruct-SAE-l19")


def test_attention_autoencoders_of_gpt2(tmp_path: Path) -> None:
    w = canonical(16, 48)
    del w["threshold"]
    name = "gpt2-small_L5_Hcat_z"
    write_pt(tmp_path / f"{name}.pt", w)
    config = {"act_name": "blocks.5.attn.hook_z", "act_size": 16, "dict_size": 48, "lr": 1e-3}
    write_json(tmp_path / f"{name}_cfg.json", config)
    x = inputs(16)
    acts = np.maximum((x - w["b_dec"]) @ w["W_enc"] + w["b_enc"], 0)
    opened = formats.open(tmp_path)
    found_acts, found = computed(opened, x)
    np.testing.assert_allclose(found_acts, acts, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found, acts @ w["W_dec"] + w["b_dec"], rtol=1e-5, atol=1e-4)
    assert opened.table["reads"] == ["5.z"]
    assert "lacks the bias of the values" in opened.about.warnings[0]
    not_centered = np.maximum(x @ w["W_enc"] + w["b_enc"], 0)
    assert fvu(not_centered, acts) > 0.1
    write_json(tmp_path / f"{name}_cfg.json", config | {"dict_size": 49})
    with pytest.raises(MismatchError, match="has 48, and its configuration says dict_size = 49"):
        formats.open(tmp_path)
    write_json(tmp_path / f"{name}_cfg.json", config | {"act_name": "z"})
    with pytest.raises(ConfigError, match="act_name is 'z'"):
        formats.open(tmp_path)


def test_temporal_autoencoders_are_recognized_and_refused(tmp_path: Path) -> None:
    path = tmp_path / "layer_12" / "temporal"
    write_safetensors(path / "latest_ckpt.safetensors", arrays({"D": (8, 4), "b": (1, 4), "attn_layers.0.q": (4, 4)}))
    (path / "conf.yaml").write_text("n_heads: 2\n")
    with pytest.raises(DataError, match="temporal autoencoder: attention encodes a token from those before it"):
        formats.open(tmp_path)


# -- all --------------------------------------------------------------------------------------------------------------


def test_each_set_is_recognized_as_itself_alone(tmp_path: Path) -> None:
    w, kept = scoped(8, 64)
    made = {
        "gemma_scope": lambda p: write_npz(p / "layer_1" / "params.npz", w),
        "gemma_scope_2": lambda p: write_safetensors(p / "resid_post" / "layer_1" / "params.safetensors", lower(w)),
        "llama_scope": lambda p: llama_scope(p, kept, ("blocks.1.hook_resid_post",) * 2, (1.0, 1.0)),
        "r1_distill": lambda p: r1(p, kept, w["b_enc"], "blocks.1.hook_resid_post", 1.0),
        "qwen_scope": lambda p: write_pt(p / "layer0.sae.pt", qwen(w)),
        "openai": lambda p: openai(p / "0.pt", w, "ReLU", {}),
        "goodfire": lambda p: write_pt(p / "a.pt", {k.replace(".", "_linear."): v for k, v in kept.items()}),
        "qresearch": lambda p: write_pt(p / "a.pt", kept),
    }
    for name, make in made.items():
        make(tmp_path / name)
        assert formats.find(tmp_path / name).layout.name == name
    r1(tmp_path / "typed" / "L1R", kept, w["b_enc"], "blocks.1.hook_resid_post", 1.0, sae_type="sae")
    assert formats.find(tmp_path / "typed").layout.name == "r1_distill", "its config looks like that of llamascopium"


def test_choices_that_a_set_does_not_have(tmp_path: Path) -> None:
    write_npz(tmp_path / "layer_1" / "params.npz", canonical(8, 8))
    with pytest.raises(ConfigError, match="gemma_scope has no choice 'sett'; did you mean 'set'"):
        formats.open(tmp_path, sett="res")


def test_missing_and_extra_tensors_are_named(tmp_path: Path) -> None:
    w = canonical(2304, 8)
    path = tmp_path / "gemma-scope-2b-pt-res" / "layer_1"
    write_npz(path / "params.npz", {name: value for name, value in w.items() if name != "threshold"})
    with pytest.raises(DataError, match=r"params\.npz lacks threshold; it holds W_dec, W_enc"):
        formats.open(path)
    write_npz(path / "params.npz", w | {"b_gate": w["b_enc"]})
    with pytest.raises(DataError, match="holds b_gate, for which no rule is known"):
        formats.open(path)
    write_npz(path / "params.npz", w | {"b_enc": w["b_enc"][:5]})
    with pytest.raises(DataError, match=r"b_enc in .* is \[5\], expected \[8\]"):
        formats.open(path)


def test_about_survives_a_save(tmp_path: Path) -> None:
    write_pt(tmp_path / REPO / "layer3.sae.pt", qwen(canonical(2048, 1024)))
    opened = formats.open(tmp_path / REPO)
    opened.dictionary().save(tmp_path / "saved")
    again = formats.open(tmp_path / "saved")
    assert again.about.model == "Qwen/Qwen3-1.7B-Base"
    assert again.about.skip_first == 1
