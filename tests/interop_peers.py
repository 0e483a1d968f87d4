"""Other libraries as readers of what we write: each in an environment of its own, by a script that runs there."""

from __future__ import annotations

import importlib.util
import os
import subprocess
from pathlib import Path

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
