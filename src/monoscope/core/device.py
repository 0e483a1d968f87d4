"""Devices by name, and what to do where one cannot be used."""

from __future__ import annotations

import torch

from monoscope.core.errors import ConfigError
from monoscope.core.ranks import local_rank_and_ranks


def usable(name: str) -> torch.device:
    """The device of a name; 'auto' is a GPU where there is one. Raises ConfigError, saying what is missing.

    Of the processes that ``torchrun`` starts on a machine each has a GPU of its own, in order, unless one is named by
    its number.
    """
    if name == "auto" and not torch.cuda.is_available():
        return torch.device("cpu")
    number, processes = local_rank_and_ranks()
    if processes > 1 and name in ("auto", "cuda"):
        name = _own(number, processes)
    elif name == "auto":
        return torch.device("cuda")
    try:
        device = torch.device(name)
        if device.type == "cuda":
            _check_cuda(name, device.index or 0)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"device: {name!r} cannot be used here: {str(error).splitlines()[0]}") from None
    return device


def _own(number: int, processes: int) -> str:
    """The GPU of one of the processes on this machine."""
    count = torch.cuda.device_count()
    if 0 < count < processes:
        have = f"{count} GPU{'s' * (count > 1)}"
        raise ConfigError(
            f"device: {processes} processes were started on this machine, and PyTorch sees {have}; start "
            f"{count} with torchrun (--nproc-per-node {count}), or set device = 'cpu', or name a GPU that processes "
            "are to share, as in 'cuda:0'"
        )
    return f"cuda:{number}"


def _check_cuda(name: str, index: int) -> None:
    if not torch.backends.cuda.is_built():
        raise ConfigError(
            f"device: {name!r} cannot be used here: this PyTorch, {torch.__version__}, was built without CUDA; install "
            "the build for your GPU from pytorch.org, or set device = 'cpu'"
        )
    count = torch.cuda.device_count()
    if count == 0:
        raise ConfigError(
            f"device: {name!r} cannot be used here: PyTorch {torch.__version__} sees no GPU; look at nvidia-smi and "
            "CUDA_VISIBLE_DEVICES, or set device = 'cpu'"
        )
    if index >= count:
        raise ConfigError(f"device: {name!r} cannot be used here: the last of {count} GPUs is 'cuda:{count - 1}'")
