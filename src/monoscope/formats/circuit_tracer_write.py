"""Writing for circuit-tracer: one transcoder a layer as a set, or a CLT; layers count from 0 and leave none out.

    relu -> no threshold      jumprelu, batch_topk, gated -> threshold      topk -> activation and k in config.yaml

Scaled scores become thresholds divided by norms, or norms folded into weights; centering goes into the encoder's bias.
The library's TopK has no ReLU, so a topk is the same only where at least k are positive. Its CLTs know ReLU and
thresholds alone, and no skip. A set that it saves itself holds k as a tensor, which its own reader then refuses: k is
in config.yaml here.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from monoscope.core.errors import CannotHold, SiteError
from monoscope.core.io import write_text
from monoscope.core.site import Site
from monoscope.core.tensors import write_tensors
from monoscope.dictionaries import CrossLayer, Dictionary
from monoscope.formats.circuit_tracer_reading import CLT, CONFIG, NAME, SET
from monoscope.formats.foreign_sites import model_of
from monoscope.formats.layout import Receipt
from monoscope.formats.opened import About
from monoscope.formats.plain import Plain, plain
from monoscope.models.names import lens_name, translate


def write(dictionary: Dictionary, directory: Path, about: About) -> Receipt:
    """A CLT, or a set of one layer. Raises CannotHold for what neither is."""
    if isinstance(dictionary, CrossLayer):
        return _write_cross_layer(dictionary, directory, about)
    return write_set([dictionary], directory, about)


@torch.no_grad()
def write_set(dictionaries: Sequence[Dictionary], directory: Path, about: About) -> Receipt:
    """A set, of one dictionary for each layer in order. Raises CannotHold where they do not make one."""
    receipt, layers = Receipt(NAME), [_layer(dictionary) for dictionary in dictionaries]
    hooks = _hooks([each.reads for each in layers], [each.writes for each in layers], dictionaries[0], about)
    _check_alike(layers)
    for layer, each in enumerate(layers):
        tensors = {"W_enc": each.W_enc.T, "b_enc": each.b_enc, "W_dec": each.W_dec, "b_dec": each.b_dec}
        if each.W_skip is not None:
            tensors["W_skip"] = each.W_skip.T
        if each.threshold is not None:
            tensors["activation_function.threshold"] = each.threshold
        receipt.files.append(f"layer_{layer}.safetensors")
        write_tensors(directory / receipt.files[-1], tensors)
    first = layers[0]
    receipt.steps += ["W_enc transposed", *["W_skip transposed"] * (first.W_skip is not None)]
    function = {"activation": "topk", "k": first.k} if first.function == "topk" else {}
    if first.function == "topk" and not first.keeps_negative:
        receipt.lost.append(
            f"the ReLU of topk: where fewer than {first.k} pre-activations are positive, negative ones are kept there"
        )
    for each in layers:
        receipt.steps += [step for step in each.steps if step not in receipt.steps]
        receipt.lost += [loss for loss in each.lost if loss not in receipt.lost]
    _write_config(receipt, directory, SET, hooks, model_of(dictionaries[0], about), **function)
    return receipt


def _layer(dictionary: Dictionary) -> Plain:
    """An autoencoder as the library computes one. Raises CannotHold for functions and normalizers it lacks."""
    made = plain(dictionary, NAME)
    made.fold_mean()
    if made.normalizer != "none":
        raise CannotHold(
            f"circuit-tracer normalizes nothing, and this takes a {made.normalizer}", ["native", "saelens"]
        )
    made.uncenter()
    made.freeze_gate()
    if made.function not in ("relu", "jumprelu", "topk"):
        raise CannotHold(
            f"circuit-tracer has ReLU, JumpReLU and TopK, not {made.function}",
            ["thresholds in its place (monoscope.training.to_jumprelu)"]
            if made.function == "group_max"
            else ["native"],
        )
    d_in, d_out = made.W_enc.shape[0], made.W_dec.shape[1]
    if d_in != d_out:
        raise CannotHold(f"circuit-tracer reads and writes one width, found {d_in} and {d_out}", ["native"])
    return made


def _check_alike(layers: Sequence[Plain]) -> None:
    kinds = {(each.function, each.k, each.keeps_negative, each.W_skip is not None, each.W_enc.shape) for each in layers}
    if len(kinds) > 1:
        each = "; ".join(
            f"layer {i}: {layer.function}{f' of {layer.k}' if layer.k else ''}, {layer.n_features} features of width "
            f"{layer.W_enc.shape[0]}{', with a skip' if layer.W_skip is not None else ''}"
            for i, layer in enumerate(layers)
        )
        raise CannotHold(
            f"the layers of a set have one function, one number of features, and skips all or none: {each}"
        )


def _hooks(reads: Sequence[Site], writes: Sequence[Site], first: Dictionary, about: About) -> tuple[str, str]:
    """The hooks that are read and written in every layer. Raises CannotHold unless layers count from 0 without gaps."""
    model = model_of(first, about)
    names = []
    for sites in (reads, writes):
        found = []
        for layer, site in enumerate(sites):
            try:
                name = lens_name(site, model)
            except SiteError as error:
                raise CannotHold(f"circuit-tracer names sites as TransformerLens does: {error}", ["native"]) from None
            prefix = f"blocks.{layer}."
            if not name.startswith(prefix):
                raise CannotHold(
                    f"circuit-tracer takes one dictionary for each layer from 0 on, and number {layer} here is at "
                    f"{site}; write all layers together",
                    ["saelens", "sparsify"],
                )
            found.append(name.removeprefix(prefix))
        if len(set(found)) > 1:
            raise CannotHold(f"circuit-tracer reads and writes the same hook in every layer, found {', '.join(found)}")
        names.append(found[0])
    beside = "mlp.hook_out"  # as the library names the output where it names the input mlp.hook_in
    if names == ["mlp.hook_in", "hook_mlp_out"] and translate(f"blocks.0.{beside}", model).site == writes[0]:
        names[1] = beside
    return names[0], names[1]


@torch.no_grad()
def _write_cross_layer(dictionary: CrossLayer, directory: Path, about: About) -> Receipt:
    receipt, frozen = Receipt(NAME), dictionary.frozen()
    assert isinstance(frozen, CrossLayer)
    if frozen.W_skip is not None:
        raise CannotHold("circuit-tracer never looks for the skip of a CLT", ["native"])
    if frozen.d_in != frozen.d_out:
        raise CannotHold(
            f"circuit-tracer reads and writes one width, found {frozen.d_in} and {frozen.d_out}", ["native"]
        )
    was, function = (str(each.activation.config.to_dict()["kind"]) for each in (dictionary, frozen))
    if function not in ("relu", "jumprelu"):
        raise CannotHold(
            f"a CLT of circuit-tracer has ReLU or thresholds, and this has {function}",
            ["thresholds in its place (monoscope.training.to_jumprelu)", "llamascopium"],
        )
    if was != function:
        receipt.steps.append(f"{was} frozen as {function}, as it computes at inference")
    hooks = _hooks(frozen.reads, frozen.writes, dictionary, about)
    weights = {name: tensor.detach().cpu().float().clone() for name, tensor in frozen.state_dict().items()}
    thresholds = _thresholds(frozen, weights, receipt) if function == "jumprelu" else None
    layers, n = frozen.n_layers, frozen.n_per_layer
    for i in range(layers):
        encoder = {f"W_enc_{i}": weights[f"W_enc.{i}"].T, f"b_enc_{i}": weights[f"b_enc.{i}"]}
        encoder[f"b_dec_{i}"] = weights["b_dec"][i]
        if thresholds is not None:
            encoder[f"threshold_{i}"] = thresholds[i * n : (i + 1) * n]
        receipt.files += [f"W_enc_{i}.safetensors", f"W_dec_{i}.safetensors"]
        write_tensors(directory / receipt.files[-2], encoder)
        write_tensors(directory / receipt.files[-1], {f"W_dec_{i}": weights[f"W_dec.{i}"]})
    receipt.steps.append("W_enc transposed")
    scale = frozen.acts_scale
    if scale is not None and set(scale if isinstance(scale, tuple) else (scale,)) != {1.0}:
        receipt.lost.append(
            f"acts_scale {scale}: circuit-tracer keeps no such number, and activations stay as they are"
        )
    _write_config(receipt, directory, CLT, hooks, model_of(dictionary, about))
    return receipt


def _thresholds(dictionary: CrossLayer, weights: dict[str, Tensor], receipt: Receipt) -> Tensor:
    """Thresholds of pre-activations, where scores are scaled; a feature that writes nothing never fires."""
    threshold, norm = weights["activation.threshold"], dictionary.score_norm()
    if norm is None:
        return threshold
    norm = norm.cpu().float()
    is_dead = norm == 0
    for layer, dead in enumerate(is_dead.chunk(dictionary.n_layers)):
        weights[f"W_enc.{layer}"][:, dead], weights[f"b_enc.{layer}"][dead] = 0, 0
    receipt.steps.append("threshold divided by the decoder norm")
    return threshold / norm.masked_fill(is_dead, 1)


def _write_config(
    receipt: Receipt, directory: Path, kind: str, hooks: tuple[str, str], model: str | None, **function: Any
) -> None:
    config = {"model_name": model or "unknown", "model_kind": kind}
    config |= {"feature_input_hook": hooks[0], "feature_output_hook": hooks[1], "scan": "monoscope"} | function
    if model is None:
        receipt.lost.append("model_name is 'unknown': nothing says which language model this was trained on")
    write_text(directory / CONFIG, yaml.safe_dump(config, sort_keys=False))
    receipt.files.append(CONFIG)
