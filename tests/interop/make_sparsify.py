"""Golden files of sparsify: small sparse coders saved by its own code, with what it computes from them.

Run in the environment ``eai-sparsify``.
"""

from __future__ import annotations

import contextlib
import io
import json

import torch
from datasets import Dataset
from golden_files import Numbers, finish, start
from sparsify import SparseCoder, SparseCoderConfig, TrainConfig, Trainer
from transformers import LlamaConfig, LlamaForCausalLM

D = 8


def coder(numbers: Numbers, **settings: object) -> SparseCoder:
    """A sparse coder with random weights."""
    made = SparseCoder(D, SparseCoderConfig(**settings))
    with torch.no_grad():
        made.encoder.weight.copy_(numbers.rows(made.num_latents, D))
        made.encoder.bias.copy_(numbers.normal(made.num_latents, scale=0.5, mean=-0.5))
        made.W_dec.copy_(numbers.rows(made.num_latents, D))
        made.b_dec.copy_(numbers.normal(D))
        if made.W_skip is not None:
            made.W_skip.copy_(numbers.normal(D, D, scale=0.5))
    return made


def computed(made: SparseCoder, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Its latent activations as a whole matrix, and its reconstruction.

    Without ``forward``, which with multi_topk returns what 4k latents reconstruct, the term of its loss.
    """
    top, indices, _ = made.encode(x)
    recon = made.decode(top, indices)
    if made.W_skip is not None:
        recon = recon + x @ made.W_skip.mT
    if not made.cfg.multi_topk:
        torch.testing.assert_close(recon, made(x).sae_out)
    return torch.zeros(*x.shape[:-1], made.num_latents).scatter_(-1, indices, top), recon


def trained() -> None:
    """A few steps of its own training on a random model, of an SAE and a skip transcoder, with all files it writes."""
    torch.manual_seed(0)
    sizes = {"hidden_size": D, "intermediate_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=50, **sizes))
    tokens = torch.randint(0, 50, (96, 32))
    for name, hookpoint, settings in (
        ("trained_sae", "layers.1", {}),
        ("trained_transcoder", "layers.1.mlp", {"transcode": True, "skip_connection": True}),
    ):
        directory = start("sparsify", name)
        config = TrainConfig(
            SparseCoderConfig(k=3, num_latents=24, **settings),
            batch_size=4,
            hookpoints=[hookpoint],
            lr=1e-2,
            optimizer="adam",
            lr_warmup_steps=2,
            log_to_wandb=False,
            save_dir=".",
            run_name=name,
        )
        quiet = contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO())
        with quiet[0], quiet[1], contextlib.chdir(directory.parent):
            Trainer(config, Dataset.from_dict({"input_ids": tokens}).with_format("torch"), model).fit()
        for file in directory.glob("*.pt"):
            file.unlink()  # states of optimizers, which no reader opens
        with torch.no_grad():
            made, x = SparseCoder.load_from_disk(directory / hookpoint), Numbers(200).x(16, D)
            note = "24 steps of its own training"
            finish(directory / hookpoint, "eai-sparsify", x, *computed(made, x), note=note)


@torch.no_grad()
def filled() -> None:
    """Every setting that changes what a sparse coder computes, with random weights."""
    cases = {
        "topk": {"k": 5, "expansion_factor": 3, "normalize_decoder": False},
        "topk_latents": {"k": 5, "num_latents": 20, "normalize_decoder": True, "multi_topk": True},
        "groupmax": {"k": 6, "num_latents": 24, "activation": "groupmax", "normalize_decoder": False},
        "transcode": {"k": 5, "num_latents": 24, "transcode": True},
        "transcode_skip": {"k": 5, "num_latents": 24, "transcode": True, "skip_connection": True},
        "sae_skip": {"k": 5, "num_latents": 24, "skip_connection": True, "normalize_decoder": False},
        "mostly_negative": {"k": 20, "num_latents": 24, "normalize_decoder": False},
    }
    for seed, (name, settings) in enumerate(cases.items()):
        numbers = Numbers(seed)
        made, x = coder(numbers, **settings), numbers.x(16, D)
        directory = start("sparsify", f"{name}/layers.1" + (".mlp" if settings.get("transcode") else ""))
        made.save_to_disk(directory)
        made = SparseCoder.load_from_disk(directory)
        finish(directory, "eai-sparsify", x, *computed(made, x))

    # Before 2025-02-12 a transcoder subtracted b_dec from its input. Such a file differs in nothing but the keys its
    # cfg.json lacks; what the code of that time computed is what today's computes with transcode false.
    numbers = Numbers(100)
    made, x = coder(numbers, k=5, num_latents=24, transcode=False), numbers.x(16, D)
    directory = start("sparsify", "transcode_centered/layers.1.mlp")
    made.cfg.transcode = True
    made.save_to_disk(directory)
    made.cfg.transcode = False
    note = "transcode is true in cfg.json; computed with the centering of the code before 2025-02-12"
    finish(directory, "eai-sparsify", x, *computed(made, x), note=note)

    numbers = Numbers(101)
    made, x = coder(numbers, k=5, expansion_factor=3, normalize_decoder=False), numbers.x(16, D)
    directory = start("sparsify", "old_keys/layers.1")
    made.save_to_disk(directory)
    config = json.loads((directory / "cfg.json").read_text())
    for key in ("activation", "transcode", "skip_connection"):
        del config[key]
    (directory / "cfg.json").write_text(json.dumps({**config, "signed": False}))
    made = SparseCoder.load_from_disk(directory)
    finish(directory, "eai-sparsify", x, *computed(made, x), note="keys of cfg.json as before 2025")


def main() -> None:
    """Make every case."""
    filled()
    trained()


if __name__ == "__main__":
    main()
