"""circuit-tracer: what its own code computes from sets and CLTs, and the traps of their files."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import torch
import yaml
from hub_server import serving
from safetensors.torch import load_file, save_file
from torch import Tensor

from monoscope import formats
from monoscope.core.errors import ConfigError, DataError
from monoscope.formats.blob import FileBlob
from monoscope.formats.open import find
from monoscope.formats.opened import Opened

GOLDEN = Path(__file__).parents[2] / "golden" / "circuit_tracer"
SETS = sorted(path.name for path in GOLDEN.glob("plt_*"))
CLTS = sorted(path.name for path in GOLDEN.glob("clt_*"))
LAYERS = 3


def computed(name: str) -> dict[str, Tensor]:
    """What the library read and computed, ``[layer, token, width]``."""
    return load_file(GOLDEN / name / "io.safetensors")


def copied(name: str, directory: Path, **settings: Any) -> Path:
    """A golden directory with other settings; None takes one away."""
    made = Path(shutil.copytree(GOLDEN / name, directory / name))
    config = yaml.safe_load((made / "config.yaml").read_text()) | settings
    (made / "config.yaml").write_text(
        yaml.safe_dump({key: value for key, value in config.items() if value is not None})
    )
    return made


def same(got: Tensor, expected: Tensor) -> None:
    assert torch.equal(got != 0, expected != 0)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", SETS)
def test_every_layer_of_a_set_computes_as_its_own_code(name: str) -> None:
    io, found = computed(name), find(GOLDEN / name)
    assert found.entries() == [f"layer_{layer}.safetensors" for layer in range(LAYERS)]
    for layer, entry in enumerate(found.entries()):
        dictionary = formats.open(GOLDEN / name / entry).dictionary()
        x = io["x"][layer]
        acts = dictionary.encode(x)
        same(acts.dense(), io["acts"][layer])
        torch.testing.assert_close(dictionary.decode(acts, x), io["recon"][layer], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", CLTS)
def test_a_cross_layer_transcoder_computes_as_its_own_code(name: str) -> None:
    io, dictionary = computed(name), formats.open(GOLDEN / name).dictionary()
    x = io["x"].movedim(0, 1)
    acts = dictionary.encode(x)
    same(acts.dense(), io["acts"].movedim(0, 1).flatten(1))
    torch.testing.assert_close(dictionary.decode(acts), io["recon"].movedim(0, 1), rtol=1e-5, atol=1e-5)


def test_three_hooks_are_three_sites() -> None:
    sites = {name: formats.open(GOLDEN / name / "layer_1.safetensors").table["reads"] for name in SETS}
    assert sites["plt_relu_skip"] == ["1.resid_mid"]
    assert sites["plt_jumprelu"] == ["1.mlp_normalized"]
    assert sites["plt_topk"] == ["1.mlp_in"]
    assert formats.open(GOLDEN / "clt_relu").table["writes"] == [f"{layer}.mlp_out" for layer in range(LAYERS)]


def test_a_skip_that_is_transposed_shows() -> None:
    io = computed("plt_relu_skip")
    found = formats.open(GOLDEN / "plt_relu_skip" / "layer_0.safetensors")
    transposed = Opened(found.layout, found.table, {**found.tensors, "W_skip": found.tensors["W_skip"].t()})
    recon = transposed.dictionary()(io["x"][0]).recon
    assert (recon - io["recon"][0]).norm() > 0.1 * io["recon"][0].norm()


def test_a_relu_before_its_topk_would_show() -> None:
    io = computed("plt_topk")
    found = formats.open(GOLDEN / "plt_topk" / "layer_0.safetensors")
    assert found.table["function"] == {"kind": "topk", "k": 14, "relu": False}
    with_relu = Opened(found.layout, {**found.table, "function": {"kind": "topk", "k": 14}}, found.tensors)
    acts = with_relu.dictionary().encode(io["x"][0]).dense()
    assert (io["acts"][0] < 0).any()
    assert not torch.equal(acts, io["acts"][0])
    assert torch.equal(acts, io["acts"][0].relu())


def test_biases_belong_to_the_layer_that_is_written() -> None:
    dictionary = formats.open(GOLDEN / "clt_relu").dictionary()
    with torch.no_grad():
        for name, bias in dictionary.named_parameters():
            if name.startswith("b_enc"):
                bias.fill_(-1e6)
    recon = dictionary(torch.randn(2, LAYERS, 8)).recon
    for layer in range(LAYERS):
        held = load_file(GOLDEN / "clt_relu" / f"W_enc_{layer}.safetensors")
        assert torch.equal(recon[0, layer], held[f"b_dec_{layer}"])


def test_one_row_of_a_decoder_does_not_read_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    n, d = 5000, 8
    for i in range(2):
        encoder = {f"W_enc_{i}": torch.zeros(n, d), f"b_enc_{i}": torch.zeros(n), f"b_dec_{i}": torch.zeros(d)}
        save_file(encoder, tmp_path / f"W_enc_{i}.safetensors")
        save_file({f"W_dec_{i}": torch.randn(n, 2 - i, d)}, tmp_path / f"W_dec_{i}.safetensors")
    shutil.copy(GOLDEN / "clt_relu" / "config.yaml", tmp_path)
    read: list[int] = []
    into = FileBlob.into

    def counted(self: FileBlob, spans: Any, buffer: memoryview) -> None:
        read.append(sum(stop - start for start, stop in spans))
        into(self, spans, buffer)

    monkeypatch.setattr(FileBlob, "into", counted)
    found = formats.open(tmp_path)
    assert sum(read) < 2**14, "headers and settings alone"
    read.clear()
    direction = found.direction(4321)
    assert sum(read) == 2 * d * 4
    held = load_file(tmp_path / "W_dec_0.safetensors")
    assert torch.equal(direction, held["W_dec_0"][4321])
    read.clear()
    assert torch.equal(
        found.direction(n + 7, "1.mlp_out"), load_file(tmp_path / "W_dec_1.safetensors")["W_dec_1"][7, 0]
    )


def test_files_without_a_configuration_need_to_be_told_what_they_read(tmp_path: Path) -> None:
    for name, files in (("plt_relu_skip", "layer_1.safetensors"), ("clt_relu", "")):
        made = copied(name, tmp_path)
        (made / "config.yaml").unlink()
        with pytest.raises(DataError, match="say reads=resid_mid or mlp_in or mlp_normalized"):
            formats.open(made / files, format="circuit_tracer")
        found = formats.open(made / files, reads="mlp_normalized")
        assert found.table["reads"][-1].endswith(".mlp_normalized")
        assert found.about.chosen == {"reads": "mlp_normalized"}
        assert any("hook_mlp_out is written" in words for words in found.about.inferred)


def test_a_relu_is_nowhere_said() -> None:
    for path, is_said in (("clt_relu", True), ("plt_relu_skip/layer_0.safetensors", True), ("clt_jumprelu", False)):
        words = " ".join(formats.open(GOLDEN / path).about.inferred)
        assert ("ReLU, as there are no thresholds" in words) == is_said


def test_positions_that_take_no_part() -> None:
    assert formats.open(GOLDEN / "clt_relu").about.skip_first == 1


def test_chat_models_of_gemma_3_leave_out_four_positions(tmp_path: Path) -> None:
    made = copied("plt_topk", tmp_path, model_name="google/gemma-3-1b-it")
    assert formats.open(made / "layer_0.safetensors").about.skip_first == 4


def test_a_listed_set_has_its_own_order(tmp_path: Path) -> None:
    listed = ["layer_2.safetensors", "layer_0.safetensors"]
    made = copied("plt_jumprelu", tmp_path, transcoders=listed)
    assert find(made).entries() == listed
    assert formats.open(made / "layer_2.safetensors").table["reads"] == ["0.mlp_normalized"]


def test_a_set_of_files_in_other_repositories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    width = 2304  # of the model that Gemma Scope is for
    sizes = {"W_enc": (width, 2), "b_enc": (2,), "W_dec": (2, width), "b_dec": (width,), "threshold": (2,)}
    scope = {name: np.random.default_rng(0).random(shape, np.float32) for name, shape in sizes.items()}
    np.savez(tmp_path / "params.npz", **scope)
    path = "layer_0/width_2/average_l0_1/params.npz"
    listed = [
        f"hf://google/gemma-scope-2b-pt-transcoders/{path}",
        "hf://org/more/deep/one.safetensors?revision=other",
    ]
    made = copied("plt_jumprelu", tmp_path, transcoders=listed, model_name="google/gemma-2-2b")
    (made / "layer_0.safetensors").rename(tmp_path / "one.safetensors")
    with serving() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("HF_TOKEN", "")
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        huggingface_hub.close_session()
        hub.repo("google/gemma-scope-2b-pt-transcoders", {path: (tmp_path / "params.npz").read_bytes()})
        more = hub.repo("org/more", {"README.md": b""})
        more.commit({"deep/one.safetensors": (tmp_path / "one.safetensors").read_bytes()}, "other")
        found = find(made)
        assert found.entries() == listed
        first, second = (found.at(entry).open() for entry in listed)
        assert first.layout == "gemma_scope"
        assert first.table["reads"] == ["0.mlp_normalized"]
        torch.testing.assert_close(first.direction(1), torch.from_numpy(scope["W_dec"][1]))
        assert second.layout == "circuit_tracer"
        assert second.table["reads"] == ["1.mlp_normalized"]
        assert any(words.endswith("lists it as layer 1") for words in second.about.inferred)
        io = computed("plt_jumprelu")
        same(second.dictionary().encode(io["x"][0]).dense(), io["acts"][0])
        huggingface_hub.close_session()


def test_a_broken_configuration_is_named(tmp_path: Path) -> None:
    made = copied("plt_jumprelu", tmp_path)
    (made / "config.yaml").write_text("a: [")
    with pytest.raises(DataError, match=r"config\.yaml is not YAML"):
        formats.open(made / "layer_0.safetensors")


def test_a_k_that_the_library_saved_as_a_tensor(tmp_path: Path) -> None:
    made = copied("plt_topk", tmp_path, activation=None, k=None)
    held = load_file(made / "layer_0.safetensors")
    save_file(held | {"activation_function.k": torch.tensor(14)}, made / "layer_0.safetensors")
    assert formats.open(made / "layer_0.safetensors").table["function"] == {"kind": "topk", "k": 14, "relu": False}


@pytest.mark.parametrize(
    ("name", "settings", "error", "message"),
    [
        ("plt_topk", {"k": None}, ConfigError, "activation topk and k = None"),
        ("plt_topk", {"activation": "gelu"}, ConfigError, "activation 'gelu'; known: relu, topk"),
        ("plt_topk", {"normalize": True}, ConfigError, "sets normalize, for which no rule is known"),
        ("plt_jumprelu", {"activation": "topk", "k": 3}, DataError, "holds thresholds: one of them is wrong"),
        ("plt_jumprelu", {"activation": "relu"}, DataError, "holds thresholds: one of them is wrong"),
        ("plt_jumprelu", {"feature_input_hook": "hook_nowhere"}, DataError, "names a hook that is no site"),
        ("plt_jumprelu", {"model_kind": "set"}, DataError, "model_kind 'set'; known"),
    ],
)
def test_settings_that_contradict_the_files_are_refused(
    tmp_path: Path, name: str, settings: dict, error: type, message: str
) -> None:
    made = copied(name, tmp_path, **settings)
    with pytest.raises(error, match=message):
        formats.open(made / "layer_0.safetensors", format="circuit_tracer")


def test_tensors_that_no_rule_is_known_for_are_refused(tmp_path: Path) -> None:
    made = copied("plt_jumprelu", tmp_path)
    held = load_file(made / "layer_0.safetensors")
    for change, message in (
        ({"log_thresholds": torch.zeros(24)}, "holds log_thresholds, for which no rule is known"),
        ({"W_dec": torch.zeros(24, 9)}, r"W_dec in .* is \[24, 9\], expected \[24, 8\]"),
    ):
        save_file(held | change, made / "layer_0.safetensors")
        with pytest.raises(DataError, match=message):
            formats.open(made / "layer_0.safetensors")
    made = copied("clt_relu", tmp_path)
    held = load_file(made / "W_enc_1.safetensors")
    save_file(held | {"W_skip_1": torch.zeros(8, 8)}, made / "W_enc_1.safetensors")
    with pytest.raises(DataError, match="holds W_skip_1, for which no rule is known"):
        formats.open(made)
    (made / "W_enc_1.safetensors").unlink()
    with pytest.raises(DataError, match=r"lacks W_enc_1\.safetensors"):
        formats.open(made)


def test_thresholds_of_all_layers_or_none(tmp_path: Path) -> None:
    made = copied("clt_jumprelu", tmp_path)
    held = load_file(made / "W_enc_1.safetensors")
    del held["threshold_1"]
    save_file(held, made / "W_enc_1.safetensors")
    with pytest.raises(DataError, match="thresholds for 2 of 3 layers"):
        formats.open(made)


def test_thresholds_below_0_would_let_negative_activations_pass(tmp_path: Path) -> None:
    made = copied("plt_jumprelu", tmp_path)
    held = load_file(made / "layer_0.safetensors")
    threshold = held["activation_function.threshold"].clone()
    threshold[3] = -0.5
    save_file(held | {"activation_function.threshold": threshold}, made / "layer_0.safetensors")
    with pytest.raises(DataError, match="holds 1 thresholds below 0"):
        formats.open(made / "layer_0.safetensors").dictionary()
