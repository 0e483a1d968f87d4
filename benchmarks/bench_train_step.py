"""One training step, sparse against dense: the same TopK autoencoder, data, optimizer and thread count in one run.

    python benchmarks/bench_train_step.py [--out benchmarks/results/bench_train_step.json]

Reference job: batch 4,096, d 384, F 6,144, k 32, fp32. The dense side is plain autograd: every matrix product over all
features, top-k, scatter. The sparse sides are the product, with clipping, dead-feature counts and decoder projection
on: in PyTorch alone and with its compiled kernels, by the precision that selects features. Blocks of steps alternate
(A B A B); the ratio of medians is the result, and gradients are compared before anything is timed. Memory is the peak
of a process of its own, the interpreter and torch (about 250 MB) included.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from statistics import median
from typing import Any

import torch

from monoscope.core.batch import ActivationBatch
from monoscope.core.site import Site
from monoscope.dictionaries import Recipe
from monoscope.dictionaries.initialize import Sample
from monoscope.dictionaries.normalize import Scale
from monoscope.ops.native import kernels, pure_pytorch
from monoscope.training import Training
from monoscope.training.descent import Descent

BATCH, D, F, K = 4096, 384, 6144, 32
SITE = Site(3, "resid_post")


def make_run(encode_dtype: str = "fp32") -> Descent:
    """The product's side of the job."""
    recipe = Recipe.from_dict(
        {"wiring": {"kind": "autoencoder", "n_features": F}, "function": {"kind": "topk", "k": K}}
    )
    dictionary = recipe.build((SITE,), (SITE,), {SITE: D}).train()
    x = batches(1)[0][:1024]
    dictionary.initialize_(recipe.initialize, Sample.of(x, x), torch.Generator().manual_seed(0))
    training = Training(tokens=10**9, encode_dtype=encode_dtype)
    return Descent("", recipe, training, dictionary, {SITE: Scale(1.0)})


def batches(n: int) -> list[torch.Tensor]:
    """Sparse combinations of random directions, as activations are."""
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(2048, D, generator=generator)
    out = []
    for _ in range(n):
        codes = torch.rand(BATCH, 2048, generator=generator)
        codes = codes * (torch.rand(BATCH, 2048, generator=generator) < 0.02)
        out.append(codes @ directions / 4)
    return out


def sparse_step(run: Descent, x: torch.Tensor) -> None:
    """One step of the product."""
    step = run.forward(ActivationBatch({SITE: x}))
    sum(run.terms(step).values()).backward()
    run.update()


def dense_loss(run: Descent, x: torch.Tensor) -> torch.Tensor:
    """The same loss by dense autograd."""
    d = run.dictionary
    pre = ((x - d.b_dec) @ d.W_enc + d.b_enc).relu()
    values, indices = pre.topk(K, dim=-1)
    acts = torch.zeros_like(pre).scatter(-1, indices, values)
    recon = acts @ d.W_dec + d.b_dec
    return (x - recon).pow(2).sum() / (x - x.mean(0)).pow(2).sum()


def dense_step(run: Descent, x: torch.Tensor) -> None:
    """One dense step, with nothing but the gradient, clipping and the optimizer."""
    dense_loss(run, x).backward()
    torch.nn.utils.clip_grad_norm_(run.dictionary.parameters(), 1.0)
    run.optimizer.step()
    run.optimizer.zero_grad()


def compare_gradients() -> float:
    """Largest difference between the two sides' gradients, relative to the largest entry."""
    grads = []
    for side in ("sparse", "dense"):
        run, x = make_run(), batches(1)[0]
        if side == "dense":
            dense_loss(run, x).backward()
        else:
            sum(run.terms(run.forward(ActivationBatch({SITE: x}))).values()).backward()
        grads.append([p.grad for p in run.dictionary.parameters()])
    return max(((a - b).abs().max() / b.abs().max()).item() for a, b in zip(*grads, strict=True))


PURE = {
    "dense": (dense_step, "fp32", pure_pytorch),
    "sparse": (sparse_step, "fp32", pure_pytorch),
    "sparse, bf16 selection": (sparse_step, "bf16", pure_pytorch),
}
COMPILED = {f"compiled, {dtype} selection": (sparse_step, dtype, nullcontext) for dtype in ("fp32", "bf16", "int8")}
SIDES = PURE if kernels() is None else PURE | COMPILED


def memory(side: str) -> float:
    """Peak resident memory, MB, of a fresh process that runs one side for five steps."""
    here = str(Path(__file__).parent)
    code = f"import sys; sys.path.insert(0, {here!r}); import bench_train_step; bench_train_step.alone({side!r})"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return float(out.stdout)


def alone(side: str) -> None:
    """Print the peak resident memory, MB, of this process after running one side."""
    step, dtype, path = SIDES[side]
    run, data = make_run(dtype), batches(1)
    with path():
        for _ in range(5):
            step(run, data[0])
    status = Path("/proc/self/status").read_text()
    print(int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) / 1024)


def main() -> None:
    """Compare, time, print and write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=4, help="steps of a block")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    difference = compare_gradients()
    print(f"largest gradient difference {difference:.1e}")
    data = batches(2)
    runs = {name: make_run(dtype) for name, (_, dtype, _) in SIDES.items()}
    times: dict[str, list[float]] = {name: [] for name in SIDES}
    for round_number in range(args.rounds + 1):
        for name, (step, _, path) in SIDES.items():
            for i in range(args.steps):
                began = time.perf_counter()
                with path():
                    step(runs[name], data[i % 2])
                if round_number:  # the first round warms up
                    times[name].append(time.perf_counter() - began)
    base = median(times["dense"])
    rows: list[dict[str, Any]] = []
    for name in SIDES:
        middle = median(times[name])
        spread = sorted(times[name])
        rows.append(
            {
                "side": name,
                "ratio": round(base / middle, 2),
                "tokens_per_s": round(BATCH / middle),
                "spread": [round(BATCH / spread[-1]), round(BATCH / spread[0])],
                "peak_mb": round(memory(name)),
            }
        )
        print(rows[-1], flush=True)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        facts = {"machine": platform.processor() or platform.machine(), "threads": torch.get_num_threads()}
        job = {"batch": BATCH, "d": D, "F": F, "k": K, "gradient_difference": difference}
        args.out.write_text(json.dumps({**facts, "job": job, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
