"""SAELens 6: ``cfg.json`` and ``sae_weights.safetensors``; in sets and runs, one directory each.

    x -> normalize -> z = x - b_dec if apply_b_dec_to_input -> acts = phi(z @ W_enc + b_enc)
    recon = denormalize(acts @ W_dec + b_dec) (+ x @ W_skip.T)

    standard          acts = max(pre, 0)
    topk, abstopk     the k largest pre, then a ReLU; the k largest |pre|, signed. With rescale_acts_by_decoder_norm
                      both select and store n pre, n = ||W_dec[f]||, and decode acts / n: read with the norms folded in
    jumprelu          max(pre, 0) 1[pre > threshold]
    gated             1[z @ W_enc + b_gate > 0] max(z @ (W_enc exp(r_mag)) + b_mag, 0); no b_enc
    transcoder        reads hook_name, writes hook_name_out; never centered, what it writes never denormalized.
                      Also skip_transcoder, jumprelu_transcoder, jumprelu_skip_transcoder; W_skip [d_out, d_in]
    matching_pursuit  repeatedly the largest positive correlation with a row of W_dec, until the residual is below
                      residual_threshold or a choice is not new; b_dec only if apply_b_dec_to_input
    batchtopk, matryoshka_batchtopk   in checkpoints of training alone: jumprelu at topk_threshold in every feature

Activation scale. ``expected_average_only_in`` in a finished file says how it was trained, and is folded in already; its
factor is not kept. Some releases never were, and SAELens knows their factors by name: ``scale="0.42"`` folds one. A
checkpoint is not folded: ``activation_scaler.json`` beside it holds the factor s, and with ``covariance_whitening`` a
matrix: read as SAELens itself exports the checkpoint. Then activations stay as in training (acts_scale = s), except
that with rescaled norms SAELens' fold leaves them in raw units, and topk_threshold / s.

Traps. Without a version of at least 6 the flat keys of older files are meant (``formats.saelens_old``). A threshold may
be negative, and then means 0. SAELens casts all tensors to cfg.json's dtype; here they stay as stored. Its
matching_pursuit takes rows for unit ones, which they are not once its own fold has divided them: here a row's norm is
its activation's unit. Runs that folded BatchTopK before its threshold followed (its issue 763), and runs before b_dec
did (354), left files off by the factor, which no file says.

Source: SAELens 6.54, ``saes/*.py``, ``loading/pretrained_sae_loaders.py``, ``training/activation_scaler.py``.
Shapes: d width, F features.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from monoscope.core.errors import DataError
from monoscope.dictionaries import Dictionary
from monoscope.formats.folder import Folder
from monoscope.formats.layout import Layout, Receipt
from monoscope.formats.opened import About, Opened, check_keys
from monoscope.formats.saelens_reading import CONFIG, WEIGHTS, joined, opened

NEWEST = 6
SETTINGS = {"architecture", "d_in", "d_sae", "dtype", "device", "apply_b_dec_to_input", "normalize_activations"}
SETTINGS |= {"reshape_activations", "metadata", "sae_lens_version", "k", "rescale_acts_by_decoder_norm", "d_out"}
SETTINGS |= {"residual_threshold", "max_iterations", "stop_on_duplicate_support"}
OF_TRAINING = {"decoder_init_norm", "use_sparse_activations", "aux_loss_coefficient", "topk_threshold_lr"}
OF_TRAINING |= {"matryoshka_widths", "use_matryoshka_aux_loss", "l1_coefficient", "lp_norm", "l1_warm_up_steps"}
OF_TRAINING |= {"jumprelu_init_threshold", "jumprelu_bandwidth", "jumprelu_sparsity_loss_mode", "jumprelu_tanh_scale"}
OF_TRAINING |= {"l0_coefficient", "l0_warm_up_steps", "pre_act_loss_coefficient", "jumprelu_ste_to_input", "target_l0"}


class SAELens(Layout):
    """A directory of SAELens 6, or a set of them."""

    name: ClassVar[str] = "saelens"
    choices: ClassVar[Mapping[str, tuple[str, ...]]] = {"scale": ()}

    def evidence(self, folder: Folder) -> str | None:
        """Its two files, with a version of at least 6."""
        entries = directories(folder)
        if not entries:
            return None
        name = joined(entries[0], CONFIG)
        version = version_of(folder.json(name), folder.where(name))
        if version is None or version < (6,):
            return None
        return f"{CONFIG} of version {'.'.join(map(str, version))}, and {WEIGHTS}"

    def entries(self, folder: Folder) -> list[str]:
        """The directory itself, or those of a set."""
        return directories(folder)

    def read(self, folder: Folder, entry: str = "", choices: Mapping[str, str] | None = None) -> Opened:
        """One dictionary."""
        config = folder.json(joined(entry, CONFIG))
        version_of(config, folder.where(joined(entry, CONFIG)))
        details = (config.get("metadata") or {}).get("training_architecture_details") or {}
        check_keys(config, SETTINGS | OF_TRAINING | set(details), folder.where(joined(entry, CONFIG)))
        return opened(self.name, folder, entry, config, choices)

    def write(self, dictionary: Dictionary, directory: Path, about: About) -> Receipt:
        """What SAELens 6 loads; see ``formats.saelens_writing``."""
        from monoscope.formats.saelens_writing import write

        return write(dictionary, directory, about)


def directories(folder: Folder) -> list[str]:
    """Directories with both files: the folder's own alone, if it has them."""
    names = set(folder.names())
    if CONFIG in names and WEIGHTS in names:
        return [""]
    return sorted(
        name.removesuffix("/" + CONFIG)
        for name in names
        if name.endswith("/" + CONFIG) and name.removesuffix(CONFIG) + WEIGHTS in names
    )


def version_of(config: Mapping[str, Any], where: str) -> tuple[int, ...] | None:
    """The version of SAELens that a configuration names; None where it names none.

    Raises DataError for one that is no version, or is newer than any whose rules are known.
    """
    metadata = config.get("metadata")
    said = config.get("sae_lens_version") or (metadata.get("sae_lens_version") if isinstance(metadata, dict) else None)
    if said is None:
        return None
    found = re.match(r"(\d+)\.(\d+)", str(said))
    if found is None:
        raise DataError(f"{where}: sae_lens_version is {said!r}, which is no version")
    version = (int(found[1]), int(found[2]))
    if version >= (NEWEST + 1,):
        raise DataError(f"{where} is of SAELens {said}, and rules are known up to {NEWEST}: refused")
    return version
