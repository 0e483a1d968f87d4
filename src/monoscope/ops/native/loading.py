"""Which kernels this process has: the compiled ones, or None and one line of the log that says why not.

``MONOSCOPE_NATIVE=0`` asks for pure PyTorch. Both compute the same sums, in another order: a run that is resumed on the
other path goes on with differences of rounding.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from monoscope.ops.native.building import Unavailable, build, instructions, log
from monoscope.ops.native.kernels import Kernels

_lock = threading.Lock()
_loaded: list[Kernels | None] = []


def kernels() -> Kernels | None:
    """The compiled kernels, built at the first call; None where there are none, or while torch.compile traces."""
    if torch.compiler.is_compiling():
        return None
    if not _loaded:
        with _lock:
            if not _loaded:
                _loaded.append(_load_or_say_why())
    return _loaded[0]


@contextmanager
def pure_pytorch() -> Iterator[None]:
    """Within, this process has no kernels: what PyTorch alone computes, and how fast, can be compared."""
    before = list(_loaded)
    _loaded[:] = [None]
    try:
        yield
    finally:
        _loaded[:] = before


def _load_or_say_why() -> Kernels | None:
    if os.environ.get("MONOSCOPE_NATIVE", "1") == "0":
        return None
    try:
        return load(instructions())
    except Unavailable as why:
        log.warning("No compiled CPU kernels, PyTorch serves more slowly: %s. MONOSCOPE_NATIVE=0 asks for none.", why)
        return None


def load(instruction_set: str) -> Kernels:
    """The kernels for one instruction set. Raises Unavailable."""
    try:
        return Kernels(ctypes.CDLL(str(build(instruction_set))), _openmp())
    except OSError as error:  # compiled, and not for this system
        raise Unavailable(f"they could not be loaded ({error})") from error


def _openmp() -> ctypes.c_void_p | None:
    """Where PyTorch's OpenMP runtime starts its threads; None where it has none that can be found."""
    here = sorted((Path(torch.__file__).parent / "lib").glob("lib*omp*"))
    for path in [*map(str, here), None]:
        try:
            return ctypes.cast(ctypes.CDLL(path).GOMP_parallel, ctypes.c_void_p)
        except (OSError, AttributeError):
            continue
    return None
