"""Train the bundled language model: a small Llama on the Python standard library's own sources.

    python -m monoscope.demo.pretrain --out runs/stdlib-llama            # hours on two CPU cores, minutes on a GPU
    python -m monoscope.demo.pretrain --out runs/stdlib-llama --resume   # continues from the last checkpoint
    python -m monoscope.demo.pretrain --out runs/pretrain --tokens 4000000   # seven snapshots

The run is seeded and resumable, and writes ``log.jsonl``, ``checkpoint.pt``, bf16 ``snapshots/`` at doubling token
counts, and at the end ``model/`` in the Hugging Face layout.

Windows of 256 tokens, each opened by the beginning-of-sequence token, are cut from the concatenated documents and
visited in a fresh order every epoch. Hidden matrices are trained by Muon, everything else by AdamW; the learning rate
warms up, stays constant, and falls linearly to zero over the last part of the run, so that an earlier stretch of a
longer run and a shorter run are the same thing until the fall begins.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import torch
import typer
from pydantic import BaseModel, ConfigDict
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from monoscope.harvest.text.standard_library import standard_library_texts

BOS = "<|endoftext|>"  # opens every window and separates documents
WORDS = Regex(r" ?\p{L}+| ?\p{N}{1,3}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")


class Pretraining(BaseModel):
    """What decides the bundled model; the defaults are the run that made it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    vocab_size: int = 4096
    d_model: int = 192
    d_mlp: int = 512
    n_layers: int = 4
    n_heads: int = 6
    context: int = 256  # tokens in a window
    windows_per_step: int = 32
    windows_per_pass: int = 16  # forward and backward at once; the rest is accumulated
    tokens: int = 26_000_000
    warmup_steps: int = 100
    decay_share: float = 0.3  # of the run, at its end
    lr_muon: float = 5e-3
    lr_adam: float = 3e-3
    weight_decay: float = 0.1
    clip: float = 1.0
    seed: int = 0

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.tokens // (self.windows_per_step * self.context)

    def lr_scale(self, step: int) -> float:
        """Share of the full learning rate at a step: up, flat, down to zero."""
        decay = max(1, round(self.steps * self.decay_share))
        return min(1.0, (step + 1) / self.warmup_steps, (self.steps - step) / decay)


def train_tokenizer(texts: Iterator[str], vocab_size: int) -> Tokenizer:
    """Byte-level BPE: words, digits in threes and runs of punctuation never merge with each other."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(WORDS, behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[BOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def bos_id(tokenizer: Tokenizer) -> int:
    """Number of the beginning-of-sequence token."""
    bos = tokenizer.token_to_id(BOS)
    assert bos is not None, f"the tokenizer lacks {BOS}"
    return bos


def token_stream(tokenizer: Tokenizer, texts: Iterator[str]) -> Tensor:
    """All documents, each preceded by BOS, as one int32 vector."""
    bos = bos_id(tokenizer)
    ids: list[int] = []
    for encoding in tokenizer.encode_batch(list(texts)):
        ids.append(bos)
        ids.extend(encoding.ids)
    return torch.tensor(ids, dtype=torch.int32)


class Windows:
    """Windows of ``context`` tokens plus the token after, BOS first; batch i of any epoch is a function of i alone."""

    def __init__(self, stream: Tensor, context: int, bos: int, seed: int) -> None:
        self.stream, self.stride, self.bos, self.seed = stream, context, bos, seed
        self.n_windows = (len(stream) - 1) // context

    def batch(self, step: int, size: int) -> Tensor:
        """Windows [size, context + 1] of a step; epochs follow each other without a seam."""
        positions = range(step * size, (step + 1) * size)
        rows = [self._window(*divmod(position, self.n_windows)) for position in positions]
        return torch.stack(rows).long()

    def _window(self, epoch: int, index: int) -> Tensor:
        if getattr(self, "_epoch", None) != epoch:
            generator = torch.Generator().manual_seed(self.seed + epoch)
            self._epoch, self._order = epoch, torch.randperm(self.n_windows, generator=generator)
        start = int(self._order[index]) * self.stride
        return torch.cat([torch.tensor([self.bos], dtype=torch.int32), self.stream[start : start + self.stride]])


def build_model(config: Pretraining, bos: int) -> LlamaForCausalLM:
    """The untrained model, embeddings tied."""
    torch.manual_seed(config.seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.d_model,
            intermediate_size=config.d_mlp,
            num_hidden_layers=config.n_layers,
            num_attention_heads=config.n_heads,
            num_key_value_heads=config.n_heads,
            max_position_embeddings=config.context,
            tie_word_embeddings=True,
            bos_token_id=bos,
            eos_token_id=bos,
            pad_token_id=bos,
        )
    )


def build_optimizers(model: LlamaForCausalLM, config: Pretraining) -> list[torch.optim.Optimizer]:
    """Muon for the blocks' matrices, AdamW for embeddings and norms."""
    matrices = [p for p in model.model.layers.parameters() if p.ndim == 2]
    chosen = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in chosen]
    muon = torch.optim.Muon(
        matrices, lr=config.lr_muon, weight_decay=config.weight_decay, adjust_lr_fn="match_rms_adamw"
    )
    adam = torch.optim.AdamW(others, lr=config.lr_adam, betas=(0.9, 0.95), weight_decay=0.0)
    return [muon, adam]


def cross_entropy(model: LlamaForCausalLM, windows: Tensor) -> Tensor:
    """Mean next-token cross-entropy, nats, of windows [n, context + 1]."""
    with torch.autocast(windows.device.type, torch.bfloat16):
        logits = model(windows[:, :-1], use_cache=False).logits
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), windows[:, 1:].flatten())


def save(path: Path, state: dict) -> None:
    """Write a checkpoint so that a kill at any moment leaves the old one or the new one, whole."""
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    os.replace(partial, path)


def export(model: LlamaForCausalLM, tokenizer: Tokenizer, directory: Path, context: int) -> None:
    """Model in bf16 and tokenizer, in the Hugging Face layout."""
    model.bfloat16().save_pretrained(directory)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=BOS, eos_token=BOS, pad_token=BOS)
    fast.model_max_length = context
    fast.save_pretrained(directory)


def snapshot(model: LlamaForCausalLM, tokenizer: Tokenizer, directory: Path, context: int) -> None:
    """A bf16 copy of a model in training."""
    copy = LlamaForCausalLM(model.config)
    copy.load_state_dict(model.state_dict())
    export(copy, tokenizer, directory, context)


def run(config: Pretraining, out: Path, *, resume: bool, checkpoint_every: float = 300.0) -> None:
    """Train, from the start or from ``out/checkpoint.pt``; ``checkpoint_every`` is in seconds."""
    out.mkdir(parents=True, exist_ok=True)
    tokenizer_file = out / "tokenizer.json"
    if not tokenizer_file.exists():
        train_tokenizer(standard_library_texts("train"), config.vocab_size).save(str(tokenizer_file))
    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    bos = bos_id(tokenizer)
    train = Windows(token_stream(tokenizer, standard_library_texts("train")), config.context, bos, config.seed)
    held_out = Windows(token_stream(tokenizer, standard_library_texts("held_out")), config.context, bos, config.seed)
    print(
        f"{len(train.stream):,} training tokens, {len(held_out.stream):,} held out, {config.steps:,} steps", flush=True
    )

    descend(
        build_model(config, bos),
        tokenizer,
        train,
        held_out,
        config,
        out,
        resume=resume,
        checkpoint_every=checkpoint_every,
    )


def descend(
    model: LlamaForCausalLM,
    tokenizer: Tokenizer,
    train: Windows,
    held_out: Windows,
    config: Pretraining,
    out: Path,
    *,
    resume: bool,
    checkpoint_every: float = 300.0,
) -> None:
    """Train a model on windows, with log, checkpoints and snapshots; at the end ``out/model``."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model.to(torch.device(device))  # pyright: ignore[reportArgumentType]
    optimizers = build_optimizers(model, config)
    first = 0
    if resume:
        state = torch.load(out / "checkpoint.pt", weights_only=True, map_location=device)
        model.load_state_dict(state["model"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        first = state["step"]
    (out / "config.json").write_text(config.model_dump_json(indent=1))

    per_step = config.windows_per_step * config.context
    snapshot_steps = {2**i * 62_500 // per_step for i in range(11)}
    started = last_saved = last_logged = time.monotonic()
    for step in range(first, config.steps):
        for optimizer, lr in zip(optimizers, (config.lr_muon, config.lr_adam), strict=True):
            optimizer.param_groups[0]["lr"] = lr * config.lr_scale(step)
        parts = train.batch(step, config.windows_per_step).to(device).split(config.windows_per_pass)
        total = 0.0
        for part in parts:
            loss = cross_entropy(model, part) / len(parts)
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        done = step + 1
        if done % 20 == 0 or done == config.steps:
            now = time.monotonic()
            rate = 20 * per_step / (now - last_logged)
            last_logged = now
            row = {"step": done, "tokens": done * per_step, "loss": round(total, 4), "tokens_per_s": round(rate)}
            if done % 200 == 0 or done == config.steps:
                row["held_out"] = round(evaluate(model, held_out, device), 4)
                row["minutes_left"] = round((now - started) / (done - first) * (config.steps - done) / 60, 1)
            with (out / "log.jsonl").open("a") as log:
                log.write(json.dumps(row) + "\n")
            print(row, flush=True)
        if done in snapshot_steps:
            snapshot(model, tokenizer, out / "snapshots" / f"{done * per_step}", config.context)
        if time.monotonic() - last_saved > checkpoint_every or done == config.steps:
            optimizer_states = [optimizer.state_dict() for optimizer in optimizers]
            save(out / "checkpoint.pt", {"model": model.state_dict(), "optimizers": optimizer_states, "step": done})
            last_saved = time.monotonic()
    export(model.cpu(), tokenizer, out / "model", config.context)


@torch.no_grad()
def evaluate(model: LlamaForCausalLM, held_out: Windows, device: str, n_windows: int = 128) -> float:
    """Held-out cross-entropy, nats, on a fixed sample of windows."""
    windows = held_out.batch(0, min(n_windows, held_out.n_windows)).to(device)
    losses = [cross_entropy(model, part).item() * len(part) for part in windows.split(16)]
    mean = sum(losses) / len(windows)
    if not math.isfinite(mean):
        raise FloatingPointError("the held-out loss is not finite; lower the learning rates and start again")
    return mean


def main(
    out: Annotated[Path, typer.Option(help="Directory of the run.")],
    resume: Annotated[bool, typer.Option(help="Continue from the last checkpoint.")] = False,
    tokens: Annotated[int, typer.Option(help="Training tokens, repeats counted.")] = Pretraining().tokens,
) -> None:
    """Train the bundled language model."""
    run(Pretraining(tokens=tokens), out, resume=resume)


if __name__ == "__main__":
    typer.run(main)
