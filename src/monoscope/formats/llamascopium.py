"""llamascopium (OpenMOSS, formerly lm-saes): SAEs, transcoders, CLTs, crosscoders, MOLTs and Lorsas. Read and written.

    config.json, and of the language model lm_config.json
    sae_weights.{safetensors,pt,dcp}, else checkpoints/pruned.*, else checkpoints/final.*

    x~ = s_in x                     pre = x~ @ W_E + b_E            (GLU: times sigmoid(x~ @ W_E_glu + b_E_glu))
    score = pre ||W_D||             with sparsity_include_decoder_norm
    recon = (acts @ W_D + b_D) / s_out                              nothing is centered

``s = sqrt(d) / dataset_average_activation_norm.{hook}``, a scalar in the tensor file, where norm_activation is
"dataset-wise"; 1 where it is "inference". "token-wise" is ``sqrt(d) / ||x||`` of each token. JumpReLU thresholds are
stored as logarithms, in units of scores. What each sae_type holds: ``formats.llamascopium_wirings``.

Traps. The training runner writes config.json first and folds s into the weights afterwards, so that files may say
"dataset-wise" and be folded: which of the two they are only activations can tell (``folded``). Its fold leaves an
SAE's thresholds as they were. Norm scalars of a run that never measured them are uninitialized memory. A batch function
stores no threshold, and selects by whatever else is in the batch: it is read as the function of single tokens. The hook
points of a crosscoder over snapshots are their labels, ``step512``, and the site is in no file (``site``). Models with
LayerNorm are read through TransformerLens, which centers their residual stream unless told not to.

Source: OpenMOSS/Language-Model-SAEs ``models/*.py``, ``trainer.py``, ``runners/train.py``.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from monoscope.core.errors import ConfigError, DataError, nearest
from monoscope.dictionaries import Dictionary
from monoscope.formats.folder import Folder
from monoscope.formats.layout import Layout, Receipt
from monoscope.formats.lazy import Lazy
from monoscope.formats.llamascopium_found import KEYS, Found
from monoscope.formats.llamascopium_wirings import WIRINGS
from monoscope.formats.opened import About, Opened, check_keys
from monoscope.formats.torch_checkpoint import METADATA, checkpoint

CONFIG = "config.json"
STEMS = ("sae_weights", "checkpoints/pruned", "checkpoints/final")
KINDS = ("safetensors", "pt", "dcp")
NORM = "dataset_average_activation_norm."
SMALLEST, LARGEST = 1e-3, 1e6
"""Average norms of activations beyond these are not norms: uninitialized memory gives such."""

DEFAULTS = {
    "act_fn": "relu",
    "norm_activation": "dataset-wise",
    "sparsity_include_decoder_norm": True,
    "use_decoder_bias": True,
}
"""What the library takes where config.json does not say."""

_SHARED = {
    "sae_type", "d_model", "expansion_factor", "use_decoder_bias", "act_fn", "norm_activation", "top_k",
    "sparsity_include_decoder_norm", "use_triton_kernel", "sparsity_threshold_for_triton_spmm_kernel",
    "jumprelu_threshold_window", "device", "dtype", "skip_bos", "sae_pretrained_name_or_path", "strict_loading",
    "sparsity_threshold_for_csr", "promote_act_fn_dtype",
}  # fmt: skip
"""Settings that all have; the last ones are of lm-saes, and change nothing that is computed."""


class Llamascopium(Layout):
    """A directory of llamascopium's, or one that holds several."""

    name: ClassVar[str] = "llamascopium"
    choices: ClassVar[Mapping[str, tuple[str, ...]]] = {"folded": ("no", "yes"), "site": ()}

    def evidence(self, folder: Folder) -> str | None:
        """A config.json with sae_type, beside weights."""
        entries = self.entries(folder)
        weights = _weights({*folder.names()}, entries[0]) if entries else None
        if weights is None or (weights.endswith(".safetensors") and "encoder.weight" in folder.tensors(weights)):
            return None  # the second: an older layout, that of R1-Distill
        return f"{_inside(entries[0], CONFIG)} with sae_type, beside {weights}"

    def entries(self, folder: Folder) -> list[str]:
        """Directories with a config.json and weights; ``[""]`` where the folder itself is one."""
        names = set(folder.names())
        if CONFIG in names and _is_config(folder, CONFIG) and _weights(names, ""):
            return [""]
        found = [name.removesuffix(f"/{CONFIG}") for name in sorted(names) if name.endswith(f"/{CONFIG}")]
        found = [entry for entry in found if _weights(names, entry)]
        return found if found and _is_config(folder, _inside(found[0], CONFIG)) else []

    def read(self, folder: Folder, entry: str = "", choices: Mapping[str, str] | None = None) -> Opened:
        """One dictionary."""
        choices, name = choices or {}, _inside(entry, CONFIG)
        where, config = folder.where(name), folder.json(name)
        kind = config.get("sae_type")
        if kind not in WIRINGS:
            raise DataError(f"{where} has sae_type {kind!r}, which is not read; {nearest(str(kind), WIRINGS)}")
        check_keys(config, _SHARED | KEYS[kind], where)
        weights = _weights({*folder.names()}, entry)
        if weights is None:
            raise DataError(f"{where} has no weights beside it: {', '.join(STEMS)} with one of {', '.join(KINDS)}")
        tensors, version = _tensors(folder, weights)
        model = _model(folder, entry)
        own = {key: lazy for key, lazy in tensors.items() if not key.startswith(NORM)}
        if "site" in choices and kind != "crosscoder":
            raise ConfigError(f"{where} says its sites; the choice of a site is for crosscoders over several models")
        found = Found(config, own, where, model=_text(model, "model_name"), at=choices.get("site"))
        norms = {key.removeprefix(NORM): lazy for key, lazy in tensors.items() if key.startswith(NORM)}
        defaults = {key: value for key, value in DEFAULTS.items() if key not in config}
        notes = _Notes(chosen={"site": choices["site"]} if "site" in choices else {})
        found = self._scaled(found, norms, _is_checkpoint(folder, entry), choices.get("folded"), notes)
        found = self._selected(found, notes)
        table, weights_by_name = WIRINGS[kind](found)
        about = About(
            entry=entry,
            files=(name, weights),
            model=found.model,
            prepend_bos=prepend if isinstance(prepend := model.get("prepend_bos"), bool) else None,
            library=f"llamascopium {version}" if version else "llamascopium",
            context_length=length if type(length := config.get("n_ctx", model.get("max_length"))) is int else None,
            skip_first=1 if config.get("skip_bos") else None,
            origins=dict.fromkeys(("wiring", "function", "reads", "writes"), CONFIG) | notes.origins,
            inferred=(
                *(f"{key} is not in {CONFIG}, and so {value}" for key, value in defaults.items()),
                *notes.inferred,
                *found.notes(),
            ),
            warnings=tuple(notes.warnings),
            chosen=notes.chosen,
        )
        return Opened(self.name, table, weights_by_name, about)

    def _scaled(
        self, found: Found, norms: Mapping[str, Lazy], is_checkpoint: bool, folded: str | None, notes: _Notes
    ) -> Found:
        """With the factors that activations are multiplied by, as far as they are not in the weights yet."""
        match found.config.get("norm_activation", "dataset-wise"):
            case "inference":
                notes.origins["acts_scale"] = (
                    "norm_activation is inference: scaled weights, and by how much is not said"
                )
                return found
            case "token-wise":
                return dataclasses.replace(found, is_token_wise=True)
            case "dataset-wise":
                pass
            case other:
                raise DataError(
                    f"{found.where} has norm_activation {other!r}: features depend on what else is in a batch, so that "
                    "no dictionary has them; known: inference, dataset-wise, token-wise"
                )
        if folded is not None or not is_checkpoint:
            notes.chosen["folded"] = folded or "no"
        if folded == "yes":
            notes.origins["acts_scale"] = "the choice folded = yes: activations are raw"
            return found
        scales = {hook: _scale(norms, hook, found) for hook in dict.fromkeys((*found.hooks_in, *found.hooks_out))}
        notes.origins["acts_scale"] = f"{NORM}* in the weights"
        if folded is None and not is_checkpoint:
            notes.warnings.append(
                "config.json says dataset-wise, and so it does also where the library's training runner has folded the "
                "scales into the weights: if FVU is high, open it with folded=yes"
            )
        return dataclasses.replace(found, scales=scales)

    def _selected(self, found: Found, notes: _Notes) -> Found:
        """With a function that selects by token in the place of one that selects by batch."""
        stand_ins = {"batchtopk": "topk", "batchlayertopk": "layertopk"}
        act_fn = str(found.config.get("act_fn", "relu")).lower()
        if act_fn in stand_ins:
            notes.inferred.append(f"{stand_ins[act_fn]} in the place of {act_fn}")
            notes.warnings.append(
                f"{act_fn} selects by batch, and the file holds no threshold: read as {stand_ins[act_fn]}, the same "
                "number for every token; thresholds that give its mean number are set from activations by "
                "monoscope.training.to_jumprelu"
            )
        return dataclasses.replace(found, act_fn=stand_ins.get(act_fn, act_fn))

    def write(self, dictionary: Dictionary, directory: Path, about: About) -> Receipt:
        """Every dictionary that the library has a type for."""
        from monoscope.formats.llamascopium_write import write

        return write(dictionary, directory, about)


@dataclasses.dataclass
class _Notes:
    """What reading settles."""

    chosen: dict[str, str]
    origins: dict[str, str] = dataclasses.field(default_factory=dict)
    inferred: list[str] = dataclasses.field(default_factory=list)
    warnings: list[str] = dataclasses.field(default_factory=list)


def _inside(entry: str, name: str) -> str:
    return f"{entry}/{name}" if entry else name


def _is_config(folder: Folder, name: str) -> bool:
    try:
        return "sae_type" in folder.json(name)
    except DataError:
        return False


def _weights(names: set[str], entry: str) -> str | None:
    """The file of weights that the library would take."""
    for stem in STEMS:
        for kind in KINDS:
            name = _inside(entry, f"{stem}.{kind}")
            if (f"{name}/{METADATA}" if kind == "dcp" else name) in names:
                return name
    return None


def _model(folder: Folder, entry: str) -> Mapping[str, object]:
    name = _inside(entry, "lm_config.json")
    return folder.json(name) if folder.has(name) else {}


def _text(table: Mapping[str, object], key: str) -> str | None:
    value = table.get(key)
    return value if isinstance(value, str) and value else None


def _is_checkpoint(folder: Folder, entry: str) -> bool:
    """Whether the trainer wrote it between two steps: those are never folded."""
    return folder.has(_inside(entry, "trainer.pt"))


def _tensors(folder: Folder, name: str) -> tuple[dict[str, Lazy], str | None]:
    """All tensors, and the version that wrote them where it is said."""
    if name.endswith(".safetensors"):
        return dict(folder.tensors(name)), None
    if name.endswith(".dcp"):
        return checkpoint(folder, name), None
    held = folder.pickled(name)
    match held:
        case {"sae": dict(tensors), **rest}:
            version = rest.get("version")
            return {str(key): value for key, value in tensors.items()}, str(version) if version else None
        case _:
            raise DataError(f"{folder.where(name)} does not hold a table 'sae' of tensors")


def _scale(norms: Mapping[str, Lazy], hook: str, found: Found) -> float:
    """``sqrt(d) / average norm``. Raises DataError for a norm that is missing, or cannot be one."""
    if hook not in norms:
        raise DataError(
            f"the weights of {found.where} lack {NORM}{hook}, which norm_activation = 'dataset-wise' needs; they hold "
            f"norms for {', '.join(norms) or 'nothing'}"
        )
    norm = float(norms[hook].read())
    if not SMALLEST < norm < LARGEST:
        raise DataError(
            f"{NORM}{hook} beside {found.where} is {norm:g}, which is no average norm of activations: the run that "
            "wrote it never measured one, and left what was in memory. If its weights are folded, say folded=yes"
        )
    return math.sqrt(found.config["d_model"]) / norm
