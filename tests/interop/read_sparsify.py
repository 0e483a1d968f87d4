"""Reads what monoscope writes for sparsify, with sparsify. Run in the environment ``eai-sparsify``."""

from __future__ import annotations

from pathlib import Path

import torch
from peer_files import read_all
from sparsify import SparseCoder


def read(directory: Path, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Activations and reconstruction by ``SparseCoder.load_many``, as for a run on disk; without a site, by itself."""
    if (directory / "cfg.json").exists():
        coder = SparseCoder.load_from_disk(directory)
    else:
        coders = SparseCoder.load_many(str(directory), local=True)
        assert len(coders) == 1, sorted(coders)
        (coder,) = coders.values()
    top, indices, _ = coder.encode(x)
    return torch.zeros(len(x), coder.num_latents).scatter_(-1, indices, top), coder(x).sae_out


if __name__ == "__main__":
    read_all(read)
