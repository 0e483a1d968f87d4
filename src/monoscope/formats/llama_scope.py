"""Llama Scope, and Llama Scope of DeepSeek-R1-Distill-Llama-8B: JumpReLU dictionaries in normalized units.

    s = sqrt(d) / average norm, of what is read and of what is written (they differ in transcoders)
    acts = pre * 1[pre > threshold],   pre = (s_in x) @ encoder.weight.T + encoder.bias
    recon = (acts @ decoder.weight.T + decoder.bias) / s_out

On disk ``encoder.weight [F, d]``, ``decoder.weight [d_out, F]``, both transposed here; no centering. The two sets
differ in their thresholds, and nothing in the files says so:

    Llama Scope    one number t, in units of raw activations:   threshold = s_in t
    R1-Distill     log_jumprelu_threshold [F]:                  threshold = exp(.), as the normalized weights expect it

An unscaled t gives a far larger L0, a scaled exp(.) a wrong one. Features keep the units of training (``units =
"normalized"``, with ``acts_scale = s_in``), or have those of raw activations (``"raw"``): W_enc = encoder.weight.T,
b_enc / s_in, threshold t, W_dec = decoder.weight.T s_in / s_out. Reconstructions are the same.

Whether the gate compares pre, or pre times the norm of the decoder row, is not written down; where norms are 1 it is
the same (``gate``).

Sources: He et al. 2024 (arXiv:2410.20526), ``fnlp/Llama3_1-8B-Base-LX{R,A,M,TC}-{8,32}x``;
``fnlp/Llama-Scope-R1-Distill``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import torch

from monoscope.core.errors import ConfigError, DataError, MismatchError
from monoscope.core.site import Site
from monoscope.formats.folder import Folder
from monoscope.formats.foreign_sites import site_named
from monoscope.formats.layout import Layout
from monoscope.formats.lazy import Lazy
from monoscope.formats.opened import About, Opened, check_tensors
from monoscope.formats.published import autoencoder, called, directories_of, inside, matrix, named

LLAMA, R1 = "meta-llama/Llama-3.1-8B", "deepseek-ai/DeepSeek-R1-Distill-Llama-8B"
WEIGHTS = {"encoder.weight", "encoder.bias", "decoder.weight", "decoder.bias"}
KINDS = {"R": "resid_post", "A": "attn_out", "M": "mlp_out", "TC": "mlp_out"}
"""What the letter behind the layer of a name says is written."""

EXPECTED: Mapping[str, tuple[Any, ...]] = {
    "act_fn": ("jumprelu",),
    "use_glu_encoder": (False,),
    "apply_decoder_bias_to_pre_encoder": (False,),
    "use_decoder_bias": (True,),
    "norm_activation": ("dataset-wise",),
}
"""Settings that change what a dictionary computes, with the values the rule above is for."""


class LlamaScope(Layout):
    """Directories with ``hyperparams.json`` and ``checkpoints/final.safetensors``."""

    name: ClassVar[str] = "llama_scope"
    choices: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "units": ("normalized", "raw"),
        "gate": ("pre", "pre_times_norm"),
    }
    config, weights = "hyperparams.json", "checkpoints/final.safetensors"

    def evidence(self, folder: Folder) -> str | None:
        """Both files are there."""
        return f"{self.config} and {self.weights}" if self.entries(folder) else None

    def entries(self, folder: Folder) -> list[str]:
        """One for each layer, site and width."""
        both = set(directories_of(folder, self.config))
        return [entry for entry in directories_of(folder, self.weights) if entry in both]

    def read(self, folder: Folder, entry: str = "", choices: Mapping[str, str] | None = None) -> Opened:
        """One autoencoder or transcoder."""
        config, file = folder.json(inside(entry, self.config)), inside(entry, self.weights)
        where = folder.where(inside(entry, self.config))
        tensors = folder.tensors(file)
        check_tensors(tensors, WEIGHTS, set(), folder.where(file))
        norms = config.get("dataset_average_activation_norm")
        norms = norms if isinstance(norms, dict) else {}
        raw = _number(config, "jump_relu_threshold", where)
        if not 0 <= raw < 1e30:
            raise ConfigError(
                f"jump_relu_threshold in {where} is {raw:g}; a threshold is 0 or more, and a small number"
            )
        n_features, d = matrix(tensors, "encoder.weight", folder.where(file)).shape
        d_out = matrix(tensors, "decoder.weight", folder.where(file)).shape[0]
        scale = (_scale(norms.get("in"), d, where), _scale(norms.get("out"), d_out, where))
        threshold = Lazy.of(torch.full((n_features,), raw * scale[0]))
        about = About(where=folder.name, entry=entry, files=(inside(entry, self.config), file), model=LLAMA)
        return _opened(self.name, folder, entry, config, tensors, threshold, scale, about, choices or {}, where)


class R1Distill(Layout):
    """Directories with ``config.json`` and ``sae_weights.safetensors``, which has ``log_jumprelu_threshold``."""

    name: ClassVar[str] = "r1_distill"
    choices: ClassVar[Mapping[str, tuple[str, ...]]] = LlamaScope.choices
    config, weights = "config.json", "sae_weights.safetensors"

    def evidence(self, folder: Folder) -> str | None:
        """The weights have thresholds as logarithms, and encoders of torch."""
        entries = [e for e in directories_of(folder, self.weights) if folder.has(inside(e, self.config))]
        if not entries or not {"encoder.weight", "log_jumprelu_threshold"} <= set(self._tensors(folder, entries[0])):
            return None
        return f"{self.config} and {self.weights} with encoder.weight and log_jumprelu_threshold"

    def entries(self, folder: Folder) -> list[str]:
        """One for each mix of texts and layer."""
        return directories_of(folder, self.weights)

    def _tensors(self, folder: Folder, entry: str) -> Mapping[str, Lazy]:
        return folder.tensors(inside(entry, self.weights))

    def read(self, folder: Folder, entry: str = "", choices: Mapping[str, str] | None = None) -> Opened:
        """One autoencoder."""
        config, file = folder.json(inside(entry, self.config)), inside(entry, self.weights)
        where = folder.where(inside(entry, self.config))
        found = self._tensors(folder, entry)
        prefix = "dataset_average_activation_norm."
        norms = {name.removeprefix(prefix): _scalar(lazy) for name, lazy in found.items() if name.startswith(prefix)}
        tensors = {name: lazy for name, lazy in found.items() if not name.startswith(prefix)}
        check_tensors(tensors, WEIGHTS | {"log_jumprelu_threshold"}, set(), folder.where(file))
        log = tensors.pop("log_jumprelu_threshold")
        threshold = log.elementwise(lambda part: part.float().exp(), torch.float32)
        read = str(config.get("hook_point_in", ""))
        written = str(config.get("hook_point_out", read))
        d = matrix(tensors, "encoder.weight", folder.where(file)).shape[1]
        d_out = matrix(tensors, "decoder.weight", folder.where(file)).shape[0]
        scale = (_scale(norms.get(read), d, folder.where(file)), _scale(norms.get(written), d_out, folder.where(file)))
        mix = named(r"[^/]*Slimpajama[^/]*", called(folder, entry))
        about = About(
            where=folder.name,
            entry=entry,
            files=(inside(entry, self.config), file),
            model=R1,
            prepend_bos=True,
            trained={"text": mix[0]} if mix else {},
        )
        return _opened(self.name, folder, entry, config, tensors, threshold, scale, about, choices or {}, where)


def _opened(
    layout: str,
    folder: Folder,
    entry: str,
    config: Mapping[str, Any],
    found: Mapping[str, Lazy],
    threshold: Lazy,
    scale: tuple[float, float],
    about: About,
    choices: Mapping[str, str],
    where: str,
) -> Opened:
    """A dictionary of canonical tensors in the units that were chosen."""
    for key, values in EXPECTED.items():
        if key in config and config[key] not in values:
            raise ConfigError(f"{where}: {key} is {config[key]!r}, and only {values[0]!r} is read")
    sites = _sites(config, where)
    _check_names(called(folder, entry), sites, found, where)
    _check_sizes(config, found, where)
    s_in, s_out = scale
    raw = choices.get("units", "normalized") == "raw"
    by_norm = choices.get("gate", "pre") == "pre_times_norm"
    one = s_in if raw else 1.0  # what acts are divided by beside the units of training
    threshold = threshold.scaled(1 / one)
    if by_norm:  # scores are pre times the norms of the rows as they are here, which have one / s_out of those on disk
        threshold = threshold.scaled(one / s_out)
    tensors = {
        "W_enc": found["encoder.weight"].t() if raw else found["encoder.weight"].t().scaled(s_in),
        "b_enc": found["encoder.bias"].scaled(1 / one),
        "W_dec": found["decoder.weight"].t().scaled(one / s_out),
        "b_dec": found["decoder.bias"].scaled(1 / s_out),
        "threshold": threshold,
    }
    inferred = (
        [f"acts in units of {'raw activations' if raw else 'training'} (units)"] if "units" not in choices else []
    )
    if "gate" not in choices:
        inferred.append(
            "the gate compares pre-activations alone, which is the same where decoder rows have norm 1 (gate)"
        )
    about = replace(
        about,
        library="Llama Scope",
        origins={"reads, writes": "hook_point_in, hook_point_out", "acts_scale": "dataset_average_activation_norm"},
        inferred=tuple(inferred),
        chosen={"gate": "pre", **choices},
    )
    wiring = {"scale_by_decoder_norm": by_norm}
    function, acts_scale = {"kind": "jumprelu"}, 1.0 if raw else s_in
    where = folder.where(about.files[-1])
    return autoencoder(layout, sites, tensors, function, about, where=where, wiring=wiring, acts_scale=acts_scale)


def _sites(config: Mapping[str, Any], where: str) -> tuple[str, str]:
    hooks = [config.get("hook_point_in"), config.get("hook_point_out", config.get("hook_point_in"))]
    if not all(isinstance(hook, str) for hook in hooks):
        raise ConfigError(f"{where} does not name the sites, hook_point_in and hook_point_out; found {hooks}")
    read, written = (str(site_named(str(hook), LLAMA, where)[0]) for hook in hooks)
    return read, written


def _check_names(text: str, sites: tuple[str, str], found: Mapping[str, Lazy], where: str) -> None:
    """Raises MismatchError where the name of a directory contradicts what its files say."""
    if match := named(r"(?:^|[/-])L(\d+)(R|A|M|TC)(?:-(\d+)x)?(?:/|$)", text):
        site = Site.parse(sites[1])
        if (site.layer, site.kind) != (int(match[1]), KINDS[match[2].upper()]):
            raise MismatchError(
                f"{where} says that it writes {site}, and its directory is called {match[0].strip('/')}"
            )
        n_features, d = found["encoder.weight"].shape[:2]
        if match[3] and n_features != d * int(match[3]):
            raise MismatchError(f"{where} has {n_features:,} features of width {d}, and its name says {match[3]} times")


def _check_sizes(config: Mapping[str, Any], found: Mapping[str, Lazy], where: str) -> None:
    n_features, d = found["encoder.weight"].shape[:2]
    expected = {"d_model": d, "d_sae": n_features}
    for key, size in expected.items():
        if key in config and config[key] != size:
            raise MismatchError(f"{where}: {key} is {config[key]}, and the weights have {size}")


def _scalar(lazy: Lazy) -> float | None:
    """The number of a tensor that has just one."""
    return float(lazy.read().reshape(())) if lazy.shape in ((), (1,)) else None


def _scale(norm: Any, d: int, where: str) -> float:
    """``sqrt(d) / norm``. Raises DataError for a norm that nobody set, or nobody can have measured."""
    if not isinstance(norm, int | float) or isinstance(norm, bool):
        raise DataError(f"{where} has no dataset_average_activation_norm for a site, without which units are unknown")
    if not math.isfinite(norm) or not 1e-6 < norm < 1e6:
        raise DataError(f"{where}: an average activation norm of {norm:g} cannot have been measured: it was never set")
    return d**0.5 / norm


def _number(config: Mapping[str, Any], key: str, where: str) -> float:
    value = config.get(key)
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise ConfigError(f"{where}: {key} is a number, found {value!r}")
    return float(value)
