"""Reads what monoscope writes for llamascopium, with it. Run in the environment ``llamascopium``."""

from __future__ import annotations

from pathlib import Path

import torch
from llamascopium.models import clt, crosscoder, lorsa, molt, sae  # noqa: F401  (makes the types known)
from llamascopium.models.sparse_dictionary import SparseDictionary
from peer_files import read_all


def read(directory: Path, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Activations and reconstruction by ``from_pretrained``, normalized and scaled back by the library itself.

    Layers and sites are an axis before the width; of a crosscoder all gates are given.
    """
    made = SparseDictionary.from_pretrained(str(directory))
    cfg = made.cfg
    several = cfg.sae_type in ("clt", "crosscoder")
    batch = {hook: x[..., i, :] if several else x for i, hook in enumerate(cfg.hooks_in)}
    batch = {hook: torch.zeros_like(x[..., 0, :] if several else x) for hook in cfg.hooks_out} | batch
    scaled, factors = made.normalize_activations(batch, return_scale_factor=True)
    inputs, encode, decode = made.prepare_input(scaled)
    acts = made.encode(inputs, **encode)
    recon = made.decode(acts, **decode)
    if cfg.sae_type == "clt":
        recon = recon.movedim(0, 1)
    if several:
        recon = torch.stack([recon[:, i] / factors[hook] for i, hook in enumerate(cfg.hooks_out)], 1)
        return acts, recon
    factor = factors[cfg.hooks_out[0]] if cfg.norm_activation != "token-wise" else factors[cfg.hooks_in[0]]
    return acts, recon / factor


if __name__ == "__main__":
    read_all(read)
