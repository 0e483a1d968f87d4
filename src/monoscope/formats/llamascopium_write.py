"""Writing for llamascopium, as the sae_type that a wiring is there.

Weights are in raw units and config.json says "inference", so that nothing is scaled. Where a selection ranks by decoder
norms in the units of training, as of crosscoders and CLTs with ``norm_scale``, the scales are taken out of the weights
again and stored as average norms, and config.json says "dataset-wise". Centering goes into the encoder's bias.

Features of a MOLT are numbered from the smallest rank up there: other orders are renumbered.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from monoscope.core.errors import CannotHold
from monoscope.core.io import write_text
from monoscope.core.site import Site
from monoscope.core.tensors import write_tensors
from monoscope.dictionaries import Autoencoder, Crosscoder, CrossLayer, Dictionary, Lorsa, Molt
from monoscope.formats.foreign_sites import model_of
from monoscope.formats.layout import Receipt
from monoscope.formats.llamascopium_draft import CONFIG, WEIGHTS, Draft
from monoscope.formats.llamascopium_found import THRESHOLD
from monoscope.formats.llamascopium_lorsa import attention_settings
from monoscope.formats.opened import About

MODEL, NORM = "lm_config.json", "dataset_average_activation_norm."
LENGTH = 1024
"""Context that the buffers of a Lorsa are made for, where nothing says how long its text was."""


@torch.no_grad()
def write(dictionary: Dictionary, directory: Path, about: About) -> Receipt:
    """config.json and the weights. Raises CannotHold for what no type of the library computes."""
    frozen = dictionary.frozen()
    kind = str(frozen.config_dict()["wiring"]["kind"])
    if kind not in WIRINGS:
        raise CannotHold(f"llamascopium has no dictionary of kind {kind}", ["native"])
    copied = {name: tensor.detach().cpu().float().clone() for name, tensor in frozen.state_dict().items()}
    draft = Draft(frozen, about, model_of(dictionary, about), copied)
    was, now = (str(each.activation.config.to_dict()["kind"]) for each in (dictionary, frozen))
    if was != now:
        draft.receipt.steps.append(f"{was} frozen as {now}, as it computes at inference")
    norm = frozen.score_norm()
    if norm is not None and (silent := int((norm == 0).sum())):
        raise CannotHold(f"llamascopium divides by decoder norms, and {silent} features write nothing", ["native"])
    settings, tensors = WIRINGS[kind](draft)
    scale = frozen.acts_scale
    if scale is not None and not draft.scales and set(scale if isinstance(scale, tuple) else (scale,)) != {1.0}:
        draft.receipt.lost.append(
            f"acts_scale {scale}: norm_activation 'inference' keeps no such number, and activations stay as they are"
        )
    d = draft.d
    config: dict[str, Any] = {
        "d_model": d,
        "expansion_factor": _factor(settings.pop("n_features"), d),
        "use_decoder_bias": True,
        "norm_activation": "dataset-wise" if draft.scales else "inference",
    }
    tensors |= {NORM + hook: torch.tensor(math.sqrt(d) / scale) for hook, scale in draft.scales.items()}
    write_tensors(directory / WEIGHTS, tensors, {"version": "2.0.0b34"})
    write_text(directory / CONFIG, json.dumps(config | settings, indent=4) + "\n")
    _write_model(draft, directory)
    return draft.receipt


def _factor(n: int, d: int) -> float:
    """``n / d``, rounded so that ``int(d * factor)`` is n again."""
    factor = n / d
    return factor if int(d * factor) == n else math.nextafter(factor, math.inf)


def _write_model(draft: Draft, directory: Path) -> None:
    if draft.model is None:
        return
    table: dict[str, Any] = {"model_name": draft.model}
    if draft.about.prepend_bos is not None:
        table["prepend_bos"] = draft.about.prepend_bos
    if draft.about.context_length is not None:
        table["max_length"] = draft.about.context_length
    write_text(directory / MODEL, json.dumps(table, indent=4) + "\n")
    draft.receipt.files.append(MODEL)


def _autoencoder(draft: Draft) -> tuple[dict[str, Any], dict[str, Tensor]]:
    frozen, weights = draft.frozen, draft.weights
    assert isinstance(frozen, Autoencoder)
    config = frozen.config
    if config.skip:
        raise CannotHold("llamascopium has no skip", ["saelens", "circuit_tracer"])
    if config.normalizer not in ("none", "token_norm") or (
        config.normalizer != "none" and frozen.reads != frozen.writes
    ):
        raise CannotHold(f"llamascopium has no {config.normalizer} of what such a dictionary reads", ["native"])
    if config.center:
        for encoder, bias in (("W_enc", "b_enc"), *[("W_glu", "b_glu")] * config.glu):
            shift = weights["b_dec"].double() @ weights[encoder].double()
            weights[bias] = (weights[bias].double() - shift).float()
        draft.receipt.steps.append("centering folded into the encoder's bias")
    settings, tensors = draft.function(frozen.n_features)
    tensors |= {"W_E": weights["W_enc"], "b_E": weights["b_enc"], "W_D": weights["W_dec"], "b_D": weights["b_dec"]}
    if config.glu:
        tensors |= {"W_E_glu": weights["W_glu"], "b_E_glu": weights["b_glu"]}
    if config.normalizer == "token_norm":
        settings["norm_activation"] = "token-wise"
    settings |= _one_site(draft) | {"use_glu_encoder": config.glu}
    return {"sae_type": "sae"} | settings | _scores(config.scale_by_decoder_norm), tensors


def _one_site(draft: Draft) -> dict[str, Any]:
    reads, writes = draft.frozen.reads[0], draft.frozen.writes[0]
    return {
        "hook_point_in": draft.hook(reads),
        "hook_point_out": draft.hook(writes),
        "n_features": draft.frozen.n_features,
    }


def _scores(are_scaled: bool) -> dict[str, Any]:
    return {"sparsity_include_decoder_norm": are_scaled}


def _crosscoder(draft: Draft) -> tuple[dict[str, Any], dict[str, Tensor]]:
    frozen, weights = draft.frozen, draft.weights
    assert isinstance(frozen, Crosscoder)
    if frozen.reads != frozen.writes:
        raise CannotHold("a crosscoder of llamascopium writes what it reads", ["native"])
    settings, tensors = draft.function(frozen.n_features)
    if settings["act_fn"] != "relu" and not frozen.is_gated:
        raise CannotHold(
            "a crosscoder of llamascopium lets a feature fire at each site by its norm there (gate = 'per_site'), and "
            "this one at all of them at once",
            ["native"],
        )
    hooks = _labels(draft, frozen.reads)
    s = weights["norm_scale"]
    if settings["act_fn"] != "relu":
        _unfold(draft, dict(zip(hooks, s.tolist(), strict=True)))
    else:
        s = torch.ones_like(s)
    sites = len(hooks)
    bias = torch.zeros(sites, frozen.n_features)
    bias[0] = weights["b_enc"]
    draft.receipt.steps.append("the encoder's bias stored at the first site, as their sum alone counts")
    tensors |= {
        "W_E": weights["W_enc"] / s[:, None, None],
        "b_E": bias,
        "W_D": weights["W_dec"] * s[:, None, None],
        "b_D": weights["b_dec"] * s[:, None],
    }
    settings |= {"hook_points": hooks, "n_features": frozen.n_features}
    return {"sae_type": "crosscoder"} | settings | _scores(True), tensors


def _labels(draft: Draft, sites: tuple[Site, ...]) -> list[str]:
    """Hook points; of several models at one site their labels, as the library has it."""
    if not any(site.model for site in sites):
        return draft.hooks(sites)
    places = {site.of("") for site in sites}
    if len(places) > 1 or len({site.model for site in sites}) < len(sites) or not all(site.model for site in sites):
        raise CannotHold("a crosscoder of llamascopium reads several models at one site, each by its label", ["native"])
    place = str(places.pop())
    draft.receipt.choices["site"] = place
    draft.receipt.lost.append(f"the site, {place}, which is the same in all models: their labels are hook points")
    return [site.model for site in sites]


def _unfold(draft: Draft, scales: dict[str, float]) -> None:
    """Say dataset-wise, where scores were taken in scaled units."""
    if set(scales.values()) == {1.0}:
        return
    draft.scales = scales
    draft.receipt.steps.append("activation scales taken out of the weights and stored as average norms")


def _cross_layer(draft: Draft) -> tuple[dict[str, Any], dict[str, Tensor]]:
    frozen, weights = draft.frozen, draft.weights
    assert isinstance(frozen, CrossLayer)
    if frozen.W_skip is not None:
        raise CannotHold("llamascopium has no skip", ["native"])
    settings, tensors = draft.function(frozen.n_per_layer)
    layers, is_scaled = frozen.n_layers, frozen.config.scale_by_decoder_norm
    reads, writes = draft.hooks(frozen.reads), draft.hooks(frozen.writes)
    s, o = torch.ones(layers), weights["norm_scale"]
    if settings["act_fn"] == "jumprelu" or not is_scaled:
        o = torch.ones(layers)
    if settings["act_fn"] == "jumprelu":
        tensors[THRESHOLD] = tensors[THRESHOLD].view(layers, -1)
        if is_scaled:
            norm = frozen.decoder_norm().cpu().float().view(layers, -1)
            tensors[THRESHOLD] = tensors[THRESHOLD] - norm.log()
            draft.receipt.steps.append("threshold divided by the decoder norm")
            is_scaled = False
    elif is_scaled and settings["act_fn"] != "relu":
        scale = frozen.acts_scale
        s = torch.tensor(scale if isinstance(scale, tuple) else [scale or 1.0] * layers)
        _unfold(draft, dict(zip(reads, s.tolist(), strict=True)) | dict(zip(writes, o.tolist(), strict=True)))
        if not draft.scales:
            s, o = torch.ones(layers), torch.ones(layers)
    else:
        o = torch.ones(layers)
    tensors |= {
        "W_E": torch.stack([weights[f"W_enc.{i}"] / s[i] for i in range(layers)]),
        "b_E": torch.stack([weights[f"b_enc.{i}"] for i in range(layers)]),
    }
    for t in range(layers):
        tensors[f"W_D.{t}"] = torch.stack([weights[f"W_dec.{i}"][:, t - i] for i in range(t + 1)]) * o[t]
        tensors[f"b_D.{t}"] = weights["b_dec"][t] * o[t]
    draft.receipt.steps.append("decoders grouped by the layer they write")
    settings |= {"hook_points_in": reads, "hook_points_out": writes, "n_features": frozen.n_per_layer}
    return {"sae_type": "clt"} | settings | _scores(is_scaled), tensors


def _molt(draft: Draft) -> tuple[dict[str, Any], dict[str, Tensor]]:
    frozen, weights = draft.frozen, draft.weights
    assert isinstance(frozen, Molt)
    groups = sorted(range(len(frozen.A)), key=lambda g: frozen.A[g].shape[2])
    order = torch.cat([torch.arange(frozen.groups[g].start, frozen.groups[g].stop) for g in groups])
    if groups != list(range(len(groups))):
        draft.receipt.lost.append("the numbers of features: they count from the smallest rank up")
    settings, tensors = draft.function(frozen.n_features)
    if THRESHOLD in tensors:
        tensors[THRESHOLD] = tensors[THRESHOLD][order]
    tensors |= {"W_E": weights["W_enc"][:, order], "b_E": weights["b_enc"][order], "b_D": weights["b_dec"]}
    counts = {}
    for g in groups:
        n, _, rank = frozen.A[g].shape
        counts[str(rank)] = n
        tensors[f"V_matrices.{rank}"] = weights[f"A.{g}"].mT.contiguous()
        tensors[f"U_matrices.{rank}"] = weights[f"B.{g}"].mT.contiguous()
    settings |= _one_site(draft) | {"rank_counts": counts}
    return {"sae_type": "molt"} | settings | _scores(frozen.config.scale_by_decoder_norm), tensors


def _lorsa(draft: Draft) -> tuple[dict[str, Any], dict[str, Tensor]]:
    frozen, weights = draft.frozen, draft.weights
    assert isinstance(frozen, Lorsa)
    settings, tensors = draft.function(frozen.n_features)
    length = draft.about.context_length or LENGTH
    found, buffers = attention_settings(frozen.form, length)
    heads = (frozen.n_heads, frozen.form.d_head)
    tensors |= buffers | {
        "W_Q": weights["W_Q"],
        "W_K": weights["W_K"],
        "b_Q": weights.get("b_Q", torch.zeros(heads)),
        "b_K": weights.get("b_K", torch.zeros(heads)),
        "W_V": weights["W_enc"].T,
        "b_V": weights["b_enc"],
        "W_O": weights["W_dec"],
        "b_D": weights["b_dec"],
    }
    if frozen.form.norm == "rms":
        tensors |= {"ln_q.w": weights["q_norm"], "ln_k.w": weights["k_norm"]}
    settings |= _one_site(draft) | found | {"n_qk_heads": frozen.n_heads, "n_ctx": length}
    return {"sae_type": "lorsa"} | settings | _scores(frozen.config.scale_by_decoder_norm), tensors


WIRINGS: dict[str, Callable[[Draft], tuple[dict[str, Any], dict[str, Tensor]]]] = {
    "autoencoder": _autoencoder,
    "crosscoder": _crosscoder,
    "cross_layer": _cross_layer,
    "molt": _molt,
    "lorsa": _lorsa,
}
