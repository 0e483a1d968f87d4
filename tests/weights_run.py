"""Processes that share a model's weights: what they read, and how much each holds. Says so as JSON, one line each.

python weights_run.py MODEL, in the environment of two processes of a launcher
"""

from __future__ import annotations

import json
import sys

import torch
from torch import nn

from monoscope.core.ranks import rank_and_ranks
from monoscope.harvest.live import live
from monoscope.harvest.source import in_step
from monoscope.harvest.text.pack import TokenWindows
from monoscope.models import LanguageModel
from monoscope.parallel.mesh import collect, meshed

SITES = ("0.resid_post", "1.mlp_out")


def held(lm: LanguageModel) -> int:
    """Numbers that this process holds of the blocks' weights."""
    return sum(_own(parameter).numel() for block in lm.hf.base_model.layers for parameter in block.parameters())


def _own(parameter: nn.Parameter) -> torch.Tensor:
    return getattr(parameter, "to_local", lambda: parameter)()


def main(path: str) -> None:
    """Read, alone and together."""
    torch.set_num_threads(1)
    rank, _ = rank_and_ranks()
    lm = LanguageModel.from_pretrained(path)
    tokens = torch.randint(0, lm.vocab_size, (7, 24), generator=torch.Generator().manual_seed(rank))
    windows = TokenWindows.from_tokens(tokens[: 7 - 4 * rank])  # of the second process, fewer
    source = live(lm, windows, SITES, windows_per_batch=2)
    alone, before, known = list(source), held(lm), lm.fingerprint()
    with meshed() as mesh:
        lm.share_weights_(mesh.every, SITES)
        for _ in range(2):
            with in_step(source):
                together = list(source)
            sizes = collect(mesh, [before, held(lm)])
        same = all(
            torch.equal(a.activations[site], b.activations[site])
            for a, b in zip(alone, together, strict=True)
            for site in a.activations
        )
        notes = len(lm.hf.get_submodule("")._get_fsdp_state()._comm_ctx.post_forward_order)  # type: ignore[operator]
        found = {"same": same, "batches": len(together), "notes": notes, "known": known == lm.fingerprint()}
        told = collect(mesh, found)
    if rank == 0:
        print(json.dumps({"held": sizes, "found": told}))


if __name__ == "__main__":
    main(sys.argv[1])
