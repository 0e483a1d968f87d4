"""Finetune the bundled language model on prose: a tuned copy, to see what dictionaries of the original make of it.

    python -m monoscope.demo.finetune --out runs/finetuned            # a few minutes on two CPU cores
    python -m monoscope.demo.finetune --out runs/finetuned --resume   # continues from the last checkpoint

The text is the language reference that every Python carries for ``help()``: English, which the model has seen only in
comments and docstrings, and of which pretraining skipped this very file for its size. Every seventh topic is held out.
The optimizers are those of pretraining at a tenth of their rates, which fall to zero over the run. Writes what
pretraining writes, and ``losses.json``: held-out cross-entropy in nats on both distributions, before and after.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import torch
import typer
from tokenizers import Tokenizer
from transformers import LlamaForCausalLM

from monoscope.core.io import write_json
from monoscope.demo import MODEL
from monoscope.demo.pretrain import Pretraining, Windows, bos_id, descend, evaluate, token_stream
from monoscope.harvest.text.standard_library import standard_library_texts

HELD_OUT_EVERY = 7


def finetuning(tokens: int = 300_000) -> Pretraining:
    """Settings of the run: pretraining's, at a tenth of the learning rates."""
    rates = {"lr_muon": 5e-4, "lr_adam": 3e-4, "warmup_steps": 5, "decay_share": 1.0}
    return Pretraining(tokens=tokens, windows_per_step=16, **rates)


def topics(*, held_out: bool) -> list[str]:
    """Articles of the language reference, in the order of their names."""
    from pydoc_data.topics import topics as articles  # a megabyte of text, needed here alone

    texts = [articles[name] for name in sorted(articles)]
    return [text for number, text in enumerate(texts) if (number % HELD_OUT_EVERY == 0) == held_out]


def run(
    config: Pretraining, out: Path, *, base: Path = MODEL, resume: bool = False, checkpoint_every: float = 60.0
) -> dict[str, dict[str, float]]:
    """Tune a pretrained model; held-out losses on prose and on code, before and after."""
    out.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
    bos = bos_id(tokenizer)

    def windows(texts: list[str]) -> Windows:
        return Windows(token_stream(tokenizer, iter(texts)), config.context, bos, config.seed)

    train, held_out = windows(topics(held_out=False)), windows(topics(held_out=True))
    code = windows(list(standard_library_texts("held_out")))
    print(
        f"{len(train.stream):,} training tokens, {len(held_out.stream):,} held out, {config.steps:,} steps", flush=True
    )
    model = LlamaForCausalLM.from_pretrained(base, dtype=torch.float32)
    device = "cuda" if torch.cuda.is_available() else "cpu"

    def losses() -> dict[str, float]:
        model.to(torch.device(device))  # pyright: ignore[reportArgumentType]
        return {name: round(evaluate(model, text, device), 4) for name, text in (("prose", held_out), ("code", code))}

    before = losses()
    descend(model, tokenizer, train, held_out, config, out, resume=resume, checkpoint_every=checkpoint_every)
    result = {"before": before, "after": losses()}
    write_json(out / "losses.json", result)
    return result


def main(
    out: Annotated[Path, typer.Option(help="Directory of the run.")],
    resume: Annotated[bool, typer.Option(help="Continue from the last checkpoint.")] = False,
    tokens: Annotated[int, typer.Option(help="Training tokens, repeats counted.")] = finetuning().tokens,
    base: Annotated[Path, typer.Option(help="Model to tune: the bundled one, or the model/ of a pretraining.")] = MODEL,
) -> None:
    """Finetune the bundled language model on the language reference."""
    print(json.dumps(run(finetuning(tokens), out, base=base, resume=resume), indent=1))


if __name__ == "__main__":
    typer.run(main)
