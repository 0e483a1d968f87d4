"""Writing a dictionary for SAELens 6, as one of its inference classes.

    relu -> standard              jumprelu, batch_topk -> jumprelu      topk, variational -> topk      gated -> gated
    abs_topk -> abstopk           positive pursuits -> matching_pursuit
    transcoders: relu -> transcoder, jumprelu, batch_topk and gated -> jumprelu_transcoder, with a skip as _skip_

Scaled scores have no class but topk, so thresholds are divided by decoder norms and topk is written with the norms
folded in. A mean-subtracted residual is said by ``center_writing_weights`` in an autoencoder's metadata, which is how
SAELens loads the language model, and folded into the encoder of a transcoder. Version, sites and model are always in
the metadata: without a version SAELens would take the file for an older one, and drop them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from monoscope.core.errors import CannotHold, SiteError
from monoscope.core.io import write_text
from monoscope.core.site import Site
from monoscope.core.tensors import write_tensors
from monoscope.dictionaries import Dictionary, MatchingPursuit
from monoscope.dictionaries.normalizer import EPS
from monoscope.dictionaries.variants.pursuit import Pursuit
from monoscope.formats.foreign_sites import model_of
from monoscope.formats.layout import Receipt
from monoscope.formats.lens_models import lens_model
from monoscope.formats.opened import About
from monoscope.formats.plain import Plain, plain
from monoscope.formats.saelens_reading import CONFIG, NORMALIZERS, WEIGHTS
from monoscope.models.names import lens_name, module_name

VERSION = "6.54.12"  # the one that what is written here is checked against
ARCHITECTURES = {"relu": "standard", "topk": "topk", "abs_topk": "abstopk", "jumprelu": "jumprelu", "gated": "gated"}
TRANSCODERS = {"relu": "transcoder", "jumprelu": "jumprelu_transcoder"}
SKIPS = {"relu": "skip_transcoder", "jumprelu": "jumprelu_skip_transcoder"}


def write(dictionary: Dictionary, directory: Path, about: About) -> Receipt:
    """The two files. Raises CannotHold for what no class of SAELens computes."""
    receipt = Receipt("saelens", [CONFIG, WEIGHTS])
    if isinstance(dictionary, MatchingPursuit) and dictionary.config.kind == "matching_pursuit":
        config, tensors = _pursuit(dictionary, receipt)
    else:
        auto = plain(dictionary, "SAELens")
        receipt.steps, receipt.lost = auto.steps, auto.lost
        is_transcoder = auto.reads != auto.writes or auto.W_skip is not None
        config, tensors = _transcoder(auto) if is_transcoder else _autoencoder(auto)
    metadata = _metadata(dictionary, about, receipt)
    if config.pop("centered_residual", False):
        metadata["model_from_pretrained_kwargs"] = {"center_writing_weights": True}
    common: dict[str, Any] = {
        "d_in": dictionary.widths[dictionary.reads[0]],
        "d_sae": dictionary.n_features,
        "dtype": "float32",
        "device": "cpu",
        "normalize_activations": "none",
        "reshape_activations": "hook_z" if dictionary.reads[0].kind == "z" else "none",
    }
    write_tensors(directory / WEIGHTS, tensors)
    write_text(directory / CONFIG, json.dumps(common | config | {"metadata": metadata}, indent=1))
    return receipt


def _linear(auto: Plain) -> dict[str, Tensor]:
    """The tensors of every class but matching pursuit."""
    tensors = {"W_enc": auto.W_enc, "W_dec": auto.W_dec, "b_dec": auto.b_dec}
    if auto.gate is None:
        tensors["b_enc"] = auto.b_enc
    else:
        tensors |= dict(zip(("b_gate", "b_mag", "r_mag"), auto.gate, strict=True))
    if auto.threshold is not None:
        tensors["threshold"] = auto.threshold
    if auto.W_skip is not None:
        tensors["W_skip"] = auto.W_skip.T
        auto.steps.append("W_skip transposed")
    return tensors


def _autoencoder(auto: Plain) -> tuple[dict[str, Any], dict[str, Tensor]]:
    if auto.keeps_negative:
        raise CannotHold("SAELens has a ReLU behind its topk", nearest=("circuit_tracer", "native"))
    if auto.function not in ARCHITECTURES:
        raise CannotHold(f"SAELens has no class for {auto.function}", nearest=("sparsify", "native"))
    config: dict[str, Any] = {
        "architecture": ARCHITECTURES[auto.function],
        "apply_b_dec_to_input": auto.is_centered,
    }
    if auto.function in ("topk", "abs_topk"):
        config |= {"k": auto.k, "rescale_acts_by_decoder_norm": False}
    return config | _normalizer(auto), _linear(auto)


def _normalizer(auto: Plain) -> dict[str, Any]:
    """What is done to each token, in SAELens' words."""
    if auto.normalizer == "center":
        auto.steps.append("the mean taken off each token is said by center_writing_weights, in how the model is loaded")
        return {"centered_residual": True}
    if auto.normalizer == "none":
        return {}
    if auto.normalizer == "layer_norm" and abs(auto.normalizer_eps / EPS - 1) > 1e-6:
        raise CannotHold(f"SAELens' layer_norm has eps {EPS:g}, and this one {auto.normalizer_eps:g}", ["native"])
    return {"normalize_activations": {ours: theirs for theirs, ours in NORMALIZERS.items()}[auto.normalizer]}


def _transcoder(auto: Plain) -> tuple[dict[str, Any], dict[str, Tensor]]:
    auto.freeze_gate()
    auto.uncenter()
    auto.fold_mean()
    by_function = TRANSCODERS if auto.W_skip is None else SKIPS
    if auto.function not in by_function:
        what = "transcoders" if auto.W_skip is None else "dictionaries with a skip"
        near = ("sparsify", "circuit_tracer", "native") if auto.function == "topk" else ("native",)
        raise CannotHold(f"SAELens has {what} of relu and jumprelu alone, and none of {auto.function}", near)
    config: dict[str, Any] = {
        "architecture": by_function[auto.function],
        "apply_b_dec_to_input": False,
        "d_out": auto.W_dec.shape[1],
    }
    return config | _normalizer(auto), _linear(auto)


def _pursuit(dictionary: MatchingPursuit, receipt: Receipt) -> tuple[dict[str, Any], dict[str, Tensor]]:
    function = dictionary.activation
    assert isinstance(function, Pursuit)
    if function.config.method != "mp" or not function.config.positive:
        raise CannotHold("SAELens' matching pursuit chooses by the largest positive correlation alone", ["native"])
    rows = dictionary.W_dec.detach().cpu().float()
    norms = rows.norm(dim=1, keepdim=True)
    if not ((norms - 1).abs() < 1e-4).all():
        receipt.steps.append("rows of W_dec scaled to norm 1, which its matching pursuit takes for granted")
        receipt.lost.append("the units of activations: they are multiplied by the norms that rows had")
    bias = torch.zeros(rows.shape[1]) if dictionary.b_dec is None else dictionary.b_dec.detach().cpu().float()
    config = {
        "architecture": "matching_pursuit",
        "apply_b_dec_to_input": dictionary.b_dec is not None,
        "residual_threshold": function.config.tolerance,
        "max_iterations": function.k,
        "stop_on_duplicate_support": function.config.until_repeat,
    }
    return config, {"W_dec": rows / norms, "b_dec": bias}


def _metadata(dictionary: Dictionary, about: About, receipt: Receipt) -> dict[str, Any]:
    """Who wrote it for which version, and what SAELens needs to read the same activations."""
    model = model_of(dictionary, about)
    metadata: dict[str, Any] = {
        "sae_lens_version": VERSION,
        "sae_lens_training_version": None,
        "model_name": None if model is None else lens_model(model),
        "model_class_name": "HookedTransformer",
        "hook_head_index": None,
        "context_size": about.context_length,
        "prepend_bos": about.prepend_bos,
        "dataset_path": about.trained.get("text"),
        "seqpos_slice": [about.skip_first, None] if about.skip_first else None,
    }
    if "l0" in about.published:
        metadata["l0"] = about.published["l0"]
    sites: Mapping[str, Site] = {"hook_name": dictionary.reads[0]}
    if dictionary.reads != dictionary.writes or getattr(dictionary.config, "skip", False):
        sites = {**sites, "hook_name_out": dictionary.writes[0]}
    for key, site in sites.items():
        try:
            metadata[key] = lens_name(site, model)
            if re.search(r"\.mlp\.hook_(in|out)$", metadata[key]):
                receipt.lost.append(
                    f"{key} is {metadata[key]}, circuit-tracer's name: TransformerLens has no such hook"
                )
        except SiteError as error:
            receipt.lost.append(f"{key}: {error}")
            metadata[key] = None
        try:
            metadata[f"hf_{key}"] = module_name(site, model)
        except SiteError:
            continue
    if model is None:
        receipt.lost.append("the language model's name, which nothing says")
    return metadata
