"""What the C library keeps of freed memory."""

from __future__ import annotations

import platform

import pytest
import torch

from monoscope.core.memory import resident
from monoscope.training import heap

MB = 2**20


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc keeps holes")
def test_holes_between_blocks_in_use_are_given_back() -> None:
    heap.keep()
    blocks = [torch.ones(MB // 4) for _ in range(200)]
    del blocks[::2]
    before = resident()
    heap.give_back()
    assert resident() < before - 80 * MB
    assert all((block == 1).all() for block in blocks)


def test_another_c_library_is_no_trouble(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heap, "_trim", lambda: None)
    heap.give_back()
