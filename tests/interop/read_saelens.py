"""Reads what monoscope writes for SAELens, with SAELens. Run in the environment ``sae-lens``."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import torch
from peer_files import read_all
from sae_lens import SAE


def read(directory: Path, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Activations and reconstruction by ``SAE.load_from_disk``; metadata has to survive it."""
    sae = SAE.load_from_disk(directory)
    said = json.loads((directory / "cfg.json").read_text())["metadata"]
    for key in ("hook_name", "model_name", "context_size", "prepend_bos"):
        assert getattr(sae.cfg.metadata, key) == said[key], key
    if (sae.cfg.metadata.model_from_pretrained_kwargs or {}).get("center_writing_weights"):
        recon = sae(x - x.mean(-1, keepdim=True)) + x.mean(-1, keepdim=True)
        return sae.encode(x - x.mean(-1, keepdim=True)), recon
    if sae.cfg.reshape_activations == "hook_z":
        heads = x.view(len(x), 2, -1)
        return sae.encode(heads), sae(heads).flatten(1)
    return sae.encode(x), sae(x)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    read_all(read)
