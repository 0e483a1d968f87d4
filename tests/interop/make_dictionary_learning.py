"""Golden files of dictionary_learning: small dictionaries of each class, trained or filled with random numbers.

Run in the environment ``dictionary-learning``.
"""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import torch
from dictionary_learning.dictionary import (
    AutoEncoder,
    AutoEncoderNew,
    GatedAutoEncoder,
    JumpReluAutoEncoder,
)
from dictionary_learning.trainers.batch_top_k import BatchTopKSAE, BatchTopKTrainer
from dictionary_learning.trainers.matryoshka_batch_top_k import MatryoshkaBatchTopKSAE, MatryoshkaBatchTopKTrainer
from dictionary_learning.trainers.standard import StandardTrainer
from dictionary_learning.trainers.top_k import AutoEncoderTopK
from dictionary_learning.training import trainSAE
from golden_files import Numbers, finish, start

D, F, K = 8, 24, 5
PACKAGE = "dictionary-learning"
BUFFER = {"d_submodule": D, "io": "out", "n_ctxs": 3000, "ctx_len": 128, "refresh_batch_size": 32, "out_batch_size": 64}


def filled(module: torch.nn.Module, numbers: Numbers) -> Any:
    """A dictionary with random weights, and a positive threshold where it has one."""
    with torch.no_grad():
        for name, value in module.named_parameters():
            if name == "threshold":
                value.copy_(numbers.uniform(*value.shape, low=-0.2, high=1.0))
            elif value.ndim == 2:
                rows = numbers.rows(F, D)
                value.copy_(rows if value.shape == rows.shape else rows.T)
            else:
                value.copy_(numbers.normal(*value.shape, scale=0.7))
    if "threshold" in dict(module.named_buffers()):
        module.threshold.fill_(0.8)
    return module


def config(dict_class: str, trainer_class: str, **more: Any) -> dict[str, Any]:
    """What a trainer's ``config`` says, in its own keys."""
    return {
        "dict_class": dict_class,
        "trainer_class": trainer_class,
        "activation_dim": D,
        "dict_size": F,
        "lr": 1e-3,
        "steps": 100,
        "layer": 3,
        "lm_name": "EleutherAI/pythia-70m-deduped",
        "wandb_name": trainer_class,
        "submodule_name": "resid_post_layer_3",
        **more,
    }


def write(
    case: str, made: Any, trainer: dict[str, Any], numbers: Numbers, *, buffer: bool = False, **notes: Any
) -> None:
    """Save as ``trainSAE`` does at its end, read back by the class's own loader, and compute."""
    directory = start("dictionary_learning", f"{case}/trainer_0")
    (directory / "config.json").write_text(json.dumps({"trainer": trainer} | ({"buffer": BUFFER} if buffer else {})))
    torch.save({name: value.cpu() for name, value in made.state_dict().items()}, directory / "ae.pt")
    keep_norms = {"normalize_decoder": False} if isinstance(made, AutoEncoder) else {}
    loaded = type(made).from_pretrained(directory / "ae.pt", **keep_norms)
    if isinstance(made, JumpReluAutoEncoder):
        loaded.apply_b_dec_to_input = made.apply_b_dec_to_input  # an attribute that no file keeps
    compute(directory, loaded, numbers, **notes)


def compute(directory: Path, loaded: Any, numbers: Numbers, **notes: Any) -> None:
    """What a dictionary computes on some activations."""
    x = numbers.x(16, D)
    acts = loaded.encode(x)
    finish(directory, PACKAGE, x, acts, loaded.decode(acts), **notes)


def untrained() -> None:
    """Every class, with random weights."""
    numbers = Numbers(0)
    write("autoencoder", filled(AutoEncoder(D, F), numbers), config("AutoEncoder", "StandardTrainer"), numbers)
    write(
        "autoencoder_new",
        filled(AutoEncoderNew(D, F), numbers),
        config("AutoEncoderNew", "StandardTrainerNew"),
        numbers,
    )
    write(
        "gated",
        filled(GatedAutoEncoder(D, F), numbers),
        config("GatedAutoEncoder", "GatedSAETrainer"),
        numbers,
        buffer=True,
    )
    jump = filled(JumpReluAutoEncoder(D, F), numbers)
    write("jumprelu", jump, config("JumpReluAutoEncoder", "JumpReluTrainer"), numbers)
    jump.apply_b_dec_to_input = True
    note = "apply_b_dec_to_input was true, which the file does not say"
    write("jumprelu_centered", jump, config("JumpReluAutoEncoder", "JumpReluTrainer"), numbers, note=note)
    write("topk", filled(AutoEncoderTopK(D, F, K), numbers), config("AutoEncoderTopK", "TopKTrainer", k=K), numbers)
    batch = filled(BatchTopKSAE(D, F, K), numbers)
    write("batch_topk", batch, config("BatchTopKSAE", "BatchTopKTrainer", k=K), numbers, buffer=True)
    batch.threshold.fill_(-1.0)
    note = "before the step from which the threshold is learned: a ReLU"
    write("batch_topk_no_threshold", batch, config("BatchTopKSAE", "BatchTopKTrainer", k=K), numbers, note=note)
    groups = [4, 8, 12]
    matryoshka = filled(MatryoshkaBatchTopKSAE(D, F, K, groups), numbers)
    trainer = config("MatryoshkaBatchTopKSAE", "MatryoshkaBatchTopKTrainer", k=K, group_sizes=groups)
    write("matryoshka", matryoshka, trainer, numbers)


def interrupted() -> None:
    """Runs that died after a backup: later versions write one over ``ae.pt``, with biases in the units of training."""
    for case, norm_factor in (("interrupted", None), ("interrupted_normalized", 3.7)):
        numbers = Numbers(50)
        made = filled(BatchTopKSAE(D, F, K), numbers)
        directory = start("dictionary_learning", f"{case}/trainer_0")
        trainer = config("BatchTopKSAE", "BatchTopKTrainer", k=K)
        (directory / "config.json").write_text(json.dumps({"trainer": trainer}))
        optimizer = torch.optim.Adam(made.parameters())
        backup = {"step": 40, "ae": made.state_dict(), "optimizer": optimizer.state_dict(), "config": trainer}
        torch.save({**backup, "norm_factor": norm_factor}, directory / "ae.pt")
        if norm_factor is not None:
            made.scale_biases(norm_factor)  # what the trainer does to the weights of its other files
        note = "laid out by hand as later versions do: the released version writes no backups"
        compute(directory, made, numbers, note=note)


def trained() -> None:
    """A few steps of real training, with everything ``trainSAE`` itself writes."""
    common = {
        "steps": 30,
        "activation_dim": D,
        "dict_size": F,
        "layer": 3,
        "lm_name": "EleutherAI/pythia-70m-deduped",
        "device": "cpu",
        "seed": 0,
        "submodule_name": "resid_post_layer_3",
        "warmup_steps": 5,
    }
    with_k = {**common, "k": K, "threshold_start_step": 5, "decay_start": 20}
    trainers = {
        "standard": {"trainer": StandardTrainer, "lr": 1e-2, "l1_penalty": 0.1, "sparsity_warmup_steps": 5, **common},
        "batch_topk": {"trainer": BatchTopKTrainer, **with_k},
        "matryoshka": {"trainer": MatryoshkaBatchTopKTrainer, "group_fractions": [0.25, 0.75], **with_k},
    }
    classes = {"standard": AutoEncoder, "batch_topk": BatchTopKSAE, "matryoshka": MatryoshkaBatchTopKSAE}
    for seed, (case, settings) in enumerate(trainers.items()):
        numbers = Numbers(200 + seed)
        directory = start("dictionary_learning", f"trained_{case}")
        data = (4 * numbers.x(64, D) for _ in range(200))
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            trainSAE(
                data,
                [settings],
                steps=30,
                save_dir=str(directory),
                save_steps=[20],
                normalize_activations=True,
                device="cpu",
            )
        file = directory / "trainer_0" / "ae.pt"
        keep_norms = {"normalize_decoder": False} if case == "standard" else {}
        x = 4 * numbers.x(16, D)
        loaded = classes[case].from_pretrained(file, **keep_norms)
        acts = loaded.encode(x)
        finish(file.parent, PACKAGE, x, acts, loaded.decode(acts), note="30 steps of its own training")


def main() -> None:
    """Make every case."""
    with torch.no_grad():
        untrained()
        interrupted()
    trained()


if __name__ == "__main__":
    main()
