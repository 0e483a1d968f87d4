"""Compiles the kernels with the system's C++ compiler, once per source, compiler and instruction set.

The result lies in ``$XDG_CACHE_HOME/monoscope/native`` (``~/.cache`` by default) under the hash of all that it depends
on; it is written beside its place and moved there, so processes that build at once do no harm. Nothing is compiled when
monoscope is installed, and nothing outside that directory is written.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shlex
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import torch

from monoscope.core.errors import OutputError
from monoscope.core.io import atomic_path

log = logging.getLogger("monoscope.native")

SOURCES = tuple(sorted(path for path in Path(__file__).parent.iterdir() if path.suffix in (".cpp", ".h")))
FLAGS = (
    *("-std=c++17", "-O3", "-shared", "-fPIC", "-fvisibility=hidden", "-pthread"),
    *("-fopenmp-simd", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math"),
)
INSTRUCTIONS = {
    "AVX512": (
        *("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx2", "-mfma", "-mf16c"),
        "-mprefer-vector-width=512",
    ),
    "AVX2": ("-mavx2", "-mfma", "-mf16c"),
    "portable": (),
}
INSTRUCTIONS["AVX512_VNNI"] = ("-mavx512vnni", *INSTRUCTIONS["AVX512"])  # multiplies 8-bit numbers
LONGEST = 120  # seconds that a compiler may take; it needs about 3


class Unavailable(Exception):
    """Why there are no compiled kernels; the message says what would change that."""


def instructions() -> str:
    """The widest instruction set of this processor that kernels are built for, as PyTorch sees it."""
    found = torch.backends.cpu.get_cpu_capability()
    has_vnni = getattr(torch.cpu, "_is_vnni_supported", lambda: False)
    if found == "AVX512" and has_vnni():
        return "AVX512_VNNI"
    return found if found in INSTRUCTIONS else "portable"


def build(instruction_set: str) -> Path:
    """The shared library for an instruction set, compiled unless it lies in the cache. Raises Unavailable."""
    if sys.platform == "win32":
        raise Unavailable("they are not built on Windows")
    compiler = _compiler()
    command = [*compiler, *FLAGS, *INSTRUCTIONS[instruction_set]]
    path = _directory() / f"{_key(command)}.so"
    if not path.is_file():
        _compile(command, path)
    return path


def _compiler() -> list[str]:
    asked = shlex.split(os.environ.get("CXX", ""))
    for name, *arguments in [asked] if asked else [["c++"], ["g++"], ["clang++"]]:
        if found := shutil.which(name):
            return [found, *arguments]
    raise Unavailable(f"no C++ compiler ({asked[0] if asked else 'c++, g++ or clang++'}) is on PATH; install one")


def _directory() -> Path:
    """The cache, which nobody else may write to: what lies there is run."""
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        path = (base if base.is_absolute() else Path.home() / ".cache") / "monoscope" / "native"
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        facts = path.stat()
    except (OSError, RuntimeError) as error:  # a user without a home is a RuntimeError
        raise Unavailable(f"a cache for them cannot be made: {error}") from error
    if facts.st_uid != os.geteuid() or facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise Unavailable(f"the cache {path} can be written to by others; make it yours alone (chmod 700)")
    return path


def _key(command: list[str]) -> str:
    facts = os.stat(command[0])
    parts = [*command, str(facts.st_size), str(facts.st_mtime_ns)]
    parts += [f"{path.name}\n{path.read_text(encoding='utf-8')}" for path in SOURCES]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def _compile(command: list[str], path: Path) -> None:
    source = next(source for source in SOURCES if source.suffix == ".cpp")
    log.info("Compiling CPU kernels, once: %s", " ".join(command))
    environment = {**os.environ, "TMPDIR": str(path.parent), "LC_ALL": "C"}  # passing files there, messages in English
    try:
        with atomic_path(path) as target:
            done = subprocess.run(
                [*command, str(source), "-o", str(target)],
                capture_output=True,
                text=True,
                timeout=LONGEST,
                env=environment,
            )
            if done.returncode:
                lines = done.stderr.splitlines()
                first = next((line for line in lines if "error" in line), lines[0] if lines else "without a message")
                raise Unavailable(f"{command[0]} failed to compile them: {first.strip()}")
    except subprocess.TimeoutExpired as error:
        raise Unavailable(f"{command[0]} took longer than {LONGEST} s to compile them") from error
    except (OSError, OutputError) as error:
        raise Unavailable(f"they could not be written to {path.parent}: {error}") from error
