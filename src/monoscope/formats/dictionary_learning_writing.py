"""Writing a dictionary for dictionary_learning, as one of its classes.

    relu -> AutoEncoder, or AutoEncoderNew where not centered        gated -> GatedAutoEncoder
    topk, variational -> AutoEncoderTopK                             batch_topk -> BatchTopKSAE
    jumprelu, and batch_topk with scaled scores -> JumpReluAutoEncoder, its centering folded into b_enc

The classes that are centered get a bias for an input without b_dec. Biases and thresholds are in raw units or in those
of training, as they are in the dictionary: dictionary_learning computes the same either way.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from monoscope.core.errors import CannotHold
from monoscope.core.io import write_text
from monoscope.dictionaries import Dictionary
from monoscope.formats.foreign_sites import model_of
from monoscope.formats.layout import Receipt
from monoscope.formats.opened import About
from monoscope.formats.plain import Plain, plain

LIBRARY, CONFIG, WEIGHTS = "dictionary_learning", "config.json", "ae.pt"
NAMED = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "mlp_in")
"""Kinds of sites that a submodule_name says."""


def write(dictionary: Dictionary, directory: Path, about: About) -> Receipt:
    """The two files, for the class that computes the same. Raises CannotHold for what none computes."""
    auto = plain(dictionary, LIBRARY)
    if auto.reads != auto.writes or auto.W_skip is not None:
        what = "a skip" if auto.W_skip is not None else "other sites to write than to read"
        raise CannotHold(f"the classes of {LIBRARY} have no {what}", nearest=("saelens", "sparsify", "native"))
    if auto.normalizer != "none":
        raise CannotHold(
            f"{LIBRARY} reads activations as they are, and this dictionary normalizes them ({auto.normalizer})",
            nearest=("saelens", "native"),
        )
    if auto.function in ("abs_topk", "group_max") or auto.keeps_negative:
        what = {"abs_topk": "selects by magnitude", "group_max": "selects in groups"}.get(
            auto.function, "keeps negatives"
        )
        raise CannotHold(f"no class of {LIBRARY} {what}", nearest=("sparsify", "saelens", "native"))
    kind, tensors = _written(auto)
    config, lost = _config(auto, kind, model_of(dictionary, about), about)
    if "k" in tensors:
        config["trainer"]["k"] = int(tensors["k"])
    torch.save(tensors, directory / WEIGHTS)
    write_text(directory / CONFIG, json.dumps(config, indent=1))
    return Receipt(LIBRARY, [CONFIG, WEIGHTS], auto.steps, [*auto.lost, *lost])


def _written(auto: Plain) -> tuple[str, dict[str, Tensor]]:
    """The class, and its state dict."""
    linear = {
        "encoder.weight": auto.W_enc.T.contiguous(),
        "encoder.bias": auto.b_enc,
        "decoder.weight": auto.W_dec.T.contiguous(),
    }
    if auto.function == "gated":
        auto.center()
        assert auto.gate is not None
        b_gate, b_mag, r = auto.gate
        del linear["encoder.bias"]
        gate = {"decoder_bias": auto.b_dec, "r_mag": r, "gate_bias": b_gate, "mag_bias": b_mag}
        auto.steps.append("W_enc and W_dec transposed")
        return "GatedAutoEncoder", linear | gate
    if auto.function == "relu":
        auto.steps.append("W_enc and W_dec transposed")
        if auto.is_centered:
            return "AutoEncoder", linear | {"bias": auto.b_dec}
        return "AutoEncoderNew", linear | {"decoder.bias": auto.b_dec}
    threshold, k = auto.threshold, auto.k if auto.batch_k is None else max(1, round(auto.batch_k))
    if auto.function == "topk" or auto.batch_k is not None:
        auto.center()
        auto.steps.append("W_enc and W_dec transposed")
        one = torch.tensor(-1.0) if threshold is None else threshold[0].clone()
        held = {"encoder.bias": auto.b_enc, "b_dec": auto.b_dec, "threshold": one, "k": torch.tensor(k).int()}
        return ("AutoEncoderTopK" if threshold is None else "BatchTopKSAE"), linear | held
    assert threshold is not None
    auto.uncenter()
    arrays = {"W_enc": auto.W_enc.contiguous(), "b_enc": auto.b_enc, "W_dec": auto.W_dec, "b_dec": auto.b_dec}
    return "JumpReluAutoEncoder", arrays | {"threshold": threshold}


def _config(auto: Plain, kind: str, model: str | None, about: About) -> tuple[dict[str, Any], list[str]]:
    """What ``config.json`` says, and what it cannot."""
    site, lost = auto.reads, []
    if site.module is not None:
        name = site.module
        if site.kind == "in":
            lost.append(f"that {site} is an input")
    elif site.layer is None or site.stack or site.kind not in NAMED:
        name = str(site)
        lost.append(f"the site {site}, for which {CONFIG} has no name that tools know")
    else:
        name = f"{site.kind}_layer_{site.layer}"
    trainer: dict[str, Any] = {
        "dict_class": kind,
        "trainer_class": None,
        "activation_dim": auto.W_enc.shape[0],
        "dict_size": auto.n_features,
        "layer": site.layer,
        "lm_name": model,
        "submodule_name": name,
    }
    if kind == "AutoEncoder" and not auto.has_unit_rows():
        lost.append(
            "activations under AutoEncoder.from_pretrained, which scales rows to norm 1 unless normalize_decoder=False"
        )
    buffer = {"ctx_len": about.context_length} if about.context_length else None
    return {"trainer": trainer} | ({"buffer": buffer} if buffer else {}), lost
