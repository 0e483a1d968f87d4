"""What the readers share: for every case below a directory, x in, what a library computes from our files out.

    x.safetensors        x, and what monoscope computed
    theirs.safetensors   acts and recon, by the library's own loader and code
    refused.txt          its error, where it did not open the files

Imported by scripts that run in a library's own environment, where monoscope is not installed.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

Reader = Callable[[Path, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
"""Files of a case and activations in, feature activations and reconstruction out."""


def read_all(read: Reader) -> None:
    """Read every case below the directory that is the script's argument."""
    root = Path(sys.argv[1])
    for file in sorted(root.rglob("x.safetensors")):
        x = load_file(file)["x"]
        try:
            with torch.no_grad():
                acts, recon = read(file.parent, x)
        except Exception:
            (file.parent / "refused.txt").write_text(traceback.format_exc())
            continue
        computed = {"acts": acts, "recon": recon}
        save_file(
            {name: value.float().contiguous() for name, value in computed.items()}, file.parent / "theirs.safetensors"
        )
