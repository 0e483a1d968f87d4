"""SAELens before 6: the same two files, with the settings of dictionary and training side by side in ``cfg.json``.

    hook_point, hook_point_head_index, activation_fn_str   are hook_name, hook_head_index, activation_fn
    absent: apply_b_dec_to_input true, architecture "standard", prepend_bos true, normalize_activations none
    activation_fn "topk" with activation_fn_kwargs.k       the architecture is topk, whatever it says
    normalize_activations true                             is expected_average_only_in, folded in already
    "hook_z" in the hook's name                            heads side by side

``scaling_factor [F]``, where not all ones, corrected shrinkage after training:
``recon = (acts * scaling_factor) @ W_dec + b_dec``, only if finetuning_scaling_factor is true; it is folded into W_dec,
and refused otherwise. Scores were never
scaled by decoder norms. A checkpoint in the middle of a run with normalized activations, and some releases, are not
folded, and their factor is not in the files: ``scale="0.42"`` folds one.

Source: SAELens 6.54, ``handle_pre_6_0_config`` and ``read_sae_components_from_disk``; 5.x, ``sae.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from monoscope.core.errors import DataError
from monoscope.formats.folder import Folder
from monoscope.formats.layout import Layout
from monoscope.formats.opened import Opened, check_shape
from monoscope.formats.saelens import directories, version_of
from monoscope.formats.saelens_reading import CONFIG, WEIGHTS, joined, opened

RENAMED = {
    "hook_point": "hook_name",
    "hook_point_head_index": "hook_head_index",
    "activation_fn_str": "activation_fn",
}
OF_DICTIONARY = ("d_in", "d_sae", "d_out", "dtype", "apply_b_dec_to_input", "normalize_activations")
OF_METADATA = ("model_name", "hook_name", "hook_name_out", "hook_head_index", "model_from_pretrained_kwargs")
OF_METADATA += ("prepend_bos", "context_size", "seqpos_slice", "dataset_path", "exclude_special_tokens")
OF_METADATA += ("neuronpedia_id", "sae_lens_version", "sae_lens_training_version")
FUNCTIONS = ("relu", "topk")


class SAELensOld(Layout):
    """A directory of SAELens before 6, or a set of them. Read only."""

    name: ClassVar[str] = "saelens_old"
    choices: ClassVar[Mapping[str, tuple[str, ...]]] = {"scale": ()}

    def evidence(self, folder: Folder) -> str | None:
        """Its two files, with no version of at least 6."""
        entries = directories(folder)
        if not entries:
            return None
        name = joined(entries[0], CONFIG)
        version = version_of(folder.json(name), folder.where(name))
        if version is not None and version >= (6,):
            return None
        return f"{CONFIG} without a version of at least 6, and {WEIGHTS}"

    def entries(self, folder: Folder) -> list[str]:
        """The directory itself, or those of a set."""
        return directories(folder)

    def read(self, folder: Folder, entry: str = "", choices: Mapping[str, str] | None = None) -> Opened:
        """One dictionary."""
        where = folder.where(joined(entry, CONFIG))
        config, inferred = renewed(folder.json(joined(entry, CONFIG)), where)
        tensors = dict(folder.tensors(joined(entry, WEIGHTS)))
        if (factor := tensors.pop("scaling_factor", None)) is not None and "W_dec" in tensors:
            check_shape(factor, tensors["W_dec"].shape[:1], "scaling_factor", folder.where(joined(entry, WEIGHTS)))
            whole = factor.read().float()
            if not torch.allclose(whole, torch.ones_like(whole)):
                if not folder.json(joined(entry, CONFIG)).get("finetuning_scaling_factor"):
                    raise DataError(
                        f"{folder.where(joined(entry, WEIGHTS))} holds a scaling_factor that is not 1, and {CONFIG} "
                        "does not say that it is to be used (finetuning_scaling_factor)"
                    )
                tensors["W_dec"] = tensors["W_dec"].scaled_along(0, whole)
                inferred.append("scaling_factor is folded into W_dec")
        return opened(self.name, folder, entry, config, choices, inferred, tensors)


def renewed(old: Mapping[str, Any], where: str) -> tuple[dict[str, Any], list[str]]:
    """A configuration in the keys of version 6, and what it left open, in words."""
    flat = {RENAMED.get(key, key): value for key, value in old.items()}
    inferred = []
    defaults = {"apply_b_dec_to_input": True, "architecture": "standard", "prepend_bos": True}
    for key, value in defaults.items():
        if key not in flat:
            flat[key] = value
            inferred.append(f"{key} is not in {CONFIG}, and so {str(value).lower()}")
    function, settings = flat.get("activation_fn", "relu"), flat.get("activation_fn_kwargs") or {}
    if function not in FUNCTIONS or not isinstance(settings, dict) or set(settings) - {"k"}:
        raise DataError(f"{where}: activation_fn is {function!r} with {settings}; known are {' and '.join(FUNCTIONS)}")
    if function == "topk" or flat["architecture"] == "topk":
        flat["architecture"] = "topk"
        if "k" not in settings:
            raise DataError(f"{where}: a topk without activation_fn_kwargs.k")
    normalized = flat.get("normalize_activations")
    if isinstance(normalized, bool) or normalized is None:
        flat["normalize_activations"] = "expected_average_only_in" if normalized else "none"
    config = {key: flat[key] for key in OF_DICTIONARY if key in flat}
    metadata = {key: flat[key] for key in OF_METADATA if flat.get(key) is not None}
    return config | {"architecture": flat["architecture"], "metadata": metadata} | settings, inferred
