"""Gemma Scope 2: JumpReLU autoencoders, transcoders and cross-layer transcoders of Gemma 3.

    acts = relu(pre) * 1[pre > threshold],   pre = x @ w_enc + b_enc
    recon = acts @ w_dec + b_dec (+ x @ affine_skip_connection)

On disk as here: ``w_enc [d, F]``, ``w_dec [F, d_out]``; no centering. The skip is ``x @ A``, not ``x @ A.T``: where
d_out is d, nothing but the reconstruction tells. ``config.json`` names the sites (``hf_hook_point_in``) and is trusted:
transcoders read ``pre_feedforward_layernorm.output``, after the norm's gain, unlike Gemma Scope 1. Where it is missing,
the name of the directory says what it is:

    resid_post     the stream after the layer       mlp_out            what the MLP adds, after the norm behind it
    attn_out       the heads side by side (z)       transcoder, clt    from what the MLP reads to what it adds

A CLT is one file for each layer, ``params_layer_{l}.safetensors``, with ``w_dec [F, L, d]`` of which targets t < l are
unused, ``b_dec`` of written layer l, and a skip from what layer l reads to what it writes. ``examples.safetensors`` is
not read.

Source: ``google/gemma-scope-2-{270m,1b,4b,12b,27b}-{pt,it}``, and the release's tutorial for the skip.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from monoscope.core.errors import ConfigError, DataError, MismatchError
from monoscope.core.site import Site
from monoscope.formats.folder import Folder
from monoscope.formats.foreign_sites import site_named
from monoscope.formats.layout import Layout
from monoscope.formats.lazy import Lazy
from monoscope.formats.opened import About, Opened, check_keys, check_shape, check_tensors
from monoscope.formats.published import (
    above_zero,
    autoencoder,
    by_numbers,
    called,
    check_width,
    has_rounded,
    inside,
    matrix,
    named,
)

KEYS = {
    "architecture",
    "model_name",
    "hf_hook_point_in",
    "hf_hook_point_out",
    "width",
    "l0",
    "affine_connection",
    "type",
}
CANONICAL = {"w_enc": "W_enc", "w_dec": "W_dec", "b_enc": "b_enc", "b_dec": "b_dec", "threshold": "threshold"}
SKIP = "affine_skip_connection"
SITES = {"resid_post": "resid_post", "attn_out": "z", "mlp_out": "mlp_out"}
DIRECTORY = r"(?:^|/)(resid_post|attn_out|mlp_out|transcoder|clt|crosscoder)(?:_all)?(?:/|$)"
LAYER_FILE = r"(?:(.*)/)?params_layer_(\d+)\.safetensors"
MOST_LAYERS = 1000


class GemmaScope2(Layout):
    """Directories with ``params.safetensors``, or with ``params_layer_{l}.safetensors``."""

    name: ClassVar[str] = "gemma_scope_2"

    def evidence(self, folder: Folder) -> str | None:
        """The file is there, and its encoder is called ``w_enc``."""
        for entry in self.entries(folder)[:1]:
            file = inside(entry, "params.safetensors")
            file = file if folder.has(file) else inside(entry, "params_layer_0.safetensors")
            if folder.has(file) and "w_enc" in folder.tensors(file):
                return f"{file.rpartition('/')[2]} with w_enc"
        return None

    def entries(self, folder: Folder) -> list[str]:
        """One for each directory, whatever it holds the parameters of."""
        return sorted({*_with_params(folder), *_layer_files(folder)}, key=by_numbers)

    def read(self, folder: Folder, entry: str = "", choices: Mapping[str, str] | None = None) -> Opened:
        """One autoencoder, transcoder or cross-layer transcoder."""
        text = called(folder, entry)
        config = _config(folder, entry)
        kind = _kind(config, text, folder.name)
        files = _layer_files(folder).get(entry)
        if (kind == "clt") != (files is not None):
            raise MismatchError(
                f"{folder.name} is called {kind}, and {'has' if files else 'lacks'} a file for each layer"
            )
        if kind == "clt":
            assert files is not None
            return _cross_layer(self.name, folder, entry, config, files, text)
        return _single(self.name, folder, entry, config, kind, text)


def _with_params(folder: Folder) -> list[str]:
    return [name.removesuffix("params.safetensors").rstrip("/") for name in folder.names() if _is_params(name)]


def _is_params(name: str) -> bool:
    return f"/{name}".endswith("/params.safetensors")


def _layer_files(folder: Folder) -> dict[str, dict[int, str]]:
    """Per directory, its files by layer."""
    found: dict[str, dict[int, str]] = {}
    for name in folder.names():
        if match := named(f"^{LAYER_FILE}$", name):
            found.setdefault(match[1] or "", {})[int(match[2])] = name
    return found


def _config(folder: Folder, entry: str) -> dict[str, Any]:
    """The configuration, empty where there is none."""
    name = inside(entry, "config.json")
    if not folder.has(name):
        return {}
    config, where = folder.json(name), folder.where(name)
    check_keys(config, KEYS, where)
    if config.get("architecture", "jump_relu") != "jump_relu":
        raise ConfigError(f"{where}: architecture is {config['architecture']!r}, and only 'jump_relu' is read")
    return config


def _kind(config: Mapping[str, Any], text: str, name: str) -> str:
    """What it is: by the name of its directory, or else by its configuration."""
    directory = named(DIRECTORY, text)
    kind = directory[1].lower() if directory else str(config.get("type", ""))
    kind = "clt" if config.get("type") == "clt" else kind
    if kind == "crosscoder" or config.get("type") == "crosscoder":
        raise DataError(f"{name} is a crosscoder of Gemma Scope 2, whose tensors are not known well enough to be read")
    if not kind and "hf_hook_point_in" not in config:
        raise ConfigError(
            f"{name} has no config.json and is not called as the release calls it (resid_post, attn_out, mlp_out, "
            "transcoder or clt, then layer_L_width_W_l0_S), so what it reads is not known"
        )
    return kind


def _single(layout: str, folder: Folder, entry: str, config: Mapping[str, Any], kind: str, text: str) -> Opened:
    file = inside(entry, "params.safetensors")
    where = folder.where(file)
    found = folder.tensors(file)
    check_tensors(found, set(CANONICAL), {SKIP}, where)
    tensors = {CANONICAL[name]: lazy for name, lazy in found.items() if name in CANONICAL}
    tensors["threshold"] = above_zero(tensors["threshold"])
    if _has_skip(config, found, text, where):
        tensors["W_skip"] = found[SKIP]
    n_features = matrix(tensors, "W_enc", where).shape[1]
    _check_sizes(config, n_features, text, where)
    about = _about(folder, entry, config, (file,), text)
    if "hf_hook_point_in" in config:
        points = [str(config["hf_hook_point_in"]), str(config.get("hf_hook_point_out", config["hf_hook_point_in"]))]
        settings = folder.where(inside(entry, "config.json"))
        sites = tuple(str(site_named(point, about["model"] or "gemma-3-1b", settings)[0]) for point in points)
        origin, inferred = "hf_hook_point_in, hf_hook_point_out", []
    else:
        layer = named(r"layer_(\d+)", text)
        if layer is None:
            raise ConfigError(
                f"{folder.name} has no config.json, and its name says no layer_L, so where it reads is not known"
            )
        one = f"{int(layer[1])}.{SITES.get(kind, '')}"
        sites = (one, one) if kind in SITES else (f"{int(layer[1])}.mlp_in", f"{int(layer[1])}.mlp_out")
        origin, inferred = (
            "the name of the directory",
            [f"no config.json: {kind} of layer {layer[1]}, by its directory"],
        )
    _check_layer(text, sites[0], where)
    made = About(**about, origins={"reads, writes": origin}, inferred=tuple(inferred))
    return autoencoder(layout, (sites[0], sites[1]), tensors, {"kind": "jumprelu"}, made, where=where)


def _cross_layer(
    layout: str, folder: Folder, entry: str, config: Mapping[str, Any], files: Mapping[int, str], text: str
) -> Opened:
    n_layers = len(files)
    if sorted(files) != list(range(n_layers)) or n_layers > MOST_LAYERS:
        absent = sorted(set(range(max(files) + 1)) - set(files))[:5]
        raise DataError(
            f"{folder.name} lacks params_layer_{absent} of a cross-layer transcoder up to layer {max(files)}"
        )
    layers = [folder.tensors(files[layer]) for layer in range(n_layers)]
    wheres = [folder.where(files[layer]) for layer in range(n_layers)]
    for found, where in zip(layers, wheres, strict=True):
        check_tensors(found, set(CANONICAL), {SKIP}, where)
    first = layers[0]
    if first["w_enc"].ndim != 2 or first["w_dec"].ndim != 3:
        raise DataError(f"{wheres[0]}: w_enc is {list(first['w_enc'].shape)} and w_dec {list(first['w_dec'].shape)}")
    (d, n_features), d_out = first["w_enc"].shape, first["w_dec"].shape[-1]
    has_skip = _has_skip(config, first, text, wheres[0])
    shapes: dict[str, tuple[int | None, ...]] = {
        "w_enc": (d, n_features),
        "w_dec": (n_features, n_layers, d_out),
        "b_enc": (n_features,),
        "threshold": (n_features,),
        "b_dec": (d_out,),
        SKIP: (d, d_out),
    }
    for found, where in zip(layers, wheres, strict=True):
        if (SKIP in found) != has_skip:
            raise DataError(f"{where} {'has' if SKIP in found else 'lacks'} a skip, unlike {wheres[0]}")
        for name, lazy in found.items():
            check_shape(lazy, shapes[name], name, where)
    _check_sizes(config, n_features, text, wheres[0])
    tensors: dict[str, Lazy] = {}
    for layer, found in enumerate(layers):
        tensors[f"W_enc.{layer}"] = found["w_enc"]
        tensors[f"b_enc.{layer}"] = found["b_enc"].cast(torch.float32)
        tensors[f"W_dec.{layer}"] = found["w_dec"].narrow(1, layer, n_layers)
    tensors["b_dec"] = Lazy.stack([found["b_dec"].cast(torch.float32) for found in layers])
    thresholds = Lazy.stack([above_zero(found["threshold"]) for found in layers])
    tensors["activation.threshold"] = thresholds.reshape(n_layers * n_features)
    tensors["norm_scale"] = Lazy.of(torch.ones(n_layers))
    if has_skip:
        tensors["W_skip"] = Lazy.stack([found[SKIP] for found in layers])
    about = _about(folder, entry, config, tuple(files[layer] for layer in range(n_layers)), text)
    kinds, origin = _kinds_of_layers(config, about["model"], folder.where(inside(entry, "config.json")))
    reads, writes = ([f"{layer}.{kind}" for layer in range(n_layers)] for kind in kinds)
    table = {
        "reads": reads,
        "writes": writes,
        "widths": dict.fromkeys(reads, d) | dict.fromkeys(writes, d_out),
        "wiring": {
            "kind": "cross_layer",
            "n_features": n_features,
            "skip": has_skip,
            "scale_by_decoder_norm": False,
        },
        "function": {"kind": "jumprelu"},
    }
    inferred = (
        ()
        if origin.startswith("hf_")
        else (f"layer l reads l.{kinds[0]} and writes l.{kinds[1]}: the release's table",)
    )
    return Opened(layout, table, tensors, About(**about, origins={"reads, writes": origin}, inferred=inferred))


def _kinds_of_layers(config: Mapping[str, Any], model: str | None, where: str) -> tuple[tuple[str, str], str]:
    """Kinds of the sites that every layer reads and writes, and what says so."""
    points = [config.get(f"hf_hook_point_{end}") for end in ("in", "out")]
    if points == [None, None]:
        return ("mlp_in", "mlp_out"), "the release's table"
    kinds: list[str] = []
    for point in points:
        every = [point] if isinstance(point, str) else point
        if not isinstance(every, list) or not every:
            raise ConfigError(f"{where}: the sites of a cross-layer transcoder are paths of modules, found {point!r}")
        paths = [str(path).replace("{layer}", "0").replace("{}", "0").replace("*", "0") for path in every]
        found = {_layer_kind(path, model, where) for path in paths}
        if len(found) != 1:
            raise ConfigError(f"{where}: layers read or write different places: {', '.join(sorted(found))}")
        kinds += found
    return (kinds[0], kinds[1]), "hf_hook_point_in, hf_hook_point_out"


def _layer_kind(path: str, model: str | None, where: str) -> str:
    site, _ = site_named(path, model or "gemma-3-1b", where)
    if site.layer is None:
        raise DataError(f"{where}: {path!r} is not a site of every layer")
    return site.kind


def _has_skip(config: Mapping[str, Any], found: Mapping[str, Lazy], text: str, where: str) -> bool:
    """Whether there is a skip. Raises MismatchError where the configuration, or the name, says otherwise."""
    has = SKIP in found
    claims = {"config.json": config.get("affine_connection")}
    if named(r"_affine(?:/|$)", text):
        claims["the name of its directory"] = True
    for source, claim in claims.items():
        if claim is not None and bool(claim) != has:
            raise MismatchError(f"{where} {'has' if has else 'lacks'} {SKIP}, and {source} says otherwise")
    return has


def _check_sizes(config: Mapping[str, Any], n_features: int, text: str, where: str) -> None:
    """Raises MismatchError where there are not as many features as said."""
    if "width" in config and config["width"] != n_features:
        raise MismatchError(f"{where} has {n_features:,} features, and config.json says {config['width']}")
    if width := named(r"width_(\d+[km])", text):
        check_width(n_features, width[1], has_rounded, where)


def _check_layer(text: str, site: str, where: str) -> None:
    """Raises MismatchError where the name says another layer than the configuration."""
    layer, own = named(r"layer_(\d+)_width", text), Site.parse(site).layer
    if layer and own is not None and int(layer[1]) != own:
        raise MismatchError(f"{where} reads {site}, and its directory is called {layer[0]}: one of them is wrong")


def _about(folder: Folder, entry: str, config: Mapping[str, Any], files: tuple[str, ...], text: str) -> dict[str, Any]:
    model = config.get("model_name")
    if isinstance(model, str):
        model = model.replace("-v3", "-3")
    elif repository := named(r"gemma-scope-2-(270m|1b|4b|12b|27b)-(pt|it)", text):
        model = f"google/gemma-3-{repository[1].lower()}-{repository[2].lower()}"
    l0 = config.get("l0")
    settings = inside(entry, "config.json")
    return {
        "where": folder.name,
        "entry": entry,
        "files": (*((settings,) if config else ()), *files),
        "model": model if isinstance(model, str) else None,
        "library": "Gemma Scope 2",
        "published": {"l0": float(l0)} if isinstance(l0, int | float) and not isinstance(l0, bool) else {},
    }
