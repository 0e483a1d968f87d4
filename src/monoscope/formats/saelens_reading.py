"""Reading a directory of SAELens: its keys and tensors to the canonical form. The rules are in ``formats.saelens``.

What is folded is folded lazily, so that one feature can still be read alone; only whitening needs the whole.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from monoscope.core.errors import DataError, nearest
from monoscope.core.site import Site
from monoscope.formats.folder import Folder
from monoscope.formats.foreign_sites import site_named
from monoscope.formats.lazy import Lazy
from monoscope.formats.lens_models import hub_model
from monoscope.formats.opened import About, Opened, check_shape, check_tensors

CONFIG, WEIGHTS, SPARSITY = "cfg.json", "sae_weights.safetensors", "sparsity.safetensors"
SCALER, WHITENING = "activation_scaler.json", "activation_whitening.safetensors"

LINEAR = {"W_enc", "b_enc", "W_dec", "b_dec"}
TENSORS: dict[str, set[str]] = {
    "standard": LINEAR,
    "topk": LINEAR,
    "abstopk": LINEAR,
    "jumprelu": LINEAR | {"threshold"},
    "gated": {"W_enc", "W_dec", "b_dec", "b_gate", "b_mag", "r_mag"},
    "transcoder": LINEAR,
    "skip_transcoder": LINEAR | {"W_skip"},
    "jumprelu_transcoder": LINEAR | {"threshold"},
    "jumprelu_skip_transcoder": LINEAR | {"threshold", "W_skip"},
    "matching_pursuit": {"W_dec", "b_dec"},
    "batchtopk": LINEAR | {"topk_threshold"},
    "matryoshka_batchtopk": LINEAR | {"topk_threshold"},
}
NORMALIZERS = {"layer_norm": "layer_norm", "constant_norm_rescale": "token_norm"}
FOLDED = {"none", "expected_average_only_in", "covariance_whitening"}


def opened(
    layout: str,
    folder: Folder,
    entry: str,
    config: Mapping[str, Any],
    choices: Mapping[str, str] | None = None,
    inferred: Sequence[str] = (),
    tensors: Mapping[str, Lazy] | None = None,
) -> Opened:
    """A dictionary whose configuration has the keys of version 6; ``tensors`` stand in for those of its file."""
    return _Reading(layout, folder, entry, config, choices or {}, inferred, tensors).opened()


class _Reading:
    """One directory, on its way to the canonical form."""

    def __init__(
        self,
        layout: str,
        folder: Folder,
        entry: str,
        config: Mapping[str, Any],
        chosen: Mapping[str, str],
        inferred: Sequence[str],
        tensors: Mapping[str, Lazy] | None,
    ) -> None:
        self.layout, self.folder, self.entry, self.config = layout, folder, entry, config
        self.where = folder.where(joined(entry, CONFIG))
        self.metadata: dict[str, Any] = config.get("metadata") or {}
        self.chosen, self.inferred, self.warnings = dict(chosen), list(inferred), list[str]()
        self.files = [joined(entry, CONFIG), joined(entry, WEIGHTS)]
        self.architecture = str(config.get("architecture"))
        if self.architecture == "temporal":
            raise DataError(
                f"{self.where}: a temporal SAE attends to other tokens, and is no dictionary of single ones"
            )
        if self.architecture not in TENSORS:
            raise DataError(f"{self.where}: unknown architecture; {nearest(self.architecture, TENSORS)}")
        self.parts = dict(folder.tensors(joined(entry, WEIGHTS)) if tensors is None else tensors)
        self.n_features, self.d_in = self.integer("d_sae"), self.integer("d_in")
        self.d_out = self.integer("d_out", self.d_in) if "transcoder" in self.architecture else self.d_in
        self.acts_scale = 1.0

    def integer(self, key: str, default: int | None = None) -> int:
        """A positive whole number."""
        value = self.config.get(key, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value < 1 or value != int(value):
            raise DataError(f"{self.where}: {key} is {value!r}, where a positive number is expected")
        return int(value)

    def flag(self, key: str, default: bool) -> bool:
        """Yes or no; what is not said is remembered as inferred."""
        if key not in self.config:
            self.inferred.append(f"{key} is not in {CONFIG}, and so {str(default).lower()}")
        value = self.config.get(key, default)
        if not isinstance(value, bool):
            raise DataError(f"{self.where}: {key} is {value!r}, where true or false is expected")
        return value

    def opened(self) -> Opened:
        """The canonical table and tensors."""
        self.check()
        is_transcoder = "transcoder" in self.architecture
        center = self.flag("apply_b_dec_to_input", default=not is_transcoder)
        if center and is_transcoder:
            raise DataError(f"{self.where}: apply_b_dec_to_input is true, which SAELens refuses for a transcoder")
        reads, writes = self.sites(is_transcoder)
        wiring: dict[str, Any] = {"kind": "autoencoder", "n_features": self.n_features, "center": center}
        wiring |= {"unit_norm": False, "skip": "W_skip" in self.parts}
        if (normalizer := self.normalizer()) is not None:
            wiring["normalizer"] = normalizer
        self.canonical(center)
        if self.architecture == "matching_pursuit":
            wiring = {"kind": "matching_pursuit", "n_features": self.n_features, "center": center}
        table = {
            "reads": [str(reads)],
            "writes": [str(writes)],
            "widths": {str(reads): self.d_in, str(writes): self.d_out},
            "wiring": wiring,
            "function": self.function(),
            "acts_scale": self.acts_scale,
        }
        return Opened(self.layout, table, self.parts, self.about())

    def check(self) -> None:
        """Names and shapes, before anything is made of them."""
        where, needed = self.folder.where(joined(self.entry, WEIGHTS)), TENSORS[self.architecture]
        check_tensors(self.parts, needed, set(), where)
        shapes: dict[str, tuple[int, ...]] = {
            "W_enc": (self.d_in, self.n_features),
            "W_dec": (self.n_features, self.d_out),
            "b_dec": (self.d_out,),
            "W_skip": (self.d_out, self.d_in),
            "topk_threshold": (),
        }
        for name, lazy in self.parts.items():
            check_shape(lazy, shapes.get(name, (self.n_features,)), name, where)
        if self.metadata.get("hook_head_index") is not None:
            raise DataError(
                f"{self.where}: hook_head_index {self.metadata['hook_head_index']}: one head of a site is no site"
            )
        reshape = self.config.get("reshape_activations", "none")
        if reshape not in ("none", "hook_z"):
            raise DataError(f"{self.where}: reshape_activations is {reshape!r}, for which no rule is known")

    def sites(self, is_transcoder: bool) -> tuple[Site, Site]:
        """Where it reads and writes."""
        read, written = (self.site(key) for key in ("hook_name", "hook_name_out"))
        if read is None:
            raise DataError(
                f"{self.where} names no site: set hook_name in its metadata, as in blocks.3.hook_resid_post"
            )
        if not is_transcoder:
            return read, read
        if written is None:
            if read.layer is None:
                raise DataError(
                    f"{self.where} does not say where the transcoder writes: set hook_name_out in its metadata"
                )
            written = Site(read.layer, "mlp_out")
            self.inferred.append(f"hook_name_out is not in {CONFIG}, and so {written}")
        return read, written

    def site(self, key: str) -> Site | None:
        """The site of a key in the metadata; the name of a module, where there is one, tells it best."""
        model, found = self.metadata.get("model_name"), []
        for name in (self.metadata.get(key), self.metadata.get(f"hf_{key}")):
            if name:
                site, notes = site_named(str(name), model, self.where)
                found.append((name, site))
                self.warnings += [note for note in notes if note not in self.warnings]
        if len(found) == 2 and found[0][1] != found[1][1]:
            (lens, other), (module, site) = found
            self.warnings.append(f"{key} {lens} is {other}, and hf_{key} {module} is {site}: read as the module says")
        return found[-1][1] if found else None

    def normalizer(self) -> str | None:
        """What is done to each token, and cannot be folded; what can be is folded here."""
        said = self.config.get("normalize_activations", "none")
        if said not in NORMALIZERS and said not in FOLDED:
            raise DataError(f"{self.where}: normalize_activations is {said!r}, for which no rule is known")
        kwargs = self.metadata.get("model_from_pretrained_kwargs") or {}
        is_centered = bool(kwargs.get("center_writing_weights"))
        if said in NORMALIZERS:
            return NORMALIZERS[said]
        is_open = said == "expected_average_only_in" and not self.folder.has(joined(self.entry, SCALER))
        if is_open and "scale" not in self.chosen:
            self.inferred.append(
                "the activation scale is folded in, and its factor not known; if FVU is absurd it is not, and scale = "
                "sqrt(d) / mean norm folds it"
            )
        return "center" if is_centered else None

    def canonical(self, center: bool) -> None:
        """Tensors by their names in the dictionary, with all that a checkpoint leaves open folded in."""
        parts, F = self.parts, self.n_features
        if "topk_threshold" in parts:
            threshold = parts.pop("topk_threshold").cast(torch.float32)
            parts["threshold"] = threshold.reshape(1).expand(F)
            if not threshold.read().item() > 0:
                self.warnings.append("topk_threshold is 0: no batch was seen yet, so that every positive feature fires")
        if "threshold" in parts:
            parts["threshold"] = parts["threshold"].cast(torch.float32).elementwise(lambda part: part.clamp_min(0.0))
        rescaled = bool(self.config.get("rescale_acts_by_decoder_norm", False))
        if rescaled:
            norms = parts["W_dec"].row_norms().elementwise(lambda part: part.clamp_min(1e-8))
            parts["W_enc"], parts["b_enc"] = (parts[n].scaled_along(a, norms) for n, a in (("W_enc", 1), ("b_enc", 0)))
            parts["W_dec"] = parts["W_dec"].scaled_along(0, norms.elementwise(torch.reciprocal))
        self.unscale(rescaled, center)
        if "W_skip" in parts:
            parts["W_skip"] = parts["W_skip"].t()
        if self.architecture == "matching_pursuit" and not center:
            del parts["b_dec"]  # never used then
        if self.architecture == "gated":
            parts["b_enc"] = Lazy.of(torch.zeros(F))
            names = {"b_gate": "b_gate", "b_mag": "b_mag", "r_mag": "r"}
            parts |= {f"activation.{ours}": parts.pop(theirs) for theirs, ours in names.items()}
        if "threshold" in parts:
            parts["activation.threshold"] = parts.pop("threshold")

    def unscale(self, rescaled: bool, center: bool) -> None:
        """Fold what was done to activations in training, as ``activation_scaler.json`` or a choice says."""
        said: dict[str, Any] = {}
        if self.folder.has(name := joined(self.entry, SCALER)):
            self.files.append(name)
            said = self.folder.json(name)
        if (factor := said.get("scaling_factor")) is None:
            name, factor = "the choice of a scale", self.chosen.get("scale")
        if factor is not None:
            self.fold(factor, name, rescaled)
        if said and said.get("has_whitening", True) and self.folder.has(joined(self.entry, WHITENING)):
            self.files.append(joined(self.entry, WHITENING))
            self.unwhiten(self.folder.tensors(joined(self.entry, WHITENING)), center)

    def fold(self, said: Any, name: str, rescaled: bool) -> None:
        """Fold an activation scale: in units of training, or with rescaled norms in raw ones, as SAELens does."""
        try:
            factor = float(said)
        except (TypeError, ValueError):
            factor = 0.0
        if not (math.isfinite(factor) and factor > 0):
            raise DataError(f"{self.where}: {name} says that scaling_factor is {said!r}")
        parts = self.parts
        down = {"b_dec", "b_enc", "threshold"} if rescaled else {"b_dec", "W_dec"}
        parts |= {key: parts[key].scaled(1 / factor) for key in down & parts.keys()}
        if not rescaled:
            self.acts_scale = factor
            parts |= {"W_enc": parts["W_enc"].scaled(factor)} if "W_enc" in parts else {}

    def unwhiten(self, whitening: Mapping[str, Lazy], center: bool) -> None:
        """Fold ``z = (x - mean) @ matrix`` and its inverse, which is ``acts @ (W_dec @ inverse)``."""
        where, d, parts = self.folder.where(joined(self.entry, WHITENING)), self.d_in, self.parts
        check_tensors(whitening, {"mean", "matrix", "inverse_matrix"}, set(), where)
        for name, shape in (("mean", (d,)), ("matrix", (d, d)), ("inverse_matrix", (d, d))):
            check_shape(whitening[name], shape, name, where)
        mean, matrix, inverse = (whitening[name].read().double() for name in ("mean", "matrix", "inverse_matrix"))
        encoder = parts["W_enc"]
        parts["W_enc"] = encoder.map(lambda whole: (matrix @ whole.double()).float(), encoder.shape, torch.float32)
        if not center:
            shift = encoder.map(
                lambda whole: -(mean @ matrix @ whole.double()).float(), (self.n_features,), torch.float32
            )
            for name in {"b_enc", "b_gate"} & parts.keys():
                parts[name] = parts[name].shifted_by(shift)
            if "b_mag" in parts:
                parts["b_mag"] = parts["b_mag"].shifted_by(shift.scaled_along(0, parts["r_mag"].elementwise(torch.exp)))
        decoder, bias = parts["W_dec"], parts["b_dec"]
        parts["W_dec"] = decoder.map(lambda whole: (whole.double() @ inverse).float(), decoder.shape, torch.float32)
        parts["b_dec"] = bias.map(lambda whole: (whole.double() @ inverse + mean).float(), bias.shape, torch.float32)

    def function(self) -> dict[str, Any]:
        """The activation function, as a table."""
        match self.architecture:
            case "topk":
                return {"kind": "topk", "k": self.integer("k")}
            case "abstopk":
                return {"kind": "abs_topk", "k": self.integer("k")}
            case "gated":
                return {"kind": "gated"}
            case "matching_pursuit":
                most = self.config.get("max_iterations") or self.d_in
                tolerance = float(self.config.get("residual_threshold", 1e-2)) / self.acts_scale
                until_repeat = self.flag("stop_on_duplicate_support", default=True)
                settings = {"positive": True, "tolerance": max(tolerance, 0.0), "until_repeat": until_repeat}
                return {"kind": "pursuit", "k": int(most), **settings}
            case _:
                return {"kind": "jumprelu" if "activation.threshold" in self.parts else "relu"}

    def about(self) -> About:
        """What is known beside the weights."""
        metadata, published = self.metadata, {}
        if isinstance(metadata.get("l0"), (int, float)):
            published["l0"] = float(metadata["l0"])
        elif self.folder.has(joined(self.entry, SPARSITY)):
            self.files.append(joined(self.entry, SPARSITY))
            published["l0"] = self.measured_l0()
        version = metadata.get("sae_lens_training_version") or metadata.get("sae_lens_version")
        seqpos = metadata.get("seqpos_slice")
        skipped = seqpos[0] if isinstance(seqpos, list) and seqpos and isinstance(seqpos[0], int) else None
        trained = {"text": metadata.get("dataset_path"), "architecture": metadata.get("training_architecture")}
        trained |= {"neuronpedia": metadata.get("neuronpedia_id"), "left_out": metadata.get("exclude_special_tokens")}
        return About(
            where=self.folder.name,
            entry=self.entry,
            files=tuple(self.files),
            model=None if (model := metadata.get("model_name")) is None else hub_model(str(model)),
            library=f"SAELens {version}" if version else "SAELens",
            prepend_bos=metadata.get("prepend_bos"),
            context_length=metadata.get("context_size"),
            skip_first=skipped,
            published=published,
            inferred=tuple(self.inferred),
            warnings=tuple(self.warnings),
            chosen=self.chosen,
            origins={"model": f"{model} in {CONFIG}"} if model else {},
            trained={name: value for name, value in trained.items() if value not in (None, [], False)},
        )

    def measured_l0(self) -> float:
        """Mean number of active features, from the frequencies its trainer counted."""
        where = self.folder.where(joined(self.entry, SPARSITY))
        tensors = self.folder.tensors(joined(self.entry, SPARSITY))
        check_tensors(tensors, {"sparsity"}, set(), where)
        check_shape(tensors["sparsity"], (self.n_features,), "sparsity", where)
        return (10 ** tensors["sparsity"].read().double() - 1e-10).clamp_min(0).sum().item()


def joined(entry: str, name: str) -> str:
    """A file of an entry."""
    return f"{entry}/{name}" if entry else name
