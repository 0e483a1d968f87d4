"""Harvest against a bare hook-and-stop loop, and what becomes of features in bf16.

    python benchmarks/bench_harvest.py                      every part whose sources have changed
    python benchmarks/bench_harvest.py minilm/bf16          one part, again
    python benchmarks/bench_harvest.py --list

The same windows of text go through the same model, turn by turn. The bare loop does what no harvest can do less of: one
forward pass under no_grad, a hook that keeps the site's tensor and stops the pass. ``live`` besides resolves sites,
marks the tokens that count, counts what it leaves out, and checks that everything is finite. ``shuffle(live)`` is what
training reads: flat batches in random order; ``harvest(live)`` is written to disk, with checksums. In bf16 there is
also what features survive (``survival.py``), of a dictionary trained on fp32 activations, on text of other documents.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from machine import Parts, Usage, middle, quantile, record, wait_for_quiet
from peers.data import BENCH, SITES, dictionary_of, model_of
from survival import survival
from torch import Tensor

from monoscope.core.progress import silent
from monoscope.core.site import Site
from monoscope.harvest import ActivationSource, StandardLibrary, TokenWindows, harvest, live, shuffle
from monoscope.harvest.store import DTYPES
from monoscope.models import LanguageModel

AT_ONCE, BATCHES, TURNS = 16, 3, 12
PARTS = [f"{name}/{dtype}" for name in SITES for dtype in ("fp32", "bf16")]
READ = 16_384


class Stop(Exception):
    """The site has been seen."""


def bare(lm: LanguageModel, windows: TokenWindows, site: Site) -> Iterator[Tensor]:
    """The site's tensor for some windows at a time."""
    blocks = next(m for m in lm.hf.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == lm.n_layers)
    kept: list[Tensor] = []

    def hook(module: torch.nn.Module, args: tuple, output: Tensor | tuple[Tensor, ...]) -> None:
        kept[:] = [output if isinstance(output, Tensor) else output[0]]
        raise Stop

    handle = blocks[site.layer].register_forward_hook(hook)
    arguments = {"use_cache": False} if lm.hf.can_generate() else {}
    try:
        for tokens in windows.tokens.long().to(lm.device).split(AT_ONCE):
            try:
                with torch.no_grad():
                    lm.hf(tokens, **arguments)
            except Stop:
                yield kept[0]
    finally:
        handle.remove()


def speeds(lm: LanguageModel, site: Site, dtype: torch.dtype) -> dict[str, Any]:
    """Tokens per second of each way to read, and how many times the bare loop's that is."""
    n = BATCHES * AT_ONCE
    windows = StandardLibrary().windows(lm, context=256, tokens=2 * n * 256)[:n]
    contestants: dict[str, Callable[[], Iterator[Any]]] = {
        "bare loop": lambda: bare(lm, windows, site),
        "live": lambda: iter(live(lm, windows, [site], windows_per_batch=AT_ONCE, dtype=dtype)),
        "shuffle(live)": lambda: iter(shuffle(live(lm, windows, [site], dtype=dtype), windows.n_tokens // 2)),
        "harvest(live)": lambda: stored(live(lm, windows, [site], dtype=dtype), dtype),
    }
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(TURNS + 1):
        for name, run in contestants.items():
            stream = run()
            began = time.perf_counter()
            for _ in stream:
                pass
            if turn:  # the first warms up
                times[name].append(time.perf_counter() - began)
    rows = {}
    for name, seconds in times.items():
        ratios = [base / own for base, own in zip(times["bare loop"], seconds, strict=True)]
        rows[name] = {
            "tokens_per_s": round(n * 256 / middle(seconds)),
            "ratio": round(middle(ratios), 3),
            "spread": [round(quantile(ratios, share), 3) for share in (0.1, 0.9)],
        }
    return rows


def stored(source: ActivationSource, dtype: torch.dtype) -> Iterator[Path]:
    """The source on disk, in the precision it has."""
    path = BENCH / "harvested"
    name = next(name for name, each in DTYPES.items() if each == dtype)
    harvest(source, path, dtype=name, force=True)
    yield path


def survives(name: str, lm: LanguageModel) -> dict[str, float]:
    """What features of a dictionary survive bf16."""
    windows = StandardLibrary(split="held_out").windows(lm, context=256, tokens=READ)
    exact = LanguageModel.from_pretrained(model_of(name))
    return {key: round(value, 5) for key, value in survival(dictionary_of(name), exact, lm, windows).items()}


def measure(part: str) -> dict[str, Any]:
    """One model in one precision."""
    name, dtype = part.split("/")
    site = Site.parse(SITES[name])
    lm = LanguageModel.from_pretrained(model_of(name), dtype=DTYPES[dtype])
    before, usage = wait_for_quiet(), Usage()
    with silent():
        rows = speeds(lm, site, DTYPES[dtype])
        others = usage.others()
        row: dict[str, Any] = {"model": name, "site": str(site), "dtype": dtype, "ways": rows}
        if dtype == "bf16":
            row["survival"] = survives(name, lm)
    row |= {"threads": torch.get_num_threads(), "others": [{"before": before, "mean": others}]}
    return row


def show(part: str, row: dict[str, Any]) -> None:
    """A part in a few lines."""
    print(f"{part}   others used {row['others'][0]['mean']:.1%} of the machine")
    for name, way in row["ways"].items():
        print(f"  {name:14} {way['tokens_per_s']:8,} tokens/s   {way['ratio']:.3f} x the bare loop {way['spread']}")
    if "survival" in row:
        print("  " + "   ".join(f"{name} {value:.4f}" for name, value in row["survival"].items()), flush=True)


def main() -> None:
    """Measure what is asked for."""
    for part in Parts("harvest", PARTS, __doc__, typical=60):
        began = time.monotonic()
        row = measure(part)
        record("harvest", part, row | {"seconds": round(time.monotonic() - began)})
        show(part, row)


if __name__ == "__main__":
    main()
