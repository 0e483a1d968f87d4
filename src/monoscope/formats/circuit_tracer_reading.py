"""Reading the files of circuit-tracer, which ``formats.circuit_tracer`` describes: a layer of a set, and a CLT."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from monoscope.core.errors import ConfigError, DataError, SiteError
from monoscope.core.site import Site
from monoscope.formats.folder import Folder
from monoscope.formats.lazy import Lazy
from monoscope.formats.opened import About, Opened, check_shape, check_tensors
from monoscope.models.names import translate

NAME = "circuit_tracer"
CONFIG = "config.yaml"
LAYER = re.compile(r"(?:(.+)/)?layer_(\d+)\.safetensors")
ENCODER = re.compile(r"(?:(.+)/)?W_enc_(\d+)\.safetensors")
NEEDED = {"W_enc", "b_enc", "W_dec", "b_dec"}
SET, CLT = "transcoder_set", "cross_layer_transcoder"
INPUTS = {"resid_mid": "hook_resid_mid", "mlp_in": "mlp.hook_in", "mlp_normalized": "ln2.hook_normalized"}
"""Choices of what is read where no config.yaml says it, and the library's names for them."""

Config = Mapping[str, Any]
"""What config.yaml says; empty without one."""

Choices = Mapping[str, str]


def transcoder(folder: Folder, file: str, layer: int, config: Config, choices: Choices) -> Opened:
    """One layer of a set."""
    where, tensors = folder.where(file), folder.tensors(file)
    threshold, counts = "activation_function.threshold", {"k", "activation_function.k"}
    check_tensors(tensors, NEEDED, {"W_skip", threshold} | counts, where)
    check_shape(tensors["W_enc"], (None, None), "W_enc", where)
    n, d = tensors["W_enc"].shape
    for name, shape in {"b_enc": (n,), "W_dec": (n, d), "b_dec": (d,), "W_skip": (d, d), threshold: (n,)}.items():
        if name in tensors:
            check_shape(tensors[name], shape, name, where)
    stored = next((int(tensors[name].read()) for name in sorted(counts & tensors.keys())), None)
    function = _function(folder, config, threshold in tensors, stored)
    found = {
        "W_enc": tensors["W_enc"].t(),
        "b_enc": tensors["b_enc"],
        "W_dec": tensors["W_dec"],
        "b_dec": tensors["b_dec"],
    }
    if "W_skip" in tensors:
        found["W_skip"] = tensors["W_skip"].t()
    if threshold in tensors:
        found["activation.threshold"] = _thresholds(tensors[threshold], threshold, where)
    reads, writes, about = _sites(folder, [layer], config, choices, (file,))
    about = _with_relu(about, function, config)
    wiring = {"kind": "autoencoder", "n_features": n, "skip": "W_skip" in tensors}
    wiring |= {"center": False, "unit_norm": False}
    table = {"wiring": wiring, "function": function, "reads": reads, "writes": writes}
    table["widths"] = dict.fromkeys([*reads, *writes], d)
    return Opened(NAME, table, found, about)


def _function(folder: Folder, config: Config, has_threshold: bool, stored: int | None) -> dict[str, Any]:
    where, said = folder.where(CONFIG), config.get("activation")
    if said not in (None, "relu", "topk") and not (has_threshold and said in ("jumprelu", "jump_relu")):
        raise ConfigError(f"{where} has activation {said!r}; known: relu, topk")
    if said == "topk" or (said is None and stored is not None):
        k = config.get("k", stored)
        if has_threshold:
            raise DataError(f"{where} says activation topk, and {folder.name} holds thresholds: one of them is wrong")
        if type(k) is not int or k < 1 or (stored is not None and stored != k):
            tensor = "" if stored is None else f", and the files hold k = {stored}"
            raise ConfigError(f"{where} has activation topk and k = {k!r}{tensor}, where one number is expected")
        return {"kind": "topk", "k": k, "relu": False}
    if has_threshold:
        if said == "relu":
            raise DataError(f"{where} says activation relu, and {folder.name} holds thresholds: one of them is wrong")
        return {"kind": "jumprelu"}
    return {"kind": "relu"}


def cross_layer(folder: Folder, config: Config, choices: Choices) -> Opened:
    """A CLT."""
    prefix = str(config.get("subfolder") or "")
    encoders = numbered(folder, ENCODER, prefix)
    layers = len(encoders)
    missing = [i for i in range(layers) if i not in encoders]
    if missing or not encoders:
        raise DataError(f"{folder.name} lacks W_enc_{missing[0] if missing else 0}.safetensors")
    decoders = [name.replace("W_enc_", "W_dec_") for _, name in sorted(encoders.items())]
    found: dict[str, Lazy] = {"norm_scale": Lazy.of(torch.ones(layers))}
    biases, thresholds, n, d = [], [], 0, 0
    for i in range(layers):
        where, tensors = folder.where(encoders[i]), folder.tensors(encoders[i])
        check_tensors(tensors, {f"{name}_{i}" for name in ("W_enc", "b_enc", "b_dec")}, {f"threshold_{i}"}, where)
        if i == 0:
            check_shape(tensors["W_enc_0"], (None, None), "W_enc_0", where)
            n, d = tensors["W_enc_0"].shape
        shapes = {"W_enc": (n, d), "b_enc": (n,), "b_dec": (d,), "threshold": (n,)}
        for name, shape in shapes.items():
            if f"{name}_{i}" in tensors:
                check_shape(tensors[f"{name}_{i}"], shape, f"{name}_{i}", where)
        check_tensors(folder.tensors(decoders[i]), {f"W_dec_{i}"}, set(), folder.where(decoders[i]))
        decoder = folder.tensor(decoders[i], f"W_dec_{i}")
        check_shape(decoder, (n, layers - i, d), f"W_dec_{i}", folder.where(decoders[i]))
        found |= {
            f"W_enc.{i}": tensors[f"W_enc_{i}"].t(),
            f"b_enc.{i}": tensors[f"b_enc_{i}"],
            f"W_dec.{i}": decoder,
        }
        biases.append(tensors[f"b_dec_{i}"])
        if f"threshold_{i}" in tensors:
            thresholds.append(_thresholds(tensors[f"threshold_{i}"], f"threshold_{i}", where))
    found["b_dec"] = Lazy.stack(biases)
    if thresholds and len(thresholds) < layers:
        raise DataError(f"{folder.name} has thresholds for {len(thresholds)} of {layers} layers")
    if thresholds:
        found["activation.threshold"] = Lazy.stack(thresholds).reshape(layers * n)
    if config.get("activation") not in (None, "relu", "jumprelu", "jump_relu"):
        raise ConfigError(f"{folder.where(CONFIG)} has activation {config['activation']!r}; a CLT is read with relu")
    files = (*(encoders[i] for i in range(layers)), *decoders)
    function = {"kind": "jumprelu" if thresholds else "relu"}
    reads, writes, about = _sites(folder, range(layers), config, choices, files)
    about = _with_relu(about, function, config)
    table = {
        "wiring": {"kind": "cross_layer", "n_features": n, "scale_by_decoder_norm": False},
        "function": function,
        "reads": reads,
        "writes": writes,
        "widths": dict.fromkeys([*reads, *writes], d),
    }
    return Opened(NAME, table, found, about)


def _sites(
    folder: Folder, layers: Sequence[int], config: Config, choices: Choices, files: tuple[str, ...]
) -> tuple[list[str], list[str], About]:
    """What is read and written in each layer, and what is known beside."""
    model, chosen = config.get("model_name"), {}
    hooks = [config.get("feature_input_hook"), config.get("feature_output_hook")]
    if "reads" in choices:
        hooks[0], chosen = INPUTS[choices["reads"]], {"reads": choices["reads"]}
    if hooks[0] is None:
        raise DataError(
            f"{folder.name} has no {CONFIG} that says which hook its features read, and three are in use: say "
            f"reads={' or '.join(INPUTS)}"
        )
    inferred = ["the first position takes no part in attribution, as the library zeroes it"]
    if hooks[1] is None:
        hooks[1] = "mlp.hook_out" if hooks[0] == "mlp.hook_in" else "hook_mlp_out"
        inferred.append(f"{hooks[1]} is written, as goes with {hooks[0]}")
    sites: list[list[str]] = []
    notes: list[str] = []
    for hook in hooks:
        try:
            meant = [translate(f"blocks.{layer}.{hook}", str(model) if model else None) for layer in layers]
        except SiteError as error:
            raise DataError(f"{folder.where(CONFIG)} names a hook that is no site: {error}") from None
        sites.append([str(Site.parse(each.site)) for each in meant])
        notes += [note for note in meant[0].notes if note not in notes]
    chat = re.search(r"gemma-3.*-it\b", str(model or "")) is not None
    about = About(
        entry=files[0] if len(files) == 1 else "",
        files=((CONFIG,) if config else ()) + files,
        model=None if model in (None, "", "unknown") else str(model),
        library="circuit-tracer",
        skip_first=4 if chat else 1,
        origins={"reads": CONFIG, "writes": CONFIG, "function": f"{CONFIG} and the names of tensors"},
        inferred=(*inferred, *notes),
        chosen=chosen,
    )
    return sites[0], sites[1], about


def _with_relu(about: About, function: Mapping[str, Any], config: Mapping[str, Any]) -> About:
    """With the note that a ReLU is nowhere said, where it is not."""
    if function["kind"] != "relu" or "activation" in config:
        return about
    words = "ReLU, as there are no thresholds, and no activation is named"
    return dataclasses.replace(about, inferred=(*about.inferred, words))


def numbered(folder: Folder, pattern: re.Pattern[str], prefix: str) -> dict[int, str]:
    """Files of a pattern by their number, in a directory."""
    found: dict[int, str] = {}
    for name in folder.names():
        if (match := pattern.fullmatch(name)) and (match[1] or "") == prefix:
            found[int(match[2])] = name
    return found


def listed(config: Mapping[str, Any], folder: Folder) -> list[str]:
    """Files that config.yaml lists, in the order of layers."""
    listed = config["transcoders"]
    if not isinstance(listed, list) or not listed or not all(isinstance(name, str) for name in listed):
        raise ConfigError(f"{folder.where(CONFIG)} has transcoders that are no list of files")
    return listed


def _thresholds(lazy: Lazy, name: str, where: str) -> Lazy:
    """In fp32. Raises DataError when read, for a negative one: the library keeps negative pre-activations above it."""

    def checked(values: Tensor) -> Tensor:
        if (values < 0).any():
            raise DataError(
                f"{name} in {where} holds {int((values < 0).sum())} thresholds below 0, above which negative "
                "activations would pass; a JumpReLU has none"
            )
        return values.float()

    return lazy.elementwise(checked, torch.float32)
