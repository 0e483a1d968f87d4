"""Models, dictionaries and facts of bundles that the worker holds in memory; the least recently used go first."""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32
from pydantic import BaseModel, ConfigDict

from monoscope.core.errors import DataError, MismatchError, ModelError, UserError
from monoscope.dictionaries import Dictionary
from monoscope.features import FeatureBundle
from monoscope.features.vocabulary import Vocabulary
from monoscope.formats import load as load_dictionary
from monoscope.models import LanguageModel
from monoscope.server.worker.readings import Readings

MOST_BUNDLES = 64
MOST_HASHED = 2**31  # bytes of weights that are hashed to tell whether a model is the one it should be
log = logging.getLogger("monoscope.worker")


class Target(BaseModel):
    """A dictionary as the server names it.

    path: of the dictionary; layout: another library's, with the rules chosen that its files leave open, and then the
        fingerprint that it has when it is read so
    bundle: of its features, where there are any
    model: directory of its language model, with its name, and the fingerprint of the one it was trained on
    bos: how windows began in training
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    path: str
    model: str
    model_name: str
    layout: str | None = None
    chosen: dict[str, str] = {}
    fingerprint: str | None = None
    bundle: str | None = None
    model_fingerprint: str | None = None
    bos: str | None = None
    skip_first: int = 1

    def loaded(self) -> dict[str, Any]:
        """See ``wire.activate.Loaded``."""
        return {"path": self.path, "layout": self.layout, "choices": self.chosen}


@dataclass(eq=False)
class Model:
    """A language model, and what was measured on it.

    norms: of the sites that a dictionary writes; losses: on calibration text
    """

    name: str
    lm: LanguageModel
    norms: dict[tuple[str, str | None], float] = field(default_factory=dict)
    losses: dict[tuple[tuple[int, ...], int], float] = field(default_factory=dict)

    @cached_property
    def readings(self) -> Readings:
        """What it read of the last few texts."""
        return Readings(self.lm)

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """Bytes and text of every token."""
        return Vocabulary.of(self.lm.tokenizer, self.lm.vocab_size)

    @cached_property
    def fingerprint(self) -> str | None:
        """SHA-256 of the weights; None where hashing them takes long."""
        return self.lm.fingerprint() if _bytes(self.lm.hf) <= MOST_HASHED else None

    def is_other(self, target: Target) -> bool:
        """Whether a dictionary was trained on other weights, as far as is known."""
        return None not in (target.model_fingerprint, self.fingerprint) and self.fingerprint != target.model_fingerprint


@dataclass(eq=False)
class Facts:
    """What a bundle knows of its features, and sequences of its text."""

    bundle: FeatureBundle

    @cached_property
    def density(self) -> Float32[np.ndarray, " F"]:
        """Share of tokens on which each feature fires."""
        return self.bundle.column("density").astype(np.float32)

    @cached_property
    def max_act(self) -> Float32[np.ndarray, " F"]:
        """Largest activation of each feature; NaN where it never fired."""
        return self.bundle.column("max_act").astype(np.float32)

    @cached_property
    def reference_act(self) -> Float32[np.ndarray, " F"]:
        """99.9th percentile of each feature's activations; the largest where it is not known."""
        reference = self.bundle.column("p999_act").astype(np.float32)
        return np.where(np.isfinite(reference) & (reference != 0), reference, self.max_act)

    def sequences(self, n: int, length: int) -> np.ndarray:
        """Tokens of up to ``n`` of the bundle's sequences that are at least ``length`` long, ``[n, length]``."""
        from safetensors import safe_open

        with safe_open(self.bundle.path / "sequences.safetensors", framework="np") as file:
            lengths = file.get_tensor("length").astype(np.int64)
            rows = np.flatnonzero(lengths >= length)
            if not len(rows):
                return np.zeros((0, length), np.int64)
            chosen = rows[np.linspace(0, len(rows) - 1, min(n, len(rows))).astype(np.int64)]
            tokens = file.get_slice("tokens")
            return np.stack([tokens[int(row) : int(row) + 1, :length][0] for row in np.unique(chosen)]).astype(np.int64)


class Shelf:
    """Loads what tasks ask for, and keeps it while ``most_bytes`` allow."""

    def __init__(self, most_bytes: float, device: str) -> None:
        self.most_bytes, self.device = most_bytes, device
        self._held: OrderedDict[tuple[str, str], tuple[Any, int]] = OrderedDict()
        self._facts: dict[str, Facts] = {}

    def model(self, target: Target) -> Model:
        """The language model of a target."""
        return self._get("model", target.model, lambda: self._load_model(target))

    def dictionary(self, target: Target) -> Dictionary:
        """The dictionary of a target, ready for inference."""
        return self._get("dictionary", target.path, lambda: self._load_dictionary(target))

    def facts(self, target: Target) -> Facts | None:
        """What is known of a target's features; None without a bundle."""
        return None if target.bundle is None else self.bundle(target.bundle)

    def bundle(self, path: str) -> Facts:
        """What a bundle knows of its features."""
        if path not in self._facts:
            if len(self._facts) >= MOST_BUNDLES:
                self._facts.clear()
            self._facts[path] = Facts(FeatureBundle.open(path))
        return self._facts[path]

    def only_model(self, targets: Sequence[Target]) -> Model:
        """The one model of some dictionaries. Raises MismatchError where they are of several."""
        models = {target.model: target.model_name for target in targets}
        if len(models) > 1:
            names = ", ".join(sorted(models.values()))
            raise MismatchError(f"these dictionaries are of {len(models)} models, {names}; choose those of one")
        return self.model(targets[0])

    def held(self) -> list[dict[str, Any]]:
        """What is in memory, the most recently used last."""
        return [{"kind": kind, "name": name, "bytes": size} for (kind, name), (_, size) in self._held.items()]

    def clear(self) -> None:
        """Forget everything."""
        self._held.clear()
        self._facts.clear()

    def _get(self, kind: str, name: str, load: Callable[[], Any]) -> Any:
        key = (kind, name)
        if key not in self._held:
            began, value = time.monotonic(), load()
            self._held[key] = value, (size := _bytes(value.lm.hf if isinstance(value, Model) else value))
            took = time.monotonic() - began
            log.info("%s %s on %s: %.1f MB, loaded in %.1f s", kind, Path(name).name, self.device, size / 1e6, took)
            self._make_room()
        self._held.move_to_end(key)
        return self._held[key][0]

    def _make_room(self) -> None:
        # What is used now is at the end; a pair that alone is too large stays, since it is what was asked for.
        while len(self._held) > 2 and sum(size for _, size in self._held.values()) > self.most_bytes:
            self._held.popitem(last=False)

    def _load_model(self, target: Target) -> Model:
        lm = LanguageModel.from_pretrained(target.model, device=self.device)
        lm.name = target.model_name
        if lm.tokenizer is None:
            raise ModelError(f"the model {lm.name!r} has no tokenizer, so it cannot read a text")
        return Model(lm.name, lm)

    def _load_dictionary(self, target: Target) -> Dictionary:
        if not Path(target.path).exists():
            raise DataError(f"there is no dictionary at {target.path} any more")
        dictionary = load_dictionary(target.path, target.layout, choices=target.chosen)
        if target.layout is not None and dictionary.fingerprint() != target.fingerprint:
            raise MismatchError(
                f"{target.path} holds another dictionary than the one its features are of; analyze it again, or bring "
                "back the files"
            )
        dictionary = dictionary.to(self.device)
        if any(site.model for site in (*dictionary.reads, *dictionary.writes)):
            raise UserError("this dictionary reads several models side by side; live pages run one model")
        return dictionary


def _bytes(module: torch.nn.Module) -> int:
    tensors = {id(tensor): tensor for tensor in module.state_dict().values()}
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
