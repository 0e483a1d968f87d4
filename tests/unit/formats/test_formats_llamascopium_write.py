"""What is written for llamascopium: the same dictionaries, or a reason why not."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from monoscope import formats
from monoscope.core.errors import CannotHold
from monoscope.core.site import Site
from monoscope.dictionaries import Dictionary, Recipe
from monoscope.formats.llamascopium_write import write
from monoscope.formats.opened import About

GOLDEN = Path(__file__).parents[2] / "golden" / "llamascopium"
D, F, LAYERS = 8, 24, 3
TERMS = {"relu": ["l1"], "jumprelu": ["l0"], "gated": ["gate_l1", "gate_aux"]}
ONE = ((Site(1, "mlp_in"),), (Site(1, "mlp_out"),))
RESID = (tuple(Site(layer, "resid_post") for layer in range(LAYERS)),) * 2
MLPS = tuple(tuple(Site(layer, kind) for layer in range(LAYERS)) for kind in ("resid_mid", "mlp_out"))
ATTENTION = {"d_head": 4, "scale": 1.5, "rotary": {"frequencies": [1.0, 0.01]}}
LORSA = {"kind": "lorsa", "n_heads": 2, "attention": ATTENTION}
ATTN = ((Site(1, "attn_normalized"),), (Site(1, "attn_out"),))


def made(wiring: dict[str, Any], function: dict[str, Any], sites: tuple = ONE, seed: int = 0) -> Dictionary:
    """A dictionary with random weights, thresholds above 0 and decoder rows of different norms."""
    losses = {str(i): {"kind": kind} for i, kind in enumerate(["squared_error", *TERMS.get(function["kind"], ())])}
    recipe = Recipe.from_dict({"wiring": {"n_features": F} | wiring, "function": function, "terms": losses})
    dictionary = recipe.build(*sites, dict.fromkeys([*sites[0], *sites[1]], D))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in dictionary.named_parameters():
            parameter.normal_(generator=generator).mul_(0.5)
            if "threshold" in name:
                parameter.abs_()
    return dictionary.eval()


def same(before: Dictionary, after: Dictionary) -> None:
    shape = (4, 9, D) if not before.per_token else (64, *([] if len(before.reads) == 1 else [len(before.reads)]), D)
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(1))
    one, other = before.frozen()(x, x), after(x, x)
    assert torch.equal(one.acts.dense() != 0, other.acts.dense() != 0)
    torch.testing.assert_close(other.acts.dense(), one.acts.dense(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(other.recon, one.recon, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", sorted(path.name for path in GOLDEN.iterdir()))
def test_what_is_read_is_written_as_the_same_dictionary(name: str, tmp_path: Path) -> None:
    choices = {"folded": "yes"} if "folded" in name else {}
    done = formats.convert(GOLDEN / name, tmp_path / "out", "llamascopium", **choices)
    assert done.comparison.is_same
    if done.receipt.lost:
        assert "acts_scale" in " ".join(done.receipt.lost)
        return
    written = tmp_path / "out" / "config.json"
    before, after = (json.loads(path.read_text()) for path in (GOLDEN / name / "config.json", written))
    for key in ("sae_type", "expansion_factor", "hook_point_in", "hook_points", "n_qk_heads", "n_ctx"):
        assert before.get(key) == after.get(key)


@pytest.mark.parametrize(
    ("wiring", "function", "sites"),
    [
        ({"kind": "autoencoder"}, {"kind": "relu"}, ONE),
        ({"kind": "autoencoder", "unit_norm": False}, {"kind": "topk", "k": 4}, (RESID[0][:1],) * 2),
        ({"kind": "autoencoder", "unit_norm": False, "glu": True}, {"kind": "relu"}, (RESID[0][:1],) * 2),
        ({"kind": "autoencoder", "scale_by_decoder_norm": True}, {"kind": "jumprelu"}, ONE),
        ({"kind": "autoencoder"}, {"kind": "gated"}, ONE),
        ({"kind": "crosscoder", "gate": "per_site"}, {"kind": "topk", "k": 4}, RESID),
        ({"kind": "crosscoder", "gate": "per_site"}, {"kind": "jumprelu"}, RESID),
        ({"kind": "crosscoder"}, {"kind": "relu"}, RESID),
        ({"kind": "cross_layer"}, {"kind": "topk", "k": 4}, MLPS),
        ({"kind": "cross_layer"}, {"kind": "layer_topk", "k": 9}, MLPS),
        ({"kind": "cross_layer"}, {"kind": "jumprelu"}, MLPS),
        ({"kind": "cross_layer", "scale_by_decoder_norm": False}, {"kind": "relu"}, MLPS),
        ({"kind": "molt", "n_features": 9, "ranks": [[1, 4], [2, 3], [3, 2]]}, {"kind": "jumprelu"}, ONE),
        (LORSA, {"kind": "topk", "k": 4}, ATTN),
        (LORSA | {"attention": {"d_head": 4, "scale": 2.0, "norm": "rms", "bias": True}}, {"kind": "relu"}, ATTN),
        (
            LORSA | {"attention": ATTENTION | {"rotary": {"frequencies": [1.0], "pairs": "adjacent"}}},
            {"kind": "relu"},
            ATTN,
        ),
    ],
)
@pytest.mark.parametrize("is_folded", [False, True])
def test_our_own(wiring: dict, function: dict, sites: tuple, is_folded: bool, tmp_path: Path) -> None:
    dictionary = made(wiring, function, sites)
    if is_folded:
        scales = [torch.linspace(0.5, 2.0, len(some)) for some in sites]
        dictionary.fold_(scales[0], scales[0] if sites[0] == sites[1] else scales[1])
    receipt = write(dictionary, tmp_path, About(model="EleutherAI/pythia-70m"))
    assert set(receipt.files) == {path.name for path in tmp_path.iterdir()}
    opened = formats.open(tmp_path)
    same(dictionary, opened.dictionary())
    assert opened.about.model == "EleutherAI/pythia-70m"
    config = json.loads((tmp_path / "config.json").read_text())
    if config["norm_activation"] == "inference":
        assert not opened.about.warnings
        scale = dictionary.acts_scale
        are_ones = scale is None or set(scale if isinstance(scale, tuple) else (scale,)) == {1.0}
        assert bool(receipt.lost) == (not are_ones)


def test_selection_by_norms_keeps_the_units_of_training(tmp_path: Path) -> None:
    dictionary = made({"kind": "cross_layer"}, {"kind": "topk", "k": 4}, MLPS)
    dictionary.fold_(torch.tensor([0.5, 1.0, 2.0]), torch.tensor([4.0, 0.3, 1.0]))
    write(dictionary, tmp_path, About())
    assert json.loads((tmp_path / "config.json").read_text())["norm_activation"] == "dataset-wise"
    held = load_file(tmp_path / "sae_weights.safetensors")
    norm = held["dataset_average_activation_norm.blocks.0.hook_mlp_out"].item()
    assert norm == pytest.approx(math.sqrt(D) / 4.0)


def test_features_of_a_molt_are_renumbered_where_ranks_fall(tmp_path: Path) -> None:
    sites, wiring = ONE, {"kind": "molt", "n_features": 6, "groups": 2, "rank": 4}
    dictionary = made(wiring, {"kind": "topk", "k": 2}, sites)
    receipt = write(dictionary, tmp_path, About())
    assert "numbers of features" in " ".join(receipt.lost)
    back, x = formats.load(tmp_path), torch.randn(32, D)
    torch.testing.assert_close(back(x, x).recon, dictionary(x, x).recon, rtol=1e-5, atol=1e-5)
    order = [2, 3, 4, 5, 0, 1]
    torch.testing.assert_close(back.encode(x).dense(), dictionary.encode(x).dense()[:, order])


def test_factors_of_expansion_give_the_number_of_features_again(tmp_path: Path) -> None:
    for n in (23, 29, 41):
        dictionary = made({"kind": "autoencoder", "n_features": n}, {"kind": "relu"})
        write(dictionary, tmp_path, About())
        assert int(D * json.loads((tmp_path / "config.json").read_text())["expansion_factor"]) == n
        assert formats.open(tmp_path).n_features == n


@pytest.mark.parametrize(
    ("wiring", "function", "sites", "reason"),
    [
        ({"kind": "autoencoder", "skip": True}, {"kind": "relu"}, ONE, "has no skip"),
        ({"kind": "autoencoder"}, {"kind": "group_max", "k": 4}, ONE, "relu, jumprelu and topk, not group_max"),
        ({"kind": "autoencoder"}, {"kind": "abs_topk", "k": 4}, ONE, "relu, jumprelu and topk, not abs_topk"),
        ({"kind": "autoencoder"}, {"kind": "topk", "k": 4, "relu": False}, ONE, "a topk without its ReLU"),
        ({"kind": "autoencoder", "normalizer": "layer_norm"}, {"kind": "relu"}, (RESID[0][:1],) * 2, "no layer_norm"),
        ({"kind": "autoencoder", "normalizer": "token_norm"}, {"kind": "relu"}, ONE, "no token_norm"),
        ({"kind": "crosscoder"}, {"kind": "topk", "k": 4}, RESID, "at all of them at once"),
        ({"kind": "crosscoder"}, {"kind": "relu"}, (RESID[0][:1], RESID[0][1:]), "writes what it reads"),
        ({"kind": "cross_layer", "skip": True}, {"kind": "relu"}, MLPS, "has no skip"),
        ({"kind": "autoencoder"}, {"kind": "relu"}, ((Site(1, "attn_in"),), ONE[1]), "names sites as TransformerLens"),
        (LORSA | {"attention": ATTENTION | {"softcap": 5.0}}, {"kind": "relu"}, ATTN, "lacks a softcap"),
        (LORSA | {"attention": ATTENTION | {"norm": "layer"}}, {"kind": "relu"}, ATTN, "lacks layer norms of queries"),
        (LORSA | {"attention": ATTENTION | {"window": 4}}, {"kind": "relu"}, ATTN, "lacks a window"),
        (
            LORSA | {"attention": ATTENTION | {"rotary": {"frequencies": [0.7, 0.2]}}},
            {"kind": "relu"},
            ATTN,
            "powers of one whole number",
        ),
    ],
)
def test_what_it_cannot_hold(wiring: dict, function: dict, sites: tuple, reason: str, tmp_path: Path) -> None:
    with pytest.raises(CannotHold, match=reason):
        write(made(wiring, function, sites), tmp_path, About())
    assert not list(tmp_path.iterdir())


def test_two_widths_and_features_that_write_nothing(tmp_path: Path) -> None:
    recipe = Recipe.from_dict(
        {"wiring": {"kind": "autoencoder", "n_features": F}, "function": {"kind": "topk", "k": 4}}
    )
    wide = recipe.build(*ONE, {ONE[0][0]: D, ONE[1][0]: D + 1})
    with pytest.raises(CannotHold, match=r"one width, found \[8, 9\]"):
        write(wide, tmp_path, About())
    silent = made({"kind": "autoencoder", "scale_by_decoder_norm": True}, {"kind": "topk", "k": 4})
    with torch.no_grad():
        silent.get_parameter("W_dec")[3] = 0
    with pytest.raises(CannotHold, match="1 features write nothing"):
        write(silent, tmp_path, About())


def test_a_token_norm_of_an_autoencoder(tmp_path: Path) -> None:
    wiring = {"kind": "autoencoder", "normalizer": "token_norm", "unit_norm": False}
    dictionary = made(wiring, {"kind": "topk", "k": 4}, (RESID[0][:1],) * 2)
    write(dictionary, tmp_path, About())
    assert json.loads((tmp_path / "config.json").read_text())["norm_activation"] == "token-wise"
    same(dictionary, formats.load(tmp_path))
