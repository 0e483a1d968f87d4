"""Environments of the libraries that monoscope is compared with: as readers and writers of files, and in speed.

    python tests/interop/environments.py interop         builds those whose files are exchanged, under build/interop/
    python tests/interop/environments.py bench           builds those that train
    python tests/interop/environments.py sae-lens        builds one

Each holds one library at the version below, beside the torch that monoscope itself is tested with. Building prints
nothing unless it fails, and goes on where it stopped: a finished environment has a file ``.installed`` that names what
is in it. ``INTEROP_ENVIRONMENTS`` names another directory to build in. Only the standard library is used here.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

TORCH = "torch==2.13.0"

REQUIREMENTS: dict[str, tuple[str, ...]] = {
    "sae-lens": ("sae-lens==6.54.12",),
    "eai-sparsify": ("eai-sparsify==1.3.3",),
    "dictionary-learning": ("dictionary-learning==0.1.0",),
    "llamascopium": ("llamascopium==2.0.0b34", "transformer-lens<4"),
    "circuit-tracer": ("circuit-tracer==0.5.0",),
    "overcomplete": ("overcomplete==0.3.0", "matplotlib<3.9"),
}

GROUPS: dict[str, tuple[str, ...]] = {
    "interop": ("sae-lens", "eai-sparsify", "dictionary-learning", "llamascopium", "circuit-tracer"),
    "bench": ("sae-lens", "eai-sparsify", "dictionary-learning", "llamascopium", "overcomplete"),
}

UNWANTED: dict[str, tuple[str, ...]] = {"dictionary-learning": ("torchvision",)}
"""What comes along and is of no use: a build for CUDA does not import beside a torch for the CPU."""


def root() -> Path:
    """Where environments are built."""
    return Path(os.environ.get("INTEROP_ENVIRONMENTS") or Path(__file__).parents[2] / "build" / "interop").resolve()


def python_of(name: str) -> Path:
    """The interpreter of an environment, built or not."""
    return root() / name / "bin" / "python"


def is_built(name: str) -> bool:
    """Whether an environment is complete and holds the versions named here."""
    marker = root() / name / ".installed"
    return marker.is_file() and marker.read_text().split() == [TORCH, *REQUIREMENTS[name]]


def build(name: str) -> None:
    """Build an environment, or finish one that was interrupted."""
    if is_built(name):
        return
    started, directory = time.monotonic(), root() / name
    print(f"{name}: installing {' '.join(REQUIREMENTS[name])} ...", flush=True)
    directory.mkdir(parents=True, exist_ok=True)
    if not python_of(name).exists():
        _run([sys.executable, "-m", "venv", str(directory)])
    constraints = directory / "constraints.txt"
    constraints.write_text(TORCH + "\n")
    install = [str(python_of(name)), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    _run([*install, "-c", str(constraints), TORCH, *REQUIREMENTS[name]])
    if name in UNWANTED:
        _run([str(python_of(name)), "-m", "pip", "uninstall", "--quiet", "--yes", *UNWANTED[name]])
    (directory / ".installed").write_text("\n".join([TORCH, *REQUIREMENTS[name]]) + "\n")
    print(f"{name}: ready after {time.monotonic() - started:.0f} s", flush=True)


def _run(command: list[str]) -> None:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        sys.exit(f"{done.stdout}\n{' '.join(command)} failed with {done.returncode}; run this again to go on")


def main(names: list[str]) -> None:
    """Build the named environments and those of the named groups, or all."""
    if unknown := sorted(set(names) - set(REQUIREMENTS) - set(GROUPS)):
        sys.exit(f"no environment is called {', '.join(unknown)}; known: {', '.join((*GROUPS, *REQUIREMENTS))}")
    for one in dict.fromkeys(one for name in names or REQUIREMENTS for one in GROUPS.get(name, (name,))):
        build(one)


if __name__ == "__main__":
    main(sys.argv[1:])
