"""Reads what monoscope writes for dictionary_learning, with it. Run in the environment ``dictionary-learning``."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from dictionary_learning.dictionary import AutoEncoder, AutoEncoderNew, GatedAutoEncoder, JumpReluAutoEncoder
from dictionary_learning.trainers.batch_top_k import BatchTopKSAE
from dictionary_learning.trainers.top_k import AutoEncoderTopK
from dictionary_learning.utils import load_dictionary
from peer_files import read_all

CLASSES = {
    name.__name__: name
    for name in (AutoEncoder, AutoEncoderNew, GatedAutoEncoder, JumpReluAutoEncoder, BatchTopKSAE, AutoEncoderTopK)
}


def read(directory: Path, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Activations and reconstruction by the class that config.json names, and by ``load_dictionary`` where it can."""
    kind = json.loads((directory / "config.json").read_text())["trainer"]["dict_class"]
    keep_norms = {"normalize_decoder": False} if kind == "AutoEncoder" else {}
    made = CLASSES[kind].from_pretrained(str(directory / "ae.pt"), **keep_norms)
    acts = made.encode(x)
    recon = made.decode(acts)
    loaded, config = load_dictionary(str(directory), "cpu")
    assert type(loaded) is type(made)
    assert config["trainer"]["dict_class"] == kind
    torch.testing.assert_close(loaded(x), recon, rtol=1e-4, atol=1e-4)
    return acts, recon


if __name__ == "__main__":
    read_all(read)
