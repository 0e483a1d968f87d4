"""One training step, sparse against dense: the same autoencoder, data, optimizer and thread count in one run.

    python benchmarks/bench_train_step.py [NAME ...] [--rounds N] [--out benchmarks/results/bench_train_step.json]

Reference job: batch 4,096, d 384, F 6,144, about 32 features per token, fp32 weights. NAME is a function of
``FUNCTIONS``; all by default. The dense side is plain autograd through every product over all features, with clipping
and torch's fused Adam and nothing else. The sparse sides are the product, with clipping, dead-feature counts and unit
decoder rows: in PyTorch alone, selecting features in fp32 or bf16, and with compiled kernels where there are any.

Blocks of steps alternate (A B A B); the ratio of medians is the result, and gradients are compared before anything is
timed, without the few tokens of which rounding decides whether a feature is active. Memory is the peak of a process of
its own, the interpreter and torch (about 220 MB) included.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from statistics import median
from typing import Any

import torch

from monoscope import ops
from monoscope.core.acts import Acts
from monoscope.core.batch import ActivationBatch
from monoscope.core.site import Site
from monoscope.dictionaries import Recipe
from monoscope.dictionaries.initialize import Sample
from monoscope.dictionaries.normalize import Scale
from monoscope.dictionaries.step import Step
from monoscope.ops.native import kernels, pure_pytorch
from monoscope.training import Training
from monoscope.training.descent import Descent

BATCH, D, F, K = 4096, 384, 6144, 32
SITE = Site(3, "resid_post")
ROUNDING = 1e-5  # in scores, of sums in another order
FVU, ERROR = {"kind": "fvu"}, {"kind": "squared_error"}
FUNCTIONS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "topk": ({"k": K}, {"reconstruction": FVU}),
    "batch_topk": ({"k": K}, {"reconstruction": FVU}),
    "abs_topk": ({"k": K}, {"reconstruction": FVU}),
    "jumprelu": ({"calibrate_l0": K}, {"reconstruction": ERROR, "sparsity": {"kind": "l0"}}),
    "relu": ({}, {"reconstruction": ERROR, "sparsity": {"kind": "l1"}}),
}


def make_run(function: str, encode_dtype: str = "fp32") -> Descent:
    """The product's side of the job. ReLU starts where training leads it, at K features per token."""
    settings, terms = FUNCTIONS[function]
    wiring = {"kind": "autoencoder", "n_features": F}
    recipe = Recipe.from_dict({"wiring": wiring, "function": {"kind": function} | settings, "terms": terms})
    dictionary = recipe.build((SITE,), (SITE,), {SITE: D}).train()
    x = batches(1)[0][:1024]
    dictionary.initialize_(recipe.initialize, Sample.of(x, x), torch.Generator().manual_seed(0))
    if function == "relu":
        with torch.no_grad():
            score = dictionary.preacts(x)
            dictionary.get_parameter("b_enc").sub_(ops.kth_largest(score, K * len(x)))
    training = Training.from_dict({"tokens": 10**9, "encode_dtype": encode_dtype})
    return Descent("", recipe, training, dictionary, {SITE: Scale(1.0)})


def batches(n: int) -> list[torch.Tensor]:
    """Sparse combinations of random directions, as activations are, of mean norm sqrt(d)."""
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(2048, D, generator=generator)
    out = []
    for _ in range(n):
        codes = torch.rand(BATCH, 2048, generator=generator)
        codes = codes * (torch.rand(BATCH, 2048, generator=generator) < 0.02)
        x = codes @ directions
        out.append(x * (D**0.5 / x.norm(dim=1).mean()))
    return out


def sparse_loss(run: Descent, x: torch.Tensor) -> torch.Tensor:
    """The loss as the product computes it."""
    return torch.stack(list(run.terms(run.forward(ActivationBatch({SITE: x}))).values())).sum()


def dense_loss(run: Descent, x: torch.Tensor) -> torch.Tensor:
    """The same loss, every product over all features."""
    d = run.dictionary
    acts = Acts(d.activation(d.preacts(x), d.score_norm()).dense(), F)
    step = Step(d, x, x, acts, d.decode(acts, x))
    return torch.stack(list(run.terms(step).values())).sum()


def sparse_step(run: Descent, x: torch.Tensor) -> None:
    """One step of the product."""
    sparse_loss(run, x).backward()
    run.update()


def dense_step(run: Descent, x: torch.Tensor) -> None:
    """One dense step, with nothing but the gradient, clipping and the optimizer."""
    if not isinstance(run.optimizer, torch.optim.Adam):
        run.optimizer = torch.optim.Adam(run.dictionary.parameters(), lr=6e-3, fused=True)  # pyright: ignore[reportAttributeAccessIssue]
    dense_loss(run, x).backward()
    torch.nn.utils.clip_grad_norm_(run.dictionary.parameters(), 1.0)
    run.optimizer.step()
    run.optimizer.zero_grad()


def off_the_edges(run: Descent, x: torch.Tensor) -> torch.Tensor:
    """The tokens of which no score is within rounding of where a gradient jumps: the kernel's window, the threshold."""
    d = run.dictionary
    if d.activation.fires_above is None:
        return x
    threshold, width = d.activation.fires_above
    with torch.no_grad():
        pre, norm = d.preacts(x), d.score_norm()
        off = (pre if norm is None else pre * norm) - threshold
        near = torch.stack([((off - edge).abs() < ROUNDING).any(1) for edge in (-width / 2, 0.0, width / 2)]).any(0)
    return x[~near]


def gradient_difference(function: str) -> float:
    """Largest difference between the two sides' gradients, relative to the largest entry of each."""
    grads = []
    for loss in (sparse_loss, dense_loss):
        run = make_run(function)
        loss(run, off_the_edges(run, batches(1)[0])).backward()
        grads.append([p.grad for p in run.dictionary.parameters()])
    return max(((a - b).abs().max() / b.abs().max()).item() for a, b in zip(*grads, strict=True))


Side = tuple[Callable[[Descent, torch.Tensor], None], str, bool]


def sides() -> dict[str, Side]:
    """The step of each side, its precision, and whether kernels are compiled."""
    known: dict[str, Side] = {
        "dense": (dense_step, "fp32", False),
        "sparse": (sparse_step, "fp32", False),
        "sparse, bf16 selection": (sparse_step, "bf16", False),
    }
    return known | ({"sparse, compiled": (sparse_step, "auto", True)} if kernels() is not None else {})


def memory(function: str, side: str) -> float:
    """Peak resident memory, MB, of a fresh process that runs one side for five steps."""
    here = str(Path(__file__).parent)
    code = f"import sys; sys.path.insert(0, {here!r}); import bench_train_step as b; b.alone({function!r}, {side!r})"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return float(out.stdout)


def alone(function: str, side: str) -> None:
    """Print the peak resident memory, MB, of this process after running one side."""
    step, dtype, compiled = sides()[side]
    with nullcontext() if compiled else pure_pytorch():
        run, data = make_run(function, dtype), batches(1)
        for _ in range(5):
            step(run, data[0])
    status = Path("/proc/self/status").read_text()
    print(int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) / 1024)


def compared(function: str, rounds: int, steps: int) -> list[dict[str, Any]]:
    """Rows of all sides of one function."""
    with pure_pytorch():
        difference = gradient_difference(function)
    data, known = batches(2), sides()
    runs = {name: make_run(function, dtype) for name, (_, dtype, _) in known.items()}
    times: dict[str, list[float]] = {name: [] for name in known}
    for round_number in range(rounds + 1):
        for name, (step, _, compiled) in known.items():
            with nullcontext() if compiled else pure_pytorch():
                for i in range(steps if name != "dense" else 2):
                    began = time.perf_counter()
                    step(runs[name], data[i % 2])
                    if round_number:  # the first round warms up
                        times[name].append(time.perf_counter() - began)
    base, rows = median(times["dense"]), []
    for name, taken in times.items():
        rows.append(
            {
                "function": function,
                "side": name,
                "ratio": round(base / median(taken), 2),
                "tokens_per_s": round(BATCH / median(taken)),
                "spread": [round(BATCH / max(taken)), round(BATCH / min(taken))],
                "peak_mb": round(memory(function, name)),
            }
        )
        print(rows[-1], flush=True)
    print(f"{function}: largest gradient difference {difference:.1e}", flush=True)
    return [row | {"gradient_difference": difference} for row in rows]


def main() -> None:
    """Compare, time, print and write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*", default=list(FUNCTIONS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=4, help="steps of a block; of the dense side 2")
    parser.add_argument("--out", type=Path, help="its rows of other functions stay")
    args = parser.parse_args()
    rows = [row for name in args.names for row in compared(name, args.rounds, args.steps)]
    if args.out:
        old = json.loads(args.out.read_text())["rows"] if args.out.exists() else []
        rows = [row for row in old if row.get("function", "") not in (*args.names, "")] + rows
        args.out.parent.mkdir(parents=True, exist_ok=True)
        facts = {"machine": platform.processor() or platform.machine(), "threads": torch.get_num_threads()}
        job = {"batch": BATCH, "d": D, "F": F, "k": K}
        args.out.write_text(json.dumps({**facts, "job": job, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
