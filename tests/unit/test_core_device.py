"""Devices by name."""

from __future__ import annotations

import pytest
import torch

from monoscope.core.device import usable
from monoscope.core.errors import ConfigError


def test_auto_is_a_gpu_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert usable("auto") == torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert usable("auto") == usable("cpu") == torch.device("cpu")


@pytest.mark.parametrize(
    ("is_built", "count", "name", "said"),
    [
        (False, 0, "cuda", "built without CUDA; install the build for your GPU"),
        (True, 0, "cuda:0", "sees no GPU; look at nvidia-smi"),
        (True, 2, "cuda:2", "the last of 2 GPUs is 'cuda:1'"),
    ],
)
def test_what_is_missing_is_said(
    monkeypatch: pytest.MonkeyPatch, is_built: bool, count: int, name: str, said: str
) -> None:
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: is_built)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    with pytest.raises(ConfigError, match=f"device: '{name}' cannot be used here: .*{said}"):
        usable(name)


def test_no_device_has_that_name() -> None:
    with pytest.raises(ConfigError, match="device: 'gpu' cannot be used here"):
        usable("gpu")
