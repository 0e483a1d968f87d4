"""Steps of training on a device from which nothing can be read: PyTorch's meta device stands for a GPU.

Its tensors have shapes and no numbers, so that whatever would wait for a GPU (a number read, a count, a choice by a
tensor) is an error there, and the kernels take part with their shapes alone. Copies between devices are looked for.
"""

from __future__ import annotations

import logging
import sys
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

pytest.importorskip("triton", reason="needs triton, which has wheels for Linux alone")

from monoscope import ops
from monoscope.core.batch import ActivationBatch
from monoscope.core.site import Site
from monoscope.dictionaries import Recipe
from monoscope.dictionaries.normalize import Scale
from monoscope.ops import api, reference
from monoscope.ops.selection import TopKPerToken
from monoscope.ops.triton import above, library
from monoscope.training import Training
from monoscope.training.descent import Descent
from monoscope.training.health import Health

SITES = (Site(0, "resid_pre"), Site(1, "resid_pre"))
N, D, F = 32, 12, 40


@pytest.fixture(autouse=True)
def meta_is_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "GPU", "meta")
    monkeypatch.setattr(Health, "most_dead", 5)  # it arrives from a GPU two steps late
    for module in (above, library):  # what reads back one number: the width of what a threshold lets through
        monkeypatch.setattr(module, "above_threshold", lambda z, *_: z.new_empty(len(z), 6, dtype=torch.int64))


class NoCopies(TorchDispatchMode):
    """Fails where numbers cross from one device to another, and somebody waits for them."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        is_copy = func.overloadpacket in (torch.ops.aten._to_copy, torch.ops.aten.copy_)
        if is_copy and not (kwargs or {}).get("non_blocking"):
            ends = [x for x in (*args, out) if isinstance(x, Tensor)]
            assert len({x.device for x in ends}) == 1, f"{func} goes from {ends[0].device} to {ends[-1].device}"
        return out


def _run(recipe: dict[str, Any], reads: tuple[Site, ...], **settings: Any) -> Descent:
    recipe_ = Recipe.from_dict(recipe)
    with torch.device("meta"):
        dictionary = recipe_.build(reads, reads, dict.fromkeys(reads, D)).train()
    training = Training.from_dict({"tokens": 10 * N, "batch_tokens": N} | settings)
    return Descent("", recipe_, training, dictionary, dict.fromkeys(reads, Scale(1.5)))


WIRING = {"kind": "autoencoder", "n_features": F}
RECIPES: dict[str, dict[str, Any]] = {
    "topk": {"wiring": WIRING, "function": {"kind": "topk", "k": 4}},
    "transcoder-like, norms, no center": {
        "wiring": WIRING | {"scale_by_decoder_norm": True, "unit_norm": False, "center": False},
        "function": {"kind": "topk", "k": 4},
    },
    "abs_topk": {"wiring": WIRING, "function": {"kind": "abs_topk", "k": 4}},
    "batch_topk": {"wiring": WIRING, "function": {"kind": "batch_topk", "k": 4}},
    "group_max": {"wiring": WIRING, "function": {"kind": "group_max", "k": 4}},
    "relu": {
        "wiring": WIRING,
        "function": {"kind": "relu"},
        "terms": {"reconstruction": {"kind": "squared_error"}, "sparsity": {"kind": "l1"}},
    },
    "jumprelu": {
        "wiring": WIRING,
        "function": {"kind": "jumprelu"},
        "terms": {
            "reconstruction": {"kind": "squared_error"},
            "sparsity": {"kind": "l0"},
            "wake": {"kind": "preact", "dead_only": True},
        },
    },
    "crosscoder": {"wiring": {"kind": "crosscoder", "n_features": F}, "function": {"kind": "topk", "k": 4}},
}


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("name", RECIPES)
def test_a_step_reads_nothing_back(name: str, dtype: str) -> None:
    reads = SITES if name == "crosscoder" else SITES[:1]
    run = _run(RECIPES[name], reads, encode_dtype=dtype)
    batch = ActivationBatch({site: torch.empty(N, D, device="meta") for site in reads})
    for number in range(2):
        with NoCopies():
            run.learn(batch, number)
    assert run.health.age.device.type == "meta"


def test_a_number_read_would_be_found() -> None:
    with pytest.raises(RuntimeError, match="meta"):
        torch.empty(3, device="meta").sum().item()
    with pytest.raises(NotImplementedError):
        torch.empty(3, device="meta").nonzero()
    with pytest.raises(AssertionError, match="goes from"), NoCopies():
        torch.empty(3, device="meta").copy_(torch.ones(3))


def test_without_triton_the_reference_serves_and_one_line_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "monoscope.ops.triton", None)
    monkeypatch.delattr(ops, "triton", raising=False)
    called = []
    monkeypatch.setattr(reference, "encode", lambda x, *rest, **named: called.append(x) or x.new_empty(len(x), F))
    api._kernels.cache_clear()
    try:
        with caplog.at_level(logging.WARNING):
            for _ in range(2):
                x, W, b = (torch.empty(shape, device="meta") for shape in ((N, D), (D, F), (F,)))
                assert not api.encode(x, W, b, TopKPerToken(2)).is_sparse
    finally:
        api._kernels.cache_clear()
    assert len(called) == 2
    assert [record.message for record in caplog.records] == [
        "triton is not installed: CUDA tensors take slower paths; pip install 'monoscope[gpu]'"
    ]
