"""Other libraries as readers of what we write: each in an environment of its own, by a script that runs there."""

from __future__ import annotations

import importlib.util
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from safetensors.torch import load_file
from torch import Tensor

INTEROP, GOLDEN = Path(__file__).parent / "interop", Path(__file__).parent / "golden"
PEERS = {
    "saelens": ("sae-lens", "read_saelens.py"),
    "sparsify": ("eai-sparsify", "read_sparsify.py"),
    "dictionary_learning": ("dictionary-learning", "read_dictionary_learning.py"),
    "llamascopium": ("llamascopium", "read_llamascopium.py"),
    "circuit_tracer": ("circuit-tracer", "read_circuit_tracer.py"),
}
"""Layouts whose files another library reads here: its environment, and its script."""


def environment(name: str) -> Path:
    """The interpreter of a library's environment."""
    spec = importlib.util.spec_from_file_location("environments", INTEROP / "environments.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.is_built(name), f"the environment {name} is not built: python tests/interop/environments.py {name}"
    return module.python_of(name)


def read_by_peer(layout: str, directory: Path) -> None:
    """Let a library read every case below a directory."""
    name, script = PEERS[layout]
    clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [environment(name), INTEROP / script, directory],
        capture_output=True,
        text=True,
        env={**clean, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-4000:]


class Wanted(Protocol):
    """What we compute of a case."""

    acts: Tensor
    recon: Tensor


@dataclass
class Agreement:
    """How a library's own numbers compare with ours: its largest differences, and what is wrong, by case."""

    acts: float = 0.0
    recon: float = 0.0
    wrong: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"largest difference of activations {self.acts:.1e}, of reconstructions {self.recon:.1e}"


def agreement(directory: Path, wanted: Mapping[str, Wanted]) -> Agreement:
    """Compare what a library left beside every case: the same features fire, and values agree to 1e-5."""
    found = Agreement()
    for name, want in wanted.items():
        if (directory / name / "refused.txt").exists():
            found.wrong[name] = (directory / name / "refused.txt").read_text()[-600:]
            continue
        theirs = load_file(directory / name / "theirs.safetensors")
        if not torch.equal(theirs["acts"] != 0, want.acts != 0):
            found.wrong[name] = "other features fire"
            continue
        for key, value in (("acts", want.acts), ("recon", want.recon)):
            error = ((theirs[key] - value).abs() / (1 + value.abs())).max().item()
            setattr(found, key, max(getattr(found, key), error))
            if not error <= 1e-5:
                found.wrong[name] = f"{key} off by {error:.2g}"
    return found
