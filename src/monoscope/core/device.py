"""Devices by name, and what to do where one cannot be used."""

from __future__ import annotations

import torch

from monoscope.core.errors import ConfigError


def usable(name: str) -> torch.device:
    """The device of a name; 'auto' is a GPU where there is one. Raises ConfigError, saying what is missing."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        if device.type == "cuda":
            _check_cuda(name, device.index or 0)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"device: {name!r} cannot be used here: {str(error).splitlines()[0]}") from None
    return device


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
