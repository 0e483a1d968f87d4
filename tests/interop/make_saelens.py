"""Golden files of SAELens: small dictionaries of each architecture, saved by its own code, with what it computes.

Run in the environment ``sae-lens``.
"""

from __future__ import annotations

import contextlib
import io
import json
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from golden_files import Numbers, finish, start
from sae_lens import SAE
from sae_lens.config import LoggingConfig, SAETrainerConfig
from sae_lens.registry import get_sae_class, get_sae_training_class
from sae_lens.saes.sae import SAEMetadata, TrainingSAE
from sae_lens.training.activation_scaler import ActivationScaler
from sae_lens.training.sae_trainer import SAETrainer
from safetensors.torch import load_file, save_file

D, D_OUT, F, K = 8, 6, 24, 5
PACKAGE = "sae-lens"
METADATA = {
    "model_name": "gpt2-small",
    "model_class_name": "HookedTransformer",
    "hook_name": "blocks.1.hook_resid_post",
    "hook_head_index": None,
    "context_size": 128,
    "prepend_bos": True,
}
TRANSCODER = {"hook_name": "blocks.1.hook_mlp_in", "hook_name_out": "blocks.1.hook_mlp_out"}


def fill(sae: torch.nn.Module, numbers: Numbers) -> None:
    """Random weights."""
    with torch.no_grad():
        for name, value in sae.named_parameters():
            if name == "threshold":
                value.copy_(numbers.uniform(*value.shape, low=-0.2, high=1.0))
            elif name == "W_enc":
                value.copy_(numbers.rows(F, D).T)
            elif name == "W_dec":
                value.copy_(numbers.rows(*value.shape))
            else:
                value.copy_(numbers.normal(*value.shape, scale=0.7))


def inference(architecture: str, numbers: Numbers, metadata: dict[str, Any] | None = None, **settings: Any) -> SAE[Any]:
    """An inference dictionary with random weights."""
    sae_class, config_class = get_sae_class(architecture)
    config = config_class(d_in=D, d_sae=F, metadata=SAEMetadata(**{**METADATA, **(metadata or {})}), **settings)
    sae = sae_class(config)
    fill(sae, numbers)
    if architecture == "matching_pursuit":
        with torch.no_grad():
            sae.W_dec /= sae.W_dec.norm(dim=1, keepdim=True)
    return sae


def compute(directory: Path, x: torch.Tensor, **notes: Any) -> None:
    """What SAELens computes from the files of a directory."""
    sae = SAE.load_from_disk(directory)
    finish(directory, PACKAGE, x, sae.encode(x), sae(x), **notes)


def save(case: str, sae: SAE[Any], x: torch.Tensor, **notes: Any) -> Path:
    """Save, read back, compute."""
    directory = start("saelens", case)
    sae.save_model(directory)
    compute(directory, x, **notes)
    return directory


def architectures() -> None:
    """Every inference class, in every setting that changes its numbers."""
    transcoder = {"apply_b_dec_to_input": False, "d_out": D_OUT, "metadata": TRANSCODER}
    cases: dict[str, tuple[str, dict[str, Any]]] = {
        "standard": ("standard", {}),
        "standard_uncentered": ("standard", {"apply_b_dec_to_input": False}),
        "topk": ("topk", {"k": K}),
        "topk_uncentered": ("topk", {"k": K, "apply_b_dec_to_input": False}),
        "topk_rescaled": ("topk", {"k": K, "rescale_acts_by_decoder_norm": True}),
        "topk_rescaled_uncentered": (
            "topk",
            {"k": K, "rescale_acts_by_decoder_norm": True, "apply_b_dec_to_input": False},
        ),
        "abstopk": ("abstopk", {"k": K}),
        "abstopk_rescaled": ("abstopk", {"k": K, "rescale_acts_by_decoder_norm": True}),
        "jumprelu": ("jumprelu", {}),
        "jumprelu_uncentered": ("jumprelu", {"apply_b_dec_to_input": False}),
        "gated": ("gated", {}),
        "transcoder": ("transcoder", transcoder),
        "skip_transcoder": ("skip_transcoder", transcoder),
        "jumprelu_transcoder": ("jumprelu_transcoder", transcoder),
        "jumprelu_skip_transcoder": ("jumprelu_skip_transcoder", transcoder),
        "matching_pursuit": ("matching_pursuit", {"residual_threshold": 1.0}),
        "matching_pursuit_steps": (
            "matching_pursuit",
            {"residual_threshold": 0.0, "max_iterations": 6, "stop_on_duplicate_support": False},
        ),
        "matching_pursuit_uncentered": (
            "matching_pursuit",
            {"max_iterations": 9, "residual_threshold": 0.5, "apply_b_dec_to_input": False},
        ),
        "layer_norm": ("standard", {"normalize_activations": "layer_norm"}),
        "layer_norm_topk": ("topk", {"k": K, "normalize_activations": "layer_norm"}),
        "constant_norm_rescale": ("jumprelu", {"normalize_activations": "constant_norm_rescale"}),
        "transcoder_layer_norm": ("transcoder", {**transcoder, "normalize_activations": "layer_norm"}),
        "expected_average": ("standard", {"normalize_activations": "expected_average_only_in"}),
    }
    for seed, (case, (architecture, settings)) in enumerate(cases.items()):
        numbers = Numbers(seed)
        directory = save(case, inference(architecture, numbers, **settings), numbers.x(16, D))
        if case == "standard":
            frequency = (load_file(directory / "io.safetensors")["acts"] > 0).float().mean(0)
            save_file({"sparsity": (frequency + 1e-10).log10()}, directory / "sparsity.safetensors")

    numbers = Numbers(60)
    settings = {"reshape_activations": "hook_z", "metadata": {"hook_name": "blocks.1.attn.hook_z"}}
    save("hook_z", inference("standard", numbers, **settings), numbers.x(16, D).view(16, 2, D // 2))

    numbers = Numbers(61)
    sae, x = inference("jumprelu", numbers).to(torch.bfloat16), numbers.x(16, D)
    directory = start("saelens", "jumprelu_bfloat16")
    sae.save_model(directory)
    sae = SAE.load_from_disk(directory, dtype="float32")
    finish(directory, PACKAGE, x, sae.encode(x), sae(x), note="stored in bfloat16, computed in float32")


def checkpoints() -> None:
    """Training checkpoints, and what SAELens makes of them at the end of training."""
    base = {"k": K, "rescale_acts_by_decoder_norm": True}
    levels = {"matryoshka_widths": [4, 12, F]}
    scaled = {"normalize_activations": "expected_average_only_in"}
    cases: dict[str, tuple[str, dict[str, Any], float | None]] = {
        "checkpoint_batchtopk": ("batchtopk", base, None),
        "checkpoint_batchtopk_scaled": ("batchtopk", {**base, **scaled}, 0.37),
        "checkpoint_batchtopk_plain": ("batchtopk", {**base, **scaled, "rescale_acts_by_decoder_norm": False}, 0.37),
        "checkpoint_matryoshka": ("matryoshka_batchtopk", {**base, **levels, **scaled}, 0.37),
        "checkpoint_topk": ("topk", {**base, **scaled}, 0.37),
        "checkpoint_standard": ("standard", scaled, 0.37),
        "checkpoint_jumprelu": ("jumprelu", scaled, 0.37),
        "checkpoint_gated": ("gated", scaled, 0.37),
        "checkpoint_batchtopk_whitened": ("batchtopk", {**base, "normalize_activations": "covariance_whitening"}, None),
        "checkpoint_standard_whitened": (
            "standard",
            {"normalize_activations": "covariance_whitening", "apply_b_dec_to_input": False},
            None,
        ),
    }
    for seed, (case, (architecture, settings, factor)) in enumerate(cases.items()):
        numbers = Numbers(100 + seed)
        sae_class, config_class = get_sae_training_class(architecture)
        sae = sae_class(config_class(d_in=D, d_sae=F, metadata=SAEMetadata(**METADATA), **settings))
        fill(sae, numbers)
        if hasattr(sae, "topk_threshold"):
            sae.topk_threshold.fill_(0.9)
        scaler = ActivationScaler(scaling_factor=factor)
        if settings.get("normalize_activations") == "covariance_whitening":
            scaler.estimate_whitening(D, (numbers.x(64, D) for _ in range(1000)), 4)
        directory = start("saelens", case)
        sae.save_model(directory)
        scaler.save(str(directory / "activation_scaler.json"))
        torch.save({"n_training_samples": 4096}, directory / "trainer_state.pt")
        finished(directory, sae, scaler, numbers.x(16, D))


def finished(directory: Path, sae: TrainingSAE[Any], scaler: ActivationScaler, x: torch.Tensor, **notes: Any) -> None:
    """Fold and export a training dictionary as SAELens does at the end, and compute with the result."""
    if scaler.scaling_factor is not None:
        sae.fold_activation_norm_scaling_factor(scaler.scaling_factor)
    if (whitening := scaler.whitening) is not None:
        sae.fold_activation_whitening(whitening.mean, whitening.matrix, whitening.inverse_matrix)
    exported = start("saelens", directory.name + "_exported")
    sae.save_inference_model(exported)
    compute(exported, x, **notes)
    computed = load_file(exported / "io.safetensors")
    note = "computed by the inference model that SAELens exports from this checkpoint"
    finish(directory, PACKAGE, **computed, note=note, **notes)


def before_6() -> None:
    """Files of versions before 6, computed by the loader that SAELens 6 keeps for them."""
    old = {
        "model_name": "gpt2-small",
        "hook_point": "blocks.1.hook_resid_pre",
        "hook_point_layer": 1,
        "hook_point_head_index": None,
        "d_in": D,
        "d_sae": F,
        "dtype": "torch.float32",
        "device": "cpu",
        "context_size": 128,
        "dataset_path": "Skylion007/openwebtext",
        "activation_fn_str": "relu",
    }
    version_5 = {
        "model_name": "gpt2-small",
        "hook_name": "blocks.1.hook_resid_pre",
        "hook_layer": 1,
        "hook_head_index": None,
        "d_in": D,
        "d_sae": F,
        "dtype": "float32",
        "device": "cpu",
        "architecture": "standard",
        "context_size": 128,
        "prepend_bos": False,
        "apply_b_dec_to_input": False,
        "normalize_activations": "none",
        "finetuning_scaling_factor": False,
        "sae_lens_training_version": "5.3.0",
    }
    topk = {"activation_fn": "topk", "activation_fn_kwargs": {"k": K}, "apply_b_dec_to_input": True}
    cases: dict[str, tuple[str, dict[str, Any]]] = {
        "oldest": ("standard", old),
        "bool_normalization": ("standard", {**old, "normalize_activations": True}),
        "version_5": ("standard", version_5),
        "jumprelu": ("jumprelu", {**version_5, "architecture": "jumprelu"}),
        "gated": ("gated", {**version_5, "architecture": "gated"}),
        "topk": ("topk", {**version_5, **topk}),
        "hook_z": ("standard", {**old, "hook_point": "blocks.1.attn.hook_z"}),
        "layer_norm": ("standard", {**version_5, "normalize_activations": "layer_norm"}),
        "ones_scaling_factor": ("standard", version_5),
    }
    for seed, (case, (architecture, config)) in enumerate(cases.items()):
        numbers = Numbers(300 + seed)
        sae = inference(architecture, numbers, **({"k": K} if architecture == "topk" else {}))
        directory = start("saelens_old", case)
        tensors = {name: value.contiguous() for name, value in sae.state_dict().items()}
        if case == "ones_scaling_factor":
            tensors["scaling_factor"] = torch.ones(F)
        save_file(tensors, directory / "sae_weights.safetensors")
        (directory / "cfg.json").write_text(json.dumps(config))
        x = numbers.x(16, D)
        compute(directory, x.view(16, 2, D // 2) if case == "hook_z" else x)


def trained() -> None:
    """A few steps of real training, with everything the trainer itself writes."""
    cases: dict[str, tuple[str, dict[str, Any]]] = {
        "batchtopk": ("batchtopk", {"k": 3}),
        "matryoshka": ("matryoshka_batchtopk", {"k": 3, "matryoshka_widths": [6, F]}),
        "topk": ("topk", {"k": 3}),
        "jumprelu": ("jumprelu", {"l0_coefficient": 0.5}),
    }
    for seed, (case, (architecture, settings)) in enumerate(cases.items()):
        numbers = Numbers(400 + seed)
        torch.manual_seed(seed)
        sae_class, config_class = get_sae_training_class(architecture)
        config = config_class(
            d_in=D,
            d_sae=F,
            normalize_activations="expected_average_only_in",
            metadata=SAEMetadata(**METADATA),
            **settings,
        )
        directory = start("saelens", f"trained_{case}")
        trainer = SAETrainer(
            cfg=SAETrainerConfig(
                n_checkpoints=1,
                checkpoint_path=str(directory),
                save_final_checkpoint=False,
                total_training_samples=64 * 120,
                device="cpu",
                autocast=False,
                lr=3e-3,
                lr_end=3e-4,
                lr_scheduler_name="constant",
                lr_warm_up_steps=0,
                adam_beta1=0.9,
                adam_beta2=0.999,
                lr_decay_steps=0,
                n_restart_cycles=1,
                train_batch_size_samples=64,
                dead_feature_window=50,
                feature_sampling_window=50,
                logger=LoggingConfig(log_to_wandb=False),
            ),
            sae=sae_class(config),
            data_provider=batches(numbers),
        )
        with contextlib.redirect_stderr(io.StringIO()):
            trainer.fit()
        exported = directory / "final"
        trainer.sae.save_inference_model(exported)
        save_file({"sparsity": trainer.log_feature_sparsity}, exported / "sparsity.safetensors")
        for file in directory.glob("*/trainer_state.pt"):
            file.unlink()  # an optimizer's state: large, and of no use to a reader
        x = 4 * numbers.x(16, D)
        compute(exported, x, note="120 steps of its own training")
        (checkpoint,) = (path for path in directory.iterdir() if path != exported)
        halfway(checkpoint, x)


@torch.no_grad()
def halfway(checkpoint: Path, x: torch.Tensor) -> None:
    """What SAELens would export had training ended at a checkpoint that its trainer wrote."""
    sae, scaler = TrainingSAE.load_from_disk(checkpoint), ActivationScaler()
    scaler.load(checkpoint / "activation_scaler.json")
    assert scaler.scaling_factor is not None
    sae.fold_activation_norm_scaling_factor(scaler.scaling_factor)
    with tempfile.TemporaryDirectory() as exported:
        sae.save_inference_model(exported)
        sae = SAE.load_from_disk(exported)
    note = "a checkpoint of its own trainer, computed by the inference model that SAELens exports from it"
    finish(checkpoint, PACKAGE, x, sae.encode(x), sae(x), note=note)


def batches(numbers: Numbers) -> Iterator[torch.Tensor]:
    """Batches of activations, without end."""
    while True:
        yield 4 * numbers.x(64, D)


def main() -> None:
    """Make every case."""
    warnings.simplefilter("ignore")
    with torch.no_grad():
        architectures()
        checkpoints()
        before_6()
    trained()


if __name__ == "__main__":
    main()
