"""Harvest against a bare hook-and-stop loop: the same windows through the same model, turn by turn.

    python benchmarks/bench_harvest.py                          a random Llama of the bundled model's size
    python benchmarks/bench_harvest.py --model PATH --dtype bf16

The bare loop does what no harvest can do less of: one forward pass under no_grad, a hook that keeps the site's tensor
and stops the pass. ``live`` besides resolves sites, marks the tokens that count, counts what it leaves out, and checks
that everything is finite. ``shuffle`` is what comes after; its row is the whole pipeline into flat batches.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from monoscope.core.progress import silent
from monoscope.harvest import TokenWindows, live, shuffle
from monoscope.harvest.store import DTYPES
from monoscope.models import LanguageModel


class Stop(Exception):
    """The site has been seen."""


def random_llama() -> LanguageModel:
    config = LlamaConfig(
        vocab_size=4096,
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=6,
        num_key_value_heads=6,
        max_position_embeddings=256,
    )
    torch.manual_seed(0)
    return LanguageModel(LlamaForCausalLM(config), name="random Llama, d 192, 4 layers")


def bare(lm: LanguageModel, windows: TokenWindows, layer: int, at_once: int) -> Iterator[Tensor]:
    blocks = next(m for m in lm.hf.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == lm.n_layers)
    kept: list[Tensor] = []

    def hook(module: torch.nn.Module, args: tuple, output: Tensor | tuple[Tensor, ...]) -> None:
        kept[:] = [output if isinstance(output, Tensor) else output[0]]
        raise Stop

    handle = blocks[layer].register_forward_hook(hook)
    try:
        for tokens in windows.tokens.long().to(lm.device).split(at_once):
            try:
                with torch.no_grad():
                    lm.hf(tokens, use_cache=False)
            except Stop:
                yield kept[0]
    finally:
        handle.remove()


def seconds(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="directory or Hugging Face id")
    parser.add_argument("--dtype", choices=DTYPES, default="fp32")
    parser.add_argument("--layer", type=int, help="residual stream after this block (default: the middle one)")
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument("--at-once", type=int, default=16, help="windows in a batch")
    parser.add_argument("--batches", type=int, default=4, help="batches in a turn")
    parser.add_argument("--turns", type=int, default=10)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    dtype = DTYPES[options.dtype]
    lm = LanguageModel.from_pretrained(options.model, dtype=dtype) if options.model else random_llama()
    if not options.model:
        lm.hf.to(dtype)
    layer = lm.n_layers // 2 if options.layer is None else options.layer
    n = options.batches * options.at_once
    windows = TokenWindows.from_tokens(torch.randint(3, lm.vocab_size, (n, min(options.context, lm.context_length))))
    source = live(lm, windows, [f"{layer}.resid_post"], windows_per_batch=options.at_once, dtype=dtype)
    mixed = shuffle(source, windows.n_tokens // 2)

    contestants = {
        "bare loop": lambda: list(bare(lm, windows, layer, options.at_once)),
        "live": lambda: list(source),
        "shuffle(live)": lambda: list(mixed),
    }
    for run in contestants.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in contestants}
    with silent():
        for _ in range(options.turns):
            for name, run in contestants.items():
                times[name].append(seconds(run))
    size = f"{options.at_once} x {windows.context} tokens, {options.threads} threads"
    print(f"{lm.name}, {options.dtype}, after block {layer}, {size}")
    for name, measured in times.items():
        ratio = statistics.median(a / b for a, b in zip(times["bare loop"], measured, strict=True))
        print(
            f"{name:14} {windows.n_tokens / statistics.median(measured):10,.0f} tokens/s   {ratio:.3f} x the bare loop"
        )


if __name__ == "__main__":
    main()
