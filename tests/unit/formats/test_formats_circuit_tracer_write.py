"""What is written for circuit-tracer: the same dictionaries, in files that its readers take, or a reason why not."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from monoscope import formats
from monoscope.core.errors import CannotHold, DataError
from monoscope.core.site import Site
from monoscope.dictionaries import Dictionary, Recipe
from monoscope.formats.circuit_tracer_write import write, write_set
from monoscope.formats.open import find
from monoscope.formats.opened import About

GOLDEN = Path(__file__).parents[2] / "golden"
MINE = GOLDEN / "circuit_tracer"
D, F, LAYERS = 8, 24, 3
TERMS: dict[str, Any] = {"reconstruction": {"kind": "squared_error"}, "sparsity": {"kind": "l0"}}
ABOUT = About(model="openai-community/gpt2")


def made(
    wiring: dict[str, Any], function: dict[str, Any], layers: range = range(1), read: str = "mlp_in"
) -> Dictionary:
    """A dictionary of layers with random weights, thresholds above 0 and decoder rows of different norms."""
    terms = TERMS if function["kind"] == "jumprelu" else {"reconstruction": {"kind": "squared_error"}}
    if function["kind"] == "relu":
        terms |= {"sparsity": {"kind": "l1"}}
    if function["kind"] == "gated":
        terms |= {"gate": {"kind": "gate_l1"}, "auxiliary": {"kind": "gate_aux"}}
    recipe = Recipe.from_dict({"wiring": {"n_features": F} | wiring, "function": function, "terms": terms})
    reads, writes = (tuple(Site(layer, kind) for layer in layers) for kind in (read, "mlp_out"))
    if wiring.get("center"):
        reads = writes
    dictionary = recipe.build(reads, writes, dict.fromkeys([*reads, *writes], D))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in dictionary.named_parameters():
            parameter.normal_(generator=generator).mul_(0.5)
            if "threshold" in name:
                parameter.abs_()
    return dictionary.eval()


def same(before: Dictionary, after: Dictionary) -> None:
    x = torch.randn(64, *([] if len(before.reads) == 1 else [len(before.reads)]), D)
    one, other = before.frozen()(x, x), after(x, x)
    torch.testing.assert_close(other.recon, one.recon, rtol=1e-5, atol=1e-5)
    assert torch.equal(one.acts.dense() != 0, other.acts.dense() != 0)


@pytest.mark.parametrize("name", sorted(path.name for path in MINE.glob("plt_*")))
def test_a_set_that_is_read_and_written_has_the_same_files(name: str, tmp_path: Path) -> None:
    done = formats.convert_set(find(MINE / name), tmp_path / "out", "circuit_tracer")
    assert all(conversion.comparison.is_same for conversion in done.each)
    for layer in range(LAYERS):
        before, after = (load_file(place / f"layer_{layer}.safetensors") for place in (MINE / name, tmp_path / "out"))
        assert before.keys() == after.keys(), "no stray keys: the library loads strictly"
        assert all(torch.equal(before[key], after[key]) for key in before)
    configs = [yaml.safe_load((place / "config.yaml").read_text()) for place in (MINE / name, tmp_path / "out")]
    for config in configs:
        del config["scan"]
    assert configs[0] == configs[1]


@pytest.mark.parametrize("name", sorted(path.name for path in MINE.glob("clt_*")))
def test_a_clt_that_is_read_and_written_has_the_same_files(name: str, tmp_path: Path) -> None:
    formats.convert(MINE / name, tmp_path / "out", "circuit_tracer")
    for i in range(LAYERS):
        for file in (f"W_enc_{i}.safetensors", f"W_dec_{i}.safetensors"):
            before, after = load_file(MINE / name / file), load_file(tmp_path / "out" / file)
            assert before.keys() == after.keys()
            assert all(torch.equal(before[key], after[key]) for key in before)


def test_decoders_of_llamascopium_by_the_layer_they_read(tmp_path: Path) -> None:
    source = GOLDEN / "llamascopium" / "clt_jumprelu_folded"
    formats.convert(source, tmp_path / "out", "circuit_tracer", folded="yes")
    theirs = load_file(source / "sae_weights.safetensors")
    for i in range(LAYERS):
        rows = load_file(tmp_path / "out" / f"W_dec_{i}.safetensors")[f"W_dec_{i}"]
        for j in range(LAYERS - i):
            assert torch.equal(rows[:, j], theirs[f"W_D.{i + j}"][i])


@pytest.mark.parametrize(
    ("wiring", "function", "step"),
    [
        ({}, {"kind": "relu"}, None),
        ({"skip": True}, {"kind": "jumprelu"}, "W_skip transposed"),
        ({"scale_by_decoder_norm": True}, {"kind": "jumprelu"}, "threshold divided by the decoder norm"),
        ({"scale_by_decoder_norm": True}, {"kind": "topk", "k": 5}, "decoder norms folded in"),
        ({"center": True, "unit_norm": False}, {"kind": "jumprelu"}, "centering folded"),
        ({}, {"kind": "gated"}, "gated turned into the jumprelu"),
        ({}, {"kind": "topk", "k": 5}, None),
        ({}, {"kind": "topk", "k": 20, "relu": False}, None),
    ],
)
def test_one_layer(wiring: dict, function: dict, step: str | None, tmp_path: Path) -> None:
    dictionary = made({"kind": "autoencoder"} | wiring, function)
    receipt = write(dictionary, tmp_path, ABOUT)
    assert step is None or step in " ".join(receipt.steps)
    same(dictionary, formats.load(tmp_path))
    if function["kind"] == "topk":
        config = yaml.safe_load((tmp_path / "config.yaml").read_text())
        assert (config["activation"], config["k"]) == ("topk", function["k"])
        assert not any("k" in key.split(".") for key in load_file(tmp_path / "layer_0.safetensors"))


def test_a_topk_loses_its_relu_and_says_so(tmp_path: Path) -> None:
    receipt = write(made({"kind": "autoencoder"}, {"kind": "topk", "k": 5}), tmp_path / "a", ABOUT)
    assert "negative ones are kept" in " ".join(receipt.lost)
    receipt = write(made({"kind": "autoencoder"}, {"kind": "topk", "k": 5, "relu": False}), tmp_path / "b", ABOUT)
    assert not receipt.lost


@pytest.mark.parametrize("is_scaled", [False, True])
def test_a_clt_with_thresholds(is_scaled: bool, tmp_path: Path) -> None:
    dictionary = made({"kind": "cross_layer", "scale_by_decoder_norm": is_scaled}, {"kind": "jumprelu"}, range(LAYERS))
    with torch.no_grad():
        dictionary.get_buffer("norm_scale").copy_(torch.tensor([1.0, 0.5, 2.0]))
    receipt = write(dictionary, tmp_path, ABOUT)
    assert is_scaled == ("threshold divided by the decoder norm" in receipt.steps)
    same(dictionary, formats.load(tmp_path))


def test_a_batch_function_is_written_as_thresholds(tmp_path: Path) -> None:
    dictionary = made({"kind": "cross_layer"}, {"kind": "batch_layer_topk", "k": 4}, range(LAYERS))
    dictionary.activation.get_buffer("threshold").fill_(0.7)
    receipt = write(dictionary, tmp_path, ABOUT)
    assert "batch_layer_topk frozen as jumprelu, as it computes at inference" in receipt.steps
    same(dictionary, formats.load(tmp_path))


@pytest.mark.parametrize(
    ("wiring", "function", "reason"),
    [
        ({"kind": "cross_layer", "skip": True}, {"kind": "relu"}, "never looks for the skip of a CLT"),
        ({"kind": "cross_layer"}, {"kind": "topk", "k": 3}, "has ReLU or thresholds, and this has topk"),
        ({"kind": "autoencoder"}, {"kind": "group_max", "k": 4}, "ReLU, JumpReLU and TopK, not group_max"),
        ({"kind": "autoencoder"}, {"kind": "abs_topk", "k": 4}, "ReLU, JumpReLU and TopK, not abs_topk"),
        ({"kind": "autoencoder", "glu": True}, {"kind": "relu"}, "no gated linear units"),
        ({"kind": "autoencoder", "normalizer": "token_norm"}, {"kind": "relu"}, "normalizes nothing"),
    ],
)
def test_what_it_cannot_hold(wiring: dict, function: dict, reason: str, tmp_path: Path) -> None:
    layers = range(LAYERS) if wiring["kind"] == "cross_layer" else range(1)
    with pytest.raises(CannotHold, match=reason):
        write(made(wiring, function, layers), tmp_path, ABOUT)


def test_sites_that_it_cannot_hold(tmp_path: Path) -> None:
    relu, auto = {"kind": "relu"}, {"kind": "autoencoder"}
    with pytest.raises(CannotHold, match=r"number 0 here is at 2\.mlp_in; write all layers together"):
        write(made(auto, relu, range(2, 3)), tmp_path, ABOUT)
    with pytest.raises(CannotHold, match=r"number 0 here is at 1\.mlp_in"):
        write(made({"kind": "cross_layer"}, relu, range(1, 3)), tmp_path, ABOUT)
    mixed = [made(auto, relu), made(auto, relu, range(1, 2), read="resid_mid")]
    with pytest.raises(CannotHold, match=r"same hook in every layer, found mlp\.hook_in, hook_resid_mid"):
        write_set(mixed, tmp_path, ABOUT)
    alike = [made(auto, relu), made(auto | {"skip": True}, relu, range(1, 2))]
    with pytest.raises(CannotHold, match="one function, one number of features, and skips all or none: layer 0: relu"):
        write_set(alike, tmp_path, ABOUT)


def test_sets_are_ordered_by_layer_and_compared(tmp_path: Path) -> None:
    names = []
    for layer in (2, 0, 1):
        dictionary = made({"kind": "autoencoder"}, {"kind": "jumprelu"}, range(layer, layer + 1))
        dictionary.save(tmp_path / f"layer{layer}")
        names.append(tmp_path / f"layer{layer}")
    done = formats.convert_set(names, tmp_path / "out", "circuit_tracer")
    assert [conversion.source.table["writes"] for conversion in done.each] == [[f"{i}.mlp_out"] for i in range(3)]
    assert "model_name is 'unknown'" in " ".join(done.receipt.lost)
    assert find(tmp_path / "out").entries() == [f"layer_{i}.safetensors" for i in range(3)]
    assert formats.open(tmp_path / "out" / "layer_1.safetensors").about.model is None
    with pytest.raises(CannotHold, match="saelens has one dictionary in a directory"):
        formats.convert_set(names, tmp_path / "other", "saelens")
    with pytest.raises(CannotHold, match=r"writes 0\.mlp_out, 1\.mlp_out, 2\.mlp_out, and a set has one layer"):
        formats.convert_set([MINE / "clt_relu"], tmp_path / "other", "circuit_tracer")
    assert not (tmp_path / "other").exists()


def test_a_gap_in_the_layers_leaves_nothing_behind(tmp_path: Path) -> None:
    source = Path(shutil.copytree(MINE / "plt_jumprelu", tmp_path / "in"))
    (source / "layer_1.safetensors").unlink()
    with pytest.raises((CannotHold, DataError), match=r"number 1 here is at 2\.mlp_normalized"):
        formats.convert_set(find(source), tmp_path / "out", "circuit_tracer")
    assert not (tmp_path / "out").exists()
