"""dictionary_learning (Marks, Karvonen, Mueller): ``config.json`` and ``ae.pt``; in a run, ``trainer_0`` and so on.

    class                   tensors                                               rule
    AutoEncoder             bias, encoder.weight [F, d], .bias, decoder.weight    max((x - bias) @ W_enc + b_enc, 0)
    AutoEncoderNew          encoder.*, decoder.weight [d, F], decoder.bias        the same, not centered
    GatedAutoEncoder        decoder_bias, encoder.weight, r_mag, gate_bias, mag_bias, decoder.weight     gated, centered
    JumpReluAutoEncoder     W_enc [d, F], b_enc, W_dec [F, d], b_dec, threshold   max(pre 1[pre > threshold], 0)
    AutoEncoderTopK         encoder.*, decoder.weight, b_dec, k, threshold        the k largest of max(pre, 0); centered
    BatchTopKSAE            the same                                  max(pre, 0) 1[pre > threshold]; centered
    MatryoshkaBatchTopKSAE  W_enc, b_enc, W_dec, b_dec, k, threshold, group_sizes     the same; centered

``config.json`` has ``trainer`` (dict_class, activation_dim, dict_size, k, layer, lm_name, submodule_name) and, where it
was written, ``buffer`` (io, ctx_len). Activations are in raw units: normalization in training multiplied biases and
thresholds by the norm at the end.

Traps. threshold is -1 until training has learned one: a plain ReLU, read as 0 with a warning. A run that died leaves
``{step, ae, optimizer, config, norm_factor}`` in ae.pt, whose biases and threshold are still in units of training:
they are multiplied by norm_factor here. Whether a JumpReluAutoEncoder subtracts b_dec is an attribute that no file
keeps: ``center="yes"`` says so. AutoEncoder's own loader scales decoder rows to norm 1 unless told not to; here norms
are as stored, and activations are those of normalize_decoder=False. AutoEncoderTopK may be used with its threshold,
which is not its default. The site stands in submodule_name or in the name of a directory, or nowhere: then
``site="3.mlp_out"``.

Source: dictionary_learning 0.1.0, ``dictionary.py``, ``trainers/*``, ``training.py``. Shapes: d width, F features.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch

from monoscope.core.errors import DataError, nearest
from monoscope.core.site import Site
from monoscope.dictionaries import Dictionary
from monoscope.formats.folder import Folder
from monoscope.formats.foreign_sites import site_named
from monoscope.formats.layout import Layout, Receipt
from monoscope.formats.lazy import Lazy
from monoscope.formats.opened import About, Opened, check_shape, check_tensors

CONFIG, WEIGHTS = "config.json", "ae.pt"

LINEAR = {"encoder.weight", "encoder.bias", "decoder.weight"}
PLAIN = {"W_enc", "b_enc", "W_dec", "b_dec"}
TENSORS: dict[str, tuple[set[str], set[str]]] = {
    "AutoEncoder": (LINEAR | {"bias"}, set()),
    "AutoEncoderNew": (LINEAR | {"decoder.bias"}, set()),
    "GatedAutoEncoder": ({"decoder_bias", "encoder.weight", "r_mag", "gate_bias", "mag_bias", "decoder.weight"}, set()),
    "JumpReluAutoEncoder": (PLAIN | {"threshold"}, set()),
    "AutoEncoderTopK": (LINEAR | {"b_dec"}, {"k", "threshold"}),
    "BatchTopKSAE": (LINEAR | {"b_dec", "threshold"}, {"k"}),
    "MatryoshkaBatchTopKSAE": (PLAIN | {"threshold"}, {"k", "group_sizes"}),
}
"""Tensors of each class: those it needs, and those it may have."""

RENAMED = {"encoder.bias": "b_enc", "bias": "b_dec", "decoder.bias": "b_dec", "decoder_bias": "b_dec"}
RENAMED |= {"gate_bias": "activation.b_gate", "mag_bias": "activation.b_mag", "r_mag": "activation.r"}
UNCENTERED = {"AutoEncoderNew", "JumpReluAutoEncoder"}
IN_UNITS_OF_X = {"b_enc", "b_dec", "threshold", "activation.b_gate", "activation.b_mag"}
SITES = r"(resid|attn|attention|mlp)_(pre|mid|post|out|in)_?layer_?(\d+)"


class DictionaryLearning(Layout):
    """A directory of dictionary_learning, or a run of them."""

    name: ClassVar[str] = "dictionary_learning"
    choices: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "center": ("no", "yes"),
        "dict_class": tuple(TENSORS),
        "site": (),
    }

    def evidence(self, folder: Folder) -> str | None:
        """Both files, and a class in the configuration."""
        entries = self.entries(folder)
        name = f"{entries[0]}/{CONFIG}" if entries and entries[0] != folder.focus else CONFIG
        if not entries or not folder.has(name):
            return None
        trainer = folder.json(name).get("trainer")
        if not isinstance(trainer, dict) or not {"dict_class", "activation_dim", "dict_size"} & trainer.keys():
            return None
        return f"{WEIGHTS}, and {CONFIG} with a trainer" + (
            f" of {kind}" if (kind := trainer.get("dict_class")) else ""
        )

    def entries(self, folder: Folder) -> list[str]:
        """The directory itself, or those of a run; a file that was named, such as one of its checkpoints."""
        names = set(folder.names())
        if folder.focus:
            return [folder.focus] if folder.focus.endswith(".pt") else []
        if CONFIG in names and WEIGHTS in names:
            return [""]
        found = (name.removesuffix("/" + CONFIG) for name in names if name.endswith("/" + CONFIG))
        return sorted(entry for entry in found if f"{entry}/{WEIGHTS}" in names)

    def read(self, folder: Folder, entry: str = "", choices: Mapping[str, str] | None = None) -> Opened:
        """One dictionary; ``center``, ``dict_class`` and ``site`` say what its files do not."""
        chosen, prefix = dict(choices or {}), f"{entry}/" if entry and entry != folder.focus else ""
        weights = folder.focus or prefix + WEIGHTS
        where = folder.where(weights)
        config = folder.json(prefix + CONFIG) if folder.has(prefix + CONFIG) else {}
        trainer, buffer = (config.get(key) or {} for key in ("trainer", "buffer"))
        tensors, factor, notes = _tensors(folder, weights)
        kind = str(chosen.get("dict_class") or trainer.get("dict_class") or _only_class(tensors, where))
        if kind not in TENSORS:
            raise DataError(f"{where}: unknown class; {nearest(kind, TENSORS)}")
        check_tensors(tensors, *TENSORS[kind], where)
        d, n_features = _sizes(tensors, trainer, where)
        k = _k(tensors, trainer, kind, where)
        inferred = [f"{key} is as the tensors say, since no {CONFIG} is there" for key in ("dict_class",) if not config]
        parts = _canonical(tensors, factor, n_features)
        function: dict[str, Any] = {"kind": "gated" if kind == "GatedAutoEncoder" else "relu"}
        threshold = parts.pop("threshold", None)
        if kind == "AutoEncoderTopK":
            function = {"kind": "topk", "k": k}
        elif threshold is not None:
            if not threshold.shape and threshold.read().item() < 0:
                notes.append("threshold is -1, since no batch was seen from which it is learned: a plain ReLU")
            wide = threshold if threshold.shape else threshold.reshape(1).expand(n_features)
            parts["activation.threshold"] = wide.cast(torch.float32).elementwise(lambda part: part.clamp_min(0.0))
            function = {"kind": "jumprelu"}
        center = kind not in UNCENTERED
        if kind == "JumpReluAutoEncoder":
            if "center" not in chosen:
                inferred.append("b_dec is not subtracted from x, which is the default of JumpReluAutoEncoder")
            center = chosen.setdefault("center", "no") == "yes"
        else:
            chosen.pop("center", None)  # the class says it
        site, origin, more = _site(folder, entry, trainer, buffer, chosen)
        wiring = {"kind": "autoencoder", "n_features": n_features, "center": center, "unit_norm": False}
        table = {
            "reads": [str(site)],
            "writes": [str(site)],
            "widths": {str(site): d},
            "wiring": wiring,
            "function": function,
            "acts_scale": 1.0,
        }
        about = About(
            where=folder.name,
            entry=entry,
            files=((prefix + CONFIG,) if config else ()) + (weights,),
            model=trainer.get("lm_name"),
            library=f"dictionary_learning, {kind}",
            context_length=buffer.get("ctx_len"),
            origins={"reads": origin},
            inferred=tuple(inferred),
            warnings=(*notes, *more),
            chosen=chosen,
            trained={
                key: trainer[key]
                for key in ("trainer_class", "lr", "steps", "seed", "k")
                if trainer.get(key) is not None
            },
        )
        return Opened(self.name, table, parts, about)

    def write(self, dictionary: Dictionary, directory: Path, about: About) -> Receipt:
        """The two files, for the class that computes the same; see ``formats.dictionary_learning_writing``."""
        from monoscope.formats.dictionary_learning_writing import write

        return write(dictionary, directory, about)


def _tensors(folder: Folder, name: str) -> tuple[dict[str, Lazy], float, list[str]]:
    """The tensors of a state dict, what those in units of training are to be multiplied by, and notes."""
    held, where = folder.pickled(name), folder.where(name)
    factor, notes = 1.0, []
    if isinstance(held, dict) and isinstance(held.get("ae"), dict):
        notes.append(f"{where} is a backup of a run that did not finish, at step {held.get('step')}")
        if (said := held.get("norm_factor")) is not None:
            factor = float(said.read()) if isinstance(said, Lazy) else float(said)
            if not 0 < factor < float("inf"):
                raise DataError(f"{where}: norm_factor is {factor}")
            notes.append(
                f"its biases and threshold were in units of training, and are multiplied by norm_factor {factor:g}"
            )
        held = held["ae"]
    if not isinstance(held, dict) or not all(isinstance(value, Lazy) for value in held.values()):
        raise DataError(f"{where} is not a table of tensors")
    return dict(held), factor, notes


def _only_class(tensors: Mapping[str, Lazy], where: str) -> str:
    """The class that tensors alone tell. Raises DataError where several have them."""
    fits = [kind for kind, (needed, allowed) in TENSORS.items() if needed <= tensors.keys() <= needed | allowed]
    if len(fits) != 1:
        among = f"of {' or '.join(fits)}" if fits else "of no class that is known"
        raise DataError(f"{where} has no {CONFIG} beside it, and its tensors are those {among}; say dict_class=")
    return fits[0]


def _sizes(tensors: Mapping[str, Lazy], trainer: Mapping[str, Any], where: str) -> tuple[int, int]:
    """Width and number of features, which all tensors and the configuration have to agree on."""
    name = "encoder.weight" if "encoder.weight" in tensors else "W_enc"
    if len(tensors[name].shape) != 2:
        raise DataError(f"{name} in {where} is {list(tensors[name].shape)}, where a matrix is expected")
    d, n_features = reversed(tensors[name].shape) if name == "encoder.weight" else tensors[name].shape
    for key, value in (("activation_dim", d), ("dict_size", n_features)):
        if trainer.get(key, value) != value:
            raise DataError(f"{CONFIG} says {key} {trainer[key]}, and {name} in {where} is {list(tensors[name].shape)}")
    shapes: dict[str, tuple[int | None, ...]] = {
        "encoder.weight": (n_features, d),
        "decoder.weight": (d, n_features),
        "W_enc": (d, n_features),
        "W_dec": (n_features, d),
        "k": (),
        "group_sizes": (None,),
        **dict.fromkeys(("bias", "b_dec", "decoder.bias", "decoder_bias"), (d,)),
    }
    for key, lazy in tensors.items():
        if key == "threshold" and not lazy.shape:
            continue
        check_shape(lazy, shapes.get(key, (n_features,)), key, where)
    return d, n_features


def _k(tensors: Mapping[str, Lazy], trainer: Mapping[str, Any], kind: str, where: str) -> int:
    stored = int(tensors["k"].read()) if "k" in tensors else None
    said = trainer.get("k")
    if stored is not None and said is not None and stored != said:
        raise DataError(f"{CONFIG} says k {said}, and {where} holds k {stored}")
    k = stored if stored is not None else said
    if kind == "AutoEncoderTopK" and (not isinstance(k, int) or k < 1):
        raise DataError(f"{where}: neither its tensors nor {CONFIG} say k")
    return k if isinstance(k, int) else 0


def _canonical(tensors: Mapping[str, Lazy], factor: float, n_features: int) -> dict[str, Lazy]:
    parts = {}
    for name, lazy in tensors.items():
        if name == "encoder.weight":
            parts["W_enc"] = lazy.t()
        elif name == "decoder.weight":
            parts["W_dec"] = lazy.t()
        elif name not in ("k", "group_sizes"):
            parts[RENAMED.get(name, name)] = lazy
    if factor != 1.0:
        parts |= {name: parts[name].scaled(factor) for name in IN_UNITS_OF_X & parts.keys()}
    if "b_enc" not in parts:
        parts["b_enc"] = Lazy.of(torch.zeros(n_features))
    return parts


def _site(
    folder: Folder, entry: str, trainer: Mapping[str, Any], buffer: Mapping[str, Any], chosen: Mapping[str, str]
) -> tuple[Site, str, tuple[str, ...]]:
    """Where it reads and writes, and which name says so."""
    model, where = trainer.get("lm_name"), folder.where(f"{entry}/{CONFIG}" if entry else CONFIG)
    if "site" in chosen:
        return *site_named(chosen["site"], model, where)[:1], "the choice of a site", ()
    submodule = trainer.get("submodule_name")
    for origin, name in (("submodule_name", submodule or ""), ("the name of the directory", f"{folder.name}/{entry}")):
        if found := re.findall(SITES, name):
            part, place, layer = found[-1]
            kind = f"{'attn' if part == 'attention' else part}_{place}"
            return Site(int(layer), {"resid_out": "resid_post"}.get(kind, kind)), origin, ()
    if submodule and "." in submodule:
        port = "in" if buffer.get("io") == "in" else "out"
        site, notes = site_named(submodule, model, where, port=port)
        return site, "submodule_name", notes
    raise DataError(
        f"{where} does not say where the dictionary reads (submodule_name is {submodule!r}, layer "
        f"{trainer.get('layer')!r}); say site = '{trainer.get('layer') or 3}.resid_post', or whatever it is"
    )
