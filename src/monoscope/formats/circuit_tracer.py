"""circuit-tracer: sets of transcoders, one for each layer, and cross-layer transcoders (CLTs). Read and written.

    config.yaml      model_name, model_kind, feature_input_hook, feature_output_hook, scan; TopK sets: activation, k

    transcoder_set, an entry for each layer_{i}.safetensors, layers 0..L-1 with equally many features:
        W_enc [F, d]  b_enc [F]  W_dec [F, d]  b_dec [d]  optional W_skip [d, d], activation_function.threshold [F]
        acts = phi(x @ W_enc.T + b_enc)        recon = acts @ W_dec + b_dec + x @ W_skip.T

    cross_layer_transcoder:
        W_enc_{i}.safetensors   W_enc_{i} [F, d]  b_enc_{i} [F]  b_dec_{i} [d]  optional threshold_{i} [F]
        W_dec_{i}.safetensors   W_dec_{i} [F, L - i, d]: row j of a feature writes layer i + j
        recon_t = sum_{i <= t} acts_i @ W_dec_i[:, t - i] + b_dec_t

phi is JumpReLU where there are thresholds, TopK where config.yaml says so, else ReLU. Nothing is centered.

Traps. Its TopK has no ReLU: where fewer than k are positive, it keeps negative ones. What is read is told by the hook's
name alone: ``hook_resid_mid`` is the raw stream, ``ln2.hook_normalized`` normalized before the gain, ``mlp.hook_in``
after it. ``b_dec_i`` belongs to the layer that is written. One ``W_dec_i`` row block is read alone. Features and errors
at the first position are zeroed where the library attributes (the first four of Gemma 3 chat models).

Source: decoderesearch/circuit-tracer ``transcoder/*.py``, ``utils/hf_utils.py``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from monoscope.core.errors import DataError
from monoscope.dictionaries import Dictionary
from monoscope.formats.circuit_tracer_reading import (
    CLT,
    CONFIG,
    ENCODER,
    INPUTS,
    LAYER,
    NAME,
    NEEDED,
    SET,
    cross_layer,
    listed,
    numbered,
    transcoder,
)
from monoscope.formats.folder import Folder
from monoscope.formats.hub_file import SCHEME
from monoscope.formats.layout import Layout, Receipt
from monoscope.formats.opened import About, Opened, check_keys

_KEYS = {
    "model_name", "model_kind", "feature_input_hook", "feature_output_hook", "scan", "transcoders", "activation", "k",
    "subfolder", "repo_id", "revision",
}  # fmt: skip


class CircuitTracer(Layout):
    """A set of transcoders, or a CLT."""

    name: ClassVar[str] = NAME
    choices: ClassVar[Mapping[str, tuple[str, ...]]] = {"reads": tuple(INPUTS)}

    def evidence(self, folder: Folder) -> str | None:
        """A config.yaml with model_kind, or files named as the library names them."""
        try:
            kind = self._config(folder).get("model_kind")
        except DataError:  # somebody else's, or broken; where the files are this layout's, reading says so
            kind = None
        if kind in (SET, CLT):
            return f"{CONFIG} with model_kind: {kind}"
        names = set(folder.names())
        if "W_enc_0.safetensors" in names and "W_dec_0.safetensors" in names:
            return "W_enc_0.safetensors and W_dec_0.safetensors"
        first = next((name for name in sorted(names) if LAYER.fullmatch(name)), None)
        if first is not None and {*folder.tensors(first)} >= NEEDED:
            return f"{first} with W_enc and W_dec"
        return None

    def entries(self, folder: Folder) -> list[str]:
        """The files of a set, by layer; a CLT is one dictionary."""
        if self._is_cross_layer(folder):
            return [""]
        config = self._config(folder)
        if "transcoders" in config:
            return listed(config, folder)
        found = numbered(folder, LAYER, str(config.get("subfolder") or ""))
        return [found[layer] for layer in sorted(found)]

    def read(self, folder: Folder, entry: str = "", choices: Mapping[str, str] | None = None) -> Opened:
        """One layer's transcoder, or the CLT."""
        config, choices = self._config(folder), choices or {}
        check_keys(config, _KEYS, folder.where(CONFIG))
        if self._is_cross_layer(folder):
            return cross_layer(folder, config, choices)
        names = listed(config, folder) if "transcoders" in config else []
        if entry in names:
            layer = names.index(entry)
            if SCHEME in entry:
                return self._elsewhere(folder, entry, layer, config, choices)
            return transcoder(folder, entry, layer, config, choices)
        match = LAYER.fullmatch(entry)
        if match is None:
            raise DataError(f"{folder.where(entry)} is not named layer_i.safetensors, which says the layer")
        return transcoder(folder, entry, int(match[2]), config, choices)

    def _elsewhere(
        self, folder: Folder, ref: str, layer: int, config: Mapping[str, Any], choices: Mapping[str, str]
    ) -> Opened:
        """A file of another repository: of this layout, or of whoever published it."""
        from monoscope.formats.open import find, folder_of

        there = folder_of(ref)
        words = f"{folder.name} lists it as layer {layer}"
        if there.focus.endswith(".safetensors") and {*there.tensors(there.focus)} >= NEEDED:
            opened = transcoder(there, there.focus, layer, config, choices)
        else:
            opened = find(ref).open()
        about = dataclasses.replace(opened.about, where=ref, inferred=(*opened.about.inferred, words))
        return dataclasses.replace(opened, about=about)

    def _config(self, folder: Folder) -> dict[str, Any]:
        return folder.yaml(CONFIG) if folder.has(CONFIG) else {}

    def _is_cross_layer(self, folder: Folder) -> bool:
        kind = self._config(folder).get("model_kind")
        if kind is not None and kind not in (SET, CLT):
            raise DataError(f"{folder.where(CONFIG)} has model_kind {kind!r}; known: {SET}, {CLT}")
        return kind == CLT if kind else any(ENCODER.fullmatch(name) for name in folder.names())

    def write(self, dictionary: Dictionary, directory: Path, about: About) -> Receipt:
        """A CLT, or a set of the one layer 0."""
        from monoscope.formats.circuit_tracer_write import write

        return write(dictionary, directory, about)

    def write_set(self, dictionaries: Sequence[Dictionary], directory: Path, about: About) -> Receipt:
        """A set of all layers."""
        from monoscope.formats.circuit_tracer_write import write_set

        return write_set(dictionaries, directory, about)
