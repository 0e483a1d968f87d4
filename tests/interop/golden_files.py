"""What the generators of golden files share: seeded numbers, and the two files that stand beside a library's own.

    io.safetensors   x, acts and recon, as the library computed them
    made.json        the library, its version and torch's, the script, and a note where the case is out of the ordinary

Imported by scripts that run in a library's own environment, where monoscope is not installed.
"""

from __future__ import annotations

import json
import shutil
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

GOLDEN = Path(__file__).parents[1] / "golden"


class Numbers:
    """Seeded random tensors: asymmetric, of uneven norms, and with means, so that no wrong rule gives the same."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def normal(self, *shape: int, scale: float = 1.0, mean: float = 0.0) -> torch.Tensor:
        """Normal entries."""
        return mean + scale * torch.randn(*shape, generator=self.generator)

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> torch.Tensor:
        """Uniform entries."""
        return low + (high - low) * torch.rand(*shape, generator=self.generator)

    def x(self, *shape: int) -> torch.Tensor:
        """Activations: tokens of different length around a mean that is not 0, some dimensions wider than others."""
        width = shape[-1]
        return (self.normal(*shape) * self.uniform(width, low=0.5, high=2.0) + self.normal(width)) * self.uniform(
            *shape[:-1], 1, low=0.3, high=3.0
        )

    def rows(self, n: int, width: int) -> torch.Tensor:
        """Rows of norms between 0.3 and 3."""
        rows = self.normal(n, width)
        return rows / rows.norm(dim=1, keepdim=True) * self.uniform(n, 1, low=0.3, high=3.0)


def start(library: str, case: str) -> Path:
    """An empty directory for a case."""
    directory = GOLDEN / library / case
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    return directory


def finish(
    directory: Path, package: str, x: torch.Tensor, acts: torch.Tensor, recon: torch.Tensor, **notes: Any
) -> None:
    """Write what the library computed, and with what it was made; refuse a case that shows nothing."""
    x, acts, recon = (value.detach().float().contiguous() for value in (x, acts, recon))
    share = (acts != 0).float().mean().item()
    assert 0 < share < 1, f"{directory}: {share:.0%} of the features fire, so that a wrong rule could go unnoticed"
    assert recon.isfinite().all(), directory
    save_file({"x": x, "acts": acts, "recon": recon}, directory / "io.safetensors")
    made = {
        "package": package,
        "version": version(package),
        "torch": torch.__version__,
        "script": Path(sys.argv[0]).name,
    }
    (directory / "made.json").write_text(json.dumps({**made, **notes}, indent=1) + "\n")
    print(f"{directory.relative_to(GOLDEN.parent)}  {share:.0%} active")
