"""Quality per token: what optimizers, rates and encoder scales make of the same 500k tokens.

    python benchmarks/bench_quality.py [--model DIR] [--site 2.resid_post] [--out benchmarks/results/bench_quality.json]

Every row is one TopK autoencoder (F = 16 d, k = 32) trained in the same pass over the same batches of the bundled
model's activations; FVU and dead share are measured on 50k tokens of held-out files. The first row is the library's
default.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

import monoscope
from monoscope.harvest import StandardLibrary, live
from monoscope.models import LanguageModel
from monoscope.training import Training, train


def adam(lr: float, **more: Any) -> dict[str, Any]:
    """Adam at a rate."""
    return {"optimizer": {"kind": "adam", "lr": lr}, **more}


def sign(lr: float, momentum: float) -> dict[str, Any]:
    """Signed momentum at a rate."""
    return {"optimizer": {"kind": "sign", "lr": lr, "momentum": momentum}}


TRIALS: dict[str, dict[str, Any]] = {
    "default (adam 6e-3)": {},
    "adam 3e-4": adam(3e-4),
    "adam 1e-3": adam(1e-3),
    "adam 3e-3": adam(3e-3),
    "adam 8e-3": adam(8e-3),
    "adam 1.2e-2": adam(1.2e-2),
    "sign 1e-3": sign(1e-3, 0.9),
    "sign 3e-3": sign(3e-3, 0.9),
    "default, revival after a tenth": {"dead_after": 0.1},
    "default, encoder scale 1": {},
}


def main() -> None:
    """Train every trial in one pass, measure each, and write the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default=str(Path(monoscope.__file__).parent / "demo" / "model"))
    parser.add_argument("--site", default="2.resid_post")
    parser.add_argument("--tokens", type=int, default=500_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    lm = LanguageModel.from_pretrained(args.model)

    def activations(split: str, tokens: int) -> Any:
        return live(lm, StandardLibrary(split=split).windows(lm, context=256, tokens=tokens), [args.site])

    recipes, trainings = [], []
    for name, change in TRIALS.items():
        recipe: dict[str, Any] = {
            "wiring": {"kind": "autoencoder", "n_features": 16 * lm.width(args.site)},
            "function": {"kind": "topk", "k": 32},
        }
        if name.endswith("encoder scale 1"):
            recipe["initialize"] = {"encoder_scale": 1.0}
        recipes.append(recipe)
        trainings.append(Training.from_dict({"tokens": args.tokens, "seed": args.seed} | change))
    source = live(lm, StandardLibrary(split="train").windows(lm, context=256).shuffled(args.seed), [args.site])
    dictionaries = train(recipes, source, training=trainings)
    held_out = torch.cat([b.flat().activations[source.sites[0]] for b in activations("held_out", 50_000)])
    rows = []
    for name, dictionary in zip(TRIALS, dictionaries, strict=True):
        step = dictionary(held_out)
        total = (held_out - held_out.mean(0)).double().pow(2).sum()
        rows.append(
            {
                "trial": name,
                "fvu": round((step.error.double().pow(2).sum() / total).item(), 4),
                "silent": round(1 - step.acts.fired().float().mean().item(), 4),
            }
        )
        print(
            f"{name:32s} FVU {rows[-1]['fvu']:.4f}   silent on 50k held-out tokens {rows[-1]['silent']:.1%}", flush=True
        )
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps({"tokens": args.tokens, "site": args.site, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
