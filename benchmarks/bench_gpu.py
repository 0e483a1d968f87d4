"""On a GPU: training steps and kernels, against sparsify's Triton decoder and a dense baseline, with their rooflines.

    python benchmarks/bench_gpu.py [--batch 4096 --width 384 --features 6144 --k 32] [--out FILE]

The job is a TopK autoencoder's step: forward, backward, Adam, clipping, unit rows, dead-feature counts. Sides:

    monoscope fp32, bf16   the product, pre-activations in fp32 or bf16 (what is selected is exact in both)
    sparsify               its SparseCoder with the Triton decoder and torch's fused Adam, in fp32, if it is installed
    dense fp32, bf16       plain autograd: every product over all features, top-k, scatter; bf16 by autocast

Sides take turns in one process, the median of their steps counts. A side's floor is what its own way needs at the peak
rates of the GPU's data sheet: its products at the arithmetic rate, or its weights and gathered rows at the memory rate,
whichever takes longer. The share of the roofline is floor / measured; kernels are listed the same way. Without a CUDA
device it says so, and measures nothing.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

WARM_UP, STEPS, ROUNDS = 20, 20, 5
# Data sheets: dense TFLOP/s in bf16 and in fp32 outside tensor cores, and TB/s of memory.
PEAKS = {
    "H200": (989.0, 67.0, 4.8),
    "H100": (989.0, 67.0, 3.35),
    "A100": (312.0, 19.5, 2.04),
    "L40S": (362.0, 91.6, 0.864),
    "RTX 4090": (165.0, 82.6, 1.008),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, value in (("batch", 4096), ("width", 384), ("features", 6144), ("k", 32)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("bench_gpu: PyTorch sees no CUDA device, so nothing is measured")
        return
    job = Job(options.batch, options.width, options.features, options.k)
    result: dict[str, Any] = {
        "gpu": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "platform": platform.platform(),
        "job": vars(options) | {"out": None},
        "peaks": job.peaks,
        "steps": job.steps(),
        "kernels": job.kernels(),
    }
    show(result)
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


class Job:
    """The sizes of the job, and what it needs."""

    def __init__(self, n: int, d: int, n_features: int, k: int) -> None:
        self.n, self.d, self.n_features, self.k = n, d, n_features, k
        name = torch.cuda.get_device_name()
        self.peaks = next((peaks for part, peaks in PEAKS.items() if part in name), None)
        generator = torch.Generator("cuda").manual_seed(0)
        directions = torch.randn(2048, d, device="cuda", generator=generator)
        codes = torch.rand(n, 2048, device="cuda", generator=generator)
        self.x = (codes * (codes < 0.02)) @ directions

    @property
    def product(self) -> float:
        """Operations of one dense product."""
        return 2.0 * self.n * self.d * self.n_features

    @property
    def gathered(self) -> float:
        """Bytes of the rows of all active entries, in fp32."""
        return 4.0 * self.n * self.k * self.d

    @property
    def weights(self) -> float:
        """Bytes of one weight matrix, in fp32."""
        return 4.0 * self.n_features * self.d

    def floor_ms(self, operations: float, size: float, *, bf16: bool) -> float | None:
        """Least time for so many operations and bytes."""
        if self.peaks is None:
            return None
        arithmetic = operations / (self.peaks[0 if bf16 else 1] * 1e12)
        return 1e3 * max(arithmetic, size / (self.peaks[2] * 1e12))

    def steps(self) -> dict[str, dict[str, float | None]]:
        """Whole training steps, side by side."""
        sides: dict[str, tuple[Callable[[], None], float | None]] = {}
        update = 14 * self.weights  # Adam reads and writes weights and two moments, reads and writes gradients
        for dtype in ("fp32", "bf16"):
            is_bf16 = dtype == "bf16"
            floor = self.floor_ms(self.product, 5 * self.gathered + update, bf16=is_bf16)
            sides[f"monoscope {dtype}"] = ours(self, dtype), floor
            floor = self.floor_ms(5 * self.product, update, bf16=is_bf16)
            sides[f"dense {dtype}"] = dense(self, is_bf16), floor
        if (theirs := sparsify(self)) is not None:
            floor = self.floor_ms(self.product, 5 * self.gathered + update, bf16=False)
            sides["sparsify"] = theirs, floor
        measured = {name: 0.0 for name in sides}
        times: dict[str, list[float]] = {name: [] for name in sides}
        for name, (step, _) in sides.items():
            torch.cuda.reset_peak_memory_stats()
            list(timed(step, WARM_UP))
            measured[name] = torch.cuda.max_memory_allocated() / 2**20
        for _ in range(ROUNDS):
            for name, (step, _) in sides.items():
                times[name] += timed(step, STEPS)
        return {
            name: row(
                median(times[name]), floor, tokens_per_s=1e3 * self.n / median(times[name]), peak_mb=measured[name]
            )
            for name, (_, floor) in sides.items()
        }

    def kernels(self) -> dict[str, dict[str, float | None]]:
        """The kernels one by one, and torch's own way to the same numbers where there is one."""
        from monoscope.ops.triton import library

        generator = torch.Generator("cuda").manual_seed(1)
        rows = torch.randn(self.n_features, self.d, device="cuda", generator=generator)
        b, k = torch.zeros(self.n_features, device="cuda"), self.k
        narrow = self.x.bfloat16(), rows.bfloat16()
        indices = library.top_per_token(*narrow, b, None, k, False)
        values = library.gathered_dot(self.x, rows, indices, b)
        order, starts = library.by_feature(values, indices, self.n_features)
        entries, written = 12.0 * self.n * k, 4.0 * self.n * self.d
        inputs = 2.0 * (self.n + self.n_features) * self.d
        calls: dict[str, tuple[Callable[[], object], float, float, bool]] = {
            "top_per_token bf16": (
                lambda: library.top_per_token(*narrow, b, None, k, False), self.product, inputs + entries, True,
            ),
            "  torch: product and topk": (
                lambda: (narrow[0] @ narrow[1].T).topk(k, sorted=False), self.product, inputs + entries, True,
            ),
            "top_per_token fp32": (
                lambda: library.top_per_token(self.x, rows, b, None, k, False),
                self.product, 2 * inputs + entries, False,
            ),
            "batch_bound bf16": (
                lambda: library.batch_bound(*narrow, b, None, self.n * k), self.product, inputs, True,
            ),
            "gathered_dot": (
                lambda: library.gathered_dot(self.x, rows, indices, b), 0.0, self.gathered + entries + written, False,
            ),
            "sparse_decode": (
                lambda: library._sparse_decode(values, indices, rows), 0.0, self.gathered + entries + written, False,
            ),
            "  torch: embedding_bag": (
                lambda: torch.nn.functional.embedding_bag(indices, rows, per_sample_weights=values, mode="sum"),
                0.0, self.gathered + entries + written, False,
            ),
            "by_feature": (lambda: library.by_feature(values, indices, self.n_features), 0.0, 2 * entries, False),
            "sum_by_feature": (
                lambda: library.sum_by_feature(values, order, starts, self.x),
                0.0, self.gathered + self.weights + entries, False,
            ),
        }  # fmt: skip
        out = {}
        for name, (call, operations, size, is_bf16) in calls.items():
            list(timed(call, WARM_UP))
            out[name] = row(median(timed(call, STEPS)), self.floor_ms(operations, size, bf16=is_bf16))
        return out


def row(ms: float, floor: float | None, **more: float) -> dict[str, float | None]:
    """What is reported of one thing measured."""
    share = None if floor is None else round(floor / ms, 3)
    return {"ms": round(ms, 4), **{key: round(value) for key, value in more.items()}, "share_of_roofline": share}


def timed(call: Callable[[], object], times: int) -> Iterator[float]:
    """Milliseconds of each of several calls, by the GPU's own clock."""
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(times + 1)]
    marks[0].record()
    for mark in marks[1:]:
        call()
        mark.record()
    torch.cuda.synchronize()
    for before, after in pairwise(marks):
        yield before.elapsed_time(after)


def ours(job: Job, dtype: str) -> Callable[[], None]:
    """A step of the product, on one batch."""
    from monoscope.core.batch import ActivationBatch
    from monoscope.core.site import Site
    from monoscope.dictionaries import Recipe
    from monoscope.dictionaries.initialize import Sample
    from monoscope.dictionaries.normalize import Scale
    from monoscope.training import Training
    from monoscope.training.descent import Descent

    site = Site(0, "resid_post")
    wiring = {"kind": "autoencoder", "n_features": job.n_features}
    recipe = Recipe.from_dict({"wiring": wiring, "function": {"kind": "topk", "k": job.k}})
    dictionary = recipe.build((site,), (site,), {site: job.d}).train()
    x = job.x[:1024].cpu()
    dictionary.initialize_(recipe.initialize, Sample.of(x, x), torch.Generator().manual_seed(0))
    training = Training.from_dict({"tokens": 10**9, "encode_dtype": dtype})
    run = Descent("", recipe, training, dictionary.cuda(), {site: Scale(1.0)})
    batch = ActivationBatch({site: job.x})
    steps = iter(range(10**9))
    return lambda: run.advance(batch, next(steps))


def dense(job: Job, is_bf16: bool) -> Callable[[], None]:
    """A step of plain autograd, dense in every product."""
    generator = torch.Generator("cuda").manual_seed(0)
    W_dec = torch.randn(job.n_features, job.d, device="cuda", generator=generator)
    W_dec = torch.nn.Parameter(W_dec / W_dec.norm(dim=1, keepdim=True))
    W_enc = torch.nn.Parameter(W_dec.detach().T.clone())
    b_enc, b_dec = (torch.nn.Parameter(torch.zeros(size, device="cuda")) for size in (job.n_features, job.d))
    weights = [W_enc, W_dec, b_enc, b_dec]
    optimizer = torch.optim.Adam(weights, lr=1e-3, fused=True)

    def step() -> None:
        with torch.autocast("cuda", torch.bfloat16, enabled=is_bf16):
            pre = (job.x - b_dec) @ W_enc + b_enc
            kept = pre.relu().topk(job.k, dim=-1, sorted=False)
            acts = torch.zeros_like(pre).scatter(-1, kept.indices, kept.values)
            recon = acts @ W_dec + b_dec
        (recon.float() - job.x).pow(2).sum().backward()
        finish(optimizer, weights, W_dec)

    return step


def sparsify(job: Job) -> Callable[[], None] | None:
    """A step of sparsify's, with what its trainer does to gradients and decoder."""
    try:
        from sparsify import SparseCoder, SparseCoderConfig
    except ImportError:
        print("bench_gpu: sparsify is not installed (pip install eai-sparsify), so that it is left out")
        return None
    coder = SparseCoder(job.d, SparseCoderConfig(num_latents=job.n_features, k=job.k), device="cuda")
    optimizer = torch.optim.Adam(coder.parameters(), lr=1e-3, fused=True)

    def step() -> None:
        coder(job.x).fvu.backward()
        finish(optimizer, list(coder.parameters()), coder.W_dec)

    return step


@torch.no_grad()
def finish(optimizer: torch.optim.Optimizer, weights: list[Tensor], W_dec: Tensor) -> None:
    torch.nn.utils.clip_grad_norm_(weights, 1.0)
    along = (W_dec.grad * W_dec).sum(1, keepdim=True)
    W_dec.grad.addcmul_(along, W_dec, value=-1)
    optimizer.step()
    optimizer.zero_grad()
    W_dec.div_(W_dec.norm(dim=1, keepdim=True))


def show(result: dict[str, Any]) -> None:
    print(f"{result['gpu']}, torch {result['torch']}, {result['job']}")
    for part in ("steps", "kernels"):
        print(f"\n{part:<28}{'ms':>10}{'tokens/s':>12}{'peak MB':>10}{'of roofline':>13}")
        for name, values in result[part].items():
            share = values["share_of_roofline"]
            print(
                f"{name:<28}{values['ms']:>10.3f}{values.get('tokens_per_s', ''):>12}{values.get('peak_mb', ''):>10}"
                f"{'unknown GPU' if share is None else f'{share:.1%}':>13}"
            )


if __name__ == "__main__":
    main()
