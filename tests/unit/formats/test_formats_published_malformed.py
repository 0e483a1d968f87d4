"""Published sets that are broken: every error is a named one, whatever is cut short or replaced."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from published_files import arrays, canonical, write_json, write_npz, write_pt, write_safetensors

from monoscope import formats
from monoscope.core.errors import UserError

HOOK = "blocks.4.hook_resid_post"


def torch_named(encoder: str, decoder: str) -> dict[str, np.ndarray]:
    w = canonical(8, 64)
    named = {f"{encoder}.weight": w["W_enc"].T, f"{encoder}.bias": w["b_enc"]}
    named |= {f"{decoder}.weight": w["W_dec"].T, f"{decoder}.bias": w["b_dec"]}
    return {name: np.ascontiguousarray(value) for name, value in named.items()}


def gemma_scope(path: Path) -> Path:
    write_npz(path / "mine-res" / "layer_1" / "params.npz", canonical(8, 64))
    return path / "mine-res" / "layer_1" / "params.npz"


def gemma_scope_2(path: Path) -> Path:
    w = {name.lower(): value for name, value in canonical(8, 64).items()}
    write_safetensors(path / "t" / "params.safetensors", w | {"affine_skip_connection": np.eye(8, dtype=np.float32)})
    config = {"architecture": "jump_relu", "type": "transcoder", "model_name": "google/gemma-3-1b-pt", "width": 64}
    config |= {"l0": 10, "affine_connection": True, "hf_hook_point_in": "model.layers.5.output"}
    write_json(path / "t" / "config.json", config)
    return path / "t" / "params.safetensors"


def clt(path: Path) -> Path:
    for layer in range(2):
        w = {name.lower(): value for name, value in canonical(8, 16, seed=layer).items()}
        w["w_dec"] = arrays({"w": (16, 2, 8)}, layer)["w"]
        write_safetensors(path / "clt" / "a" / f"params_layer_{layer}.safetensors", w)
    place = "model.layers.{}.pre_feedforward_layernorm.output"
    write_json(path / "clt" / "a" / "config.json", {"hf_hook_point_in": place, "hf_hook_point_out": place})
    return path / "clt" / "a" / "params_layer_1.safetensors"


def llama_scope(path: Path) -> Path:
    write_safetensors(path / "x" / "checkpoints" / "final.safetensors", torch_named("encoder", "decoder"))
    config = {"d_model": 8, "d_sae": 64, "hook_point_in": HOOK, "hook_point_out": HOOK, "jump_relu_threshold": 0.1}
    config |= {"norm_activation": "dataset-wise", "dataset_average_activation_norm": {"in": 1.0, "out": 1.0}}
    write_json(path / "x" / "hyperparams.json", config)
    return path / "x" / "checkpoints" / "final.safetensors"


def r1_distill(path: Path) -> Path:
    own = {"log_jumprelu_threshold": np.zeros(64, np.float32)}
    own |= {f"dataset_average_activation_norm.{HOOK}": np.ones((), np.float32)}
    write_safetensors(path / "x" / "sae_weights.safetensors", torch_named("encoder", "decoder") | own)
    write_json(path / "x" / "config.json", {"d_model": 8, "hook_point_in": HOOK, "hook_point_out": HOOK})
    return path / "x" / "sae_weights.safetensors"


def qwen_scope(path: Path) -> Path:
    w = canonical(8, 1024)
    del w["threshold"]
    write_pt(path / "SAE-Res-Qwen9-W1K-L0_5" / "layer1.sae.pt", w | {"W_enc": w["W_enc"].T, "W_dec": w["W_dec"].T})
    return path / "SAE-Res-Qwen9-W1K-L0_5" / "layer1.sae.pt"


def openai(path: Path) -> Path:
    w = canonical(8, 64)
    kept = {"pre_bias": w["b_dec"], "latent_bias": w["b_enc"]}
    kept |= {"encoder.weight": w["W_enc"].T, "decoder.weight": w["W_dec"].T}
    write_pt(path / "resid_post_mlp" / "1.pt", kept, activation="TopK", activation_state_dict={"k": 3})
    return path / "resid_post_mlp" / "1.pt"


def goodfire(path: Path) -> Path:
    write_pt(path / "mine-SAE-l3" / "a.pt", torch_named("encoder_linear", "decoder_linear"))
    return path / "mine-SAE-l3" / "a.pt"


def attn_saes(path: Path) -> Path:
    w = canonical(8, 64)
    del w["threshold"]
    write_pt(path / "x" / "a.pt", w)
    config = {"act_name": "blocks.5.attn.hook_z", "act_size": 8, "dict_size": 64}
    write_json(path / "x" / "a_cfg.json", config)
    return path / "x" / "a.pt"


MAKERS: dict[str, tuple[Callable[[Path], Path], dict[str, str]]] = {
    "gemma_scope": (gemma_scope, {"set": "res"}),
    "gemma_scope_2": (gemma_scope_2, {}),
    "gemma_scope_2 clt": (clt, {}),
    "llama_scope": (llama_scope, {}),
    "r1_distill": (r1_distill, {}),
    "qwen_scope": (qwen_scope, {}),
    "openai": (openai, {}),
    "goodfire": (goodfire, {"layer": "3"}),
    "attn_saes": (attn_saes, {}),
}
every_set = pytest.mark.parametrize("name", MAKERS)


@every_set
def test_files_cut_short_are_refused_by_name(name: str, tmp_path: Path) -> None:
    make, choices = MAKERS[name]
    file = make(tmp_path)
    formats.load(file.parent.parent if file.parent.name == "checkpoints" else file.parent, choices=choices)
    whole = file.read_bytes()
    where = file.parent.parent if file.parent.name == "checkpoints" else file.parent
    for share in (0.0, 0.02, 0.3, 0.7, 0.95, 0.999):
        file.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(UserError) as caught:
            formats.load(where, name.split()[0], choices=choices)
        assert file.name in str(caught.value) or "layer" in str(caught.value), caught.value


def refusal(where: Path, layout: str, choices: dict[str, str]) -> str | None:
    """Why a directory is not opened; None if it is. Whatever is no error of the user's is raised."""
    try:
        formats.open(where, layout, **choices).describe()
    except UserError as error:
        return str(error)
    return None


JUNK: list[Any] = [None, "x", "../..", -1, 0, 1e300, 2.5, True, [], ["x"], {}, {"in": "x"}, {"in": None, "out": -1.0}]


@pytest.mark.parametrize("name", ["gemma_scope_2", "gemma_scope_2 clt", "llama_scope", "r1_distill", "attn_saes"])
def test_any_value_of_a_setting_is_understood_or_refused(name: str, tmp_path: Path) -> None:
    make, choices = MAKERS[name]
    where = make(tmp_path).parent
    where = where.parent if where.name == "checkpoints" else where
    (file,) = where.glob("*.json")
    settings = json.loads(file.read_text())
    refused = 0
    for key in [*settings, "surprise"]:
        for value in JUNK:
            file.write_text(json.dumps(settings | {key: value}))
            error = refusal(where, name.split()[0], choices)
            refused += error is not None
            assert error is None or str(where) in error or name.split()[0] in error, error
        file.write_text(json.dumps({other: settings[other] for other in settings if other != key}))
        refusal(where, name.split()[0], choices)
    assert refused > 10
    for text in ("", "[]", "{", "nul", '{"a": ' * 100_000):
        file.write_text(text)
        with pytest.raises(UserError, match=file.name):
            formats.open(where, name.split()[0], **choices)


@every_set
def test_tensors_of_other_shapes_are_refused(name: str, tmp_path: Path) -> None:
    """One axis longer, one number alone, and nothing at all, in place of each tensor."""
    make, choices = MAKERS[name]
    file = make(tmp_path)
    where = file.parent.parent if file.parent.name == "checkpoints" else file.parent
    tensors, more = loaded(file)
    refused = 0
    for key, tensor in tensors.items():
        if key.startswith("dataset_average"):
            continue
        for other in (torch.zeros(*(n + 1 for n in tensor.shape)), torch.zeros(()), torch.zeros(0, 3), tensor[None]):
            saved(file, tensors | {key: other}, more)
            with pytest.raises(UserError):
                formats.load(where, name.split()[0], choices=choices)
            refused += 1
        saved(file, {k: v for k, v in tensors.items() if k != key}, more)
        if key != "affine_skip_connection":
            with pytest.raises(UserError):
                formats.load(where, name.split()[0], choices=choices)
    assert refused >= 16


def loaded(file: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Tensors of a file, and what else it holds."""
    from safetensors.torch import load_file

    match file.suffix:
        case ".npz":
            return {name: torch.from_numpy(value) for name, value in np.load(file).items()}, {}
        case ".safetensors":
            return load_file(file), {}
        case _:
            held = torch.load(file, weights_only=True)
            tensors = {name: value for name, value in held.items() if isinstance(value, torch.Tensor)}
            return tensors, {name: value for name, value in held.items() if name not in tensors}


def saved(file: Path, tensors: dict[str, torch.Tensor], more: dict[str, Any]) -> None:
    plain = {name: tensor.numpy() for name, tensor in tensors.items()}
    match file.suffix:
        case ".npz":
            write_npz(file, plain)
        case ".safetensors":
            write_safetensors(file, plain)
        case _:
            torch.save(tensors | more, file)
