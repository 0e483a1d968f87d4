"""Golden files of llamascopium: checkpoints its own code writes, and what its own code computes from them.

Runs where llamascopium is installed, without monoscope:  python make_llamascopium.py [CASE ...]

Every case is a directory with the library's files, and with ``x``, ``acts`` and ``recon`` in raw units, layers or sites
on an axis before the width. Weights are random and lopsided, so that a transposed or forgotten tensor shows. A draw in
which a change of 1e-5 in ``x`` moves what is active is made again, since rounding could move it too.
"""

from __future__ import annotations

import contextlib
import math
import os
import sys
from pathlib import Path

import torch
from golden_files import finish, start
from llamascopium.models.clt import CLTConfig
from llamascopium.models.crosscoder import CrosscoderConfig
from llamascopium.models.lorsa import LorsaConfig
from llamascopium.models.molt import MOLTConfig
from llamascopium.models.sae import SAEConfig
from llamascopium.models.sparse_dictionary import SparseDictionary, SparseDictionaryConfig

D, N, LAYERS = 8, 32, 3
RESID, MID, MLP = "blocks.1.hook_resid_post", "blocks.1.hook_resid_mid", "blocks.1.hook_mlp_out"
ATTN_IN, ATTN_OUT = "blocks.1.ln1.hook_normalized", "blocks.1.hook_attn_out"
BASE = {"d_model": D, "expansion_factor": 3, "norm_activation": "inference"}
SAE = BASE | {"hook_point_in": RESID, "hook_point_out": RESID}
TRANSCODER = BASE | {"hook_point_in": MID, "hook_point_out": MLP}
CLT = BASE | {
    "hook_points_in": [f"blocks.{i}.hook_resid_mid" for i in range(LAYERS)],
    "hook_points_out": [f"blocks.{i}.hook_mlp_out" for i in range(LAYERS)],
}
CROSS = BASE | {"hook_points": [f"blocks.{i}.hook_resid_post" for i in range(LAYERS)]}
MOLT = TRANSCODER | {"expansion_factor": 7 / D, "rank_counts": {1: 4, 2: 2, 3: 1}}
LORSA = BASE | {
    "hook_point_in": ATTN_IN,
    "hook_point_out": ATTN_OUT,
    "n_qk_heads": 2,
    "d_qk_head": 6,
    "rotary_dim": 6,
    "n_ctx": 12,
}
DATASET, TOPK, JUMP = {"norm_activation": "dataset-wise"}, {"act_fn": "topk", "top_k": 4}, {"act_fn": "jumprelu"}
BARE = {"sparsity_include_decoder_norm": False}
LLAMA = {
    "use_NTK_by_parts_rope": True,
    "NTK_by_parts_factor": 4.0,
    "NTK_by_parts_low_freq_factor": 1.0,
    "NTK_by_parts_high_freq_factor": 4.0,
    "old_context_len": 64,
}

CASES = {
    "sae_relu": SAEConfig(**SAE | BARE),
    "sae_topk": SAEConfig(**SAE | TOPK),
    "sae_topk_plain": SAEConfig(**SAE | TOPK | BARE),
    "sae_jumprelu": SAEConfig(**SAE | JUMP | DATASET),
    "sae_jumprelu_folded": SAEConfig(**SAE | JUMP | DATASET),
    "sae_jumprelu_bf16": SAEConfig(**SAE | JUMP | BARE, dtype=torch.bfloat16),
    "sae_batchtopk": SAEConfig(**SAE | {"act_fn": "batchtopk", "top_k": 4}),
    "sae_token_wise": SAEConfig(**SAE | TOPK | {"norm_activation": "token-wise"}),
    "transcoder_topk_pt": SAEConfig(**TRANSCODER | TOPK | DATASET | {"use_decoder_bias": False}),
    "transcoder_jumprelu_folded": SAEConfig(**TRANSCODER | JUMP | BARE | DATASET),
    "transcoder_glu": SAEConfig(**TRANSCODER | DATASET | {"use_glu_encoder": True}),
    "transcoder_dcp": SAEConfig(**TRANSCODER | JUMP | DATASET),
    "clt_topk": CLTConfig(**CLT | TOPK),
    "clt_jumprelu": CLTConfig(**CLT | JUMP | BARE | DATASET),
    "clt_jumprelu_folded": CLTConfig(**CLT | JUMP | BARE | DATASET),
    "clt_layertopk": CLTConfig(**CLT | DATASET | {"act_fn": "layertopk", "top_k": 9}),
    "clt_batchtopk": CLTConfig(**CLT | DATASET | {"act_fn": "batchtopk", "top_k": 4}),
    "clt_batchlayertopk": CLTConfig(**CLT | {"act_fn": "batchlayertopk", "top_k": 9}),
    "crosscoder_relu": CrosscoderConfig(**CROSS | DATASET),
    "crosscoder_topk": CrosscoderConfig(**CROSS | TOPK | DATASET),
    "crosscoder_jumprelu": CrosscoderConfig(**CROSS | JUMP),
    "molt_topk": MOLTConfig(**MOLT | TOPK | {"top_k": 3}),
    "molt_jumprelu": MOLTConfig(**MOLT | JUMP | DATASET),
    "lorsa_topk": LorsaConfig(**LORSA | TOPK | DATASET | {"use_post_qk_ln": True, "normalization_type": "RMS"}),
    "lorsa_jumprelu": LorsaConfig(
        **LORSA | JUMP | LLAMA | {"rotary_adjacent_pairs": False, "rotary_dim": 4, "attn_scale": 1.7}
    ),
    "lorsa_relu": LorsaConfig(**LORSA | BARE | {"positional_embedding_type": "none", "use_decoder_bias": False}),
}
FOLDED = {name for name in CASES if name.endswith("_folded")}


def fill_(sae: SparseDictionary, generator: torch.Generator) -> None:
    """Random weights of different sizes: decoder norms vary by a factor, thresholds too."""
    for name, parameter in sae.named_parameters():
        value = torch.randn(parameter.shape, generator=generator)
        if name.startswith(("W_D", "W_O", "U_matrices")):
            value = value * (0.5 + torch.rand((*parameter.shape[:-1], 1), generator=generator)) * 0.6
        elif "threshold" in name:
            value = math.log(0.5) + 0.3 * value
        elif name.startswith("b_"):
            value = 0.3 * value
        elif name.startswith("ln_"):
            value = 1 + 0.2 * value
        else:
            value = value * 0.5
        parameter.data.copy_(value)


def norms(cfg: SparseDictionaryConfig, generator: torch.Generator) -> dict[str, float]:
    """Average activation norms that differ from site to site, as an initializer would have measured them."""
    points = list(dict.fromkeys(cfg.associated_hook_points))
    return {point: float(2 + 3 * torch.rand((), generator=generator)) for point in points}


def inputs(cfg: SparseDictionaryConfig, generator: torch.Generator) -> dict[str, torch.Tensor]:
    shape = (4, N // 4) if cfg.sae_type == "lorsa" else (N,)
    points = dict.fromkeys([*cfg.hooks_in, *cfg.hooks_out])
    return {point: torch.randn(*shape, D, generator=generator) * 1.5 + 0.2 for point in points}


def forward(sae: SparseDictionary, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Raw activations, features and raw reconstruction, through the library's own normalization."""
    cfg = sae.cfg
    given = {point: batch[point] for point in cfg.hooks_in}
    raw, _, _ = sae.prepare_input(given)
    scaled, factors = sae.normalize_activations(batch, return_scale_factor=True)
    x, encode, decode = sae.prepare_input(scaled)
    acts = sae.encode(x, **encode)
    recon = sae.decode(acts, **decode)
    if cfg.sae_type == "clt":
        recon = recon.movedim(0, 1)
    if cfg.sae_type in ("clt", "crosscoder"):
        points = [cfg.hooks_out[i] for i in range(recon.shape[-2])]
        recon = torch.stack([recon[:, i] / factors[point] for i, point in enumerate(points)], 1)
    else:
        recon = recon / factors[cfg.hooks_out[0]]
    return {"x": raw, "acts": acts, "recon": recon}


def is_stable(sae: SparseDictionary, batch: dict[str, torch.Tensor], acts: torch.Tensor) -> bool:
    """Whether the same features are active for inputs that are a little larger and a little smaller."""
    x, encode, _ = sae.prepare_input(sae.normalize_activations(batch))
    return all(torch.equal(sae.encode(x * step, **encode) != 0, acts != 0) for step in (1 + 1e-5, 1 - 1e-5))


def threshold_between(sae: SparseDictionary, batch: dict[str, torch.Tensor], acts: torch.Tensor) -> torch.Tensor:
    """The score between the smallest that a batch function kept and the largest it dropped, by layer or of all."""
    x, encode, _ = sae.prepare_input(sae.normalize_activations(batch))
    fn, sae.activation_function = sae.activation_function, lambda x: x
    score = sae.encode(x, **encode).relu()
    sae.activation_function = fn
    norm = sae.decoder_norm_per_feature() if sae.cfg.sae_type == "clt" else sae.decoder_norm()
    score, kept = (score * norm).detach(), acts != 0
    groups = score.unbind(1) if sae.cfg.act_fn == "batchtopk" and sae.cfg.sae_type == "clt" else [score]
    masks = kept.unbind(1) if len(groups) > 1 else [kept]
    return torch.stack([(s[k].min() + s[~k].max()) / 2 for s, k in zip(groups, masks, strict=True)])


def write(sae: SparseDictionary, name: str, directory: Path) -> None:
    sae.cfg.save_hyperparameters(directory)
    if name in FOLDED:  # as its training runner does: the config is written first, and the weights are folded after it
        sae.save_pretrained(directory, fold_activation_scale=True)
    elif name.endswith("_pt"):
        sae.save_checkpoint(directory / "sae_weights.pt")
    elif name.endswith("_dcp"):
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29577", "RANK": "0", "WORLD_SIZE": "1"}
        torch.distributed.init_process_group("gloo")
        mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (1, 1), mesh_dim_names=("data", "model"))
        placed = SparseDictionary.from_config(sae.cfg, device_mesh=mesh)
        placed.set_dataset_average_activation_norm(sae.dataset_average_activation_norm)
        for ours, theirs in zip(sae.parameters(), placed.parameters(), strict=True):
            theirs.data.to_local().copy_(ours.data)
        with contextlib.chdir(directory):  # the metadata keeps the path it was given
            placed.save_pretrained(".")
        torch.distributed.destroy_process_group()
    else:
        sae.save_pretrained(directory)


def make(name: str) -> None:
    cfg = CASES[name]
    for seed in range(50):
        generator = torch.Generator().manual_seed(1000 * seed + sorted(CASES).index(name))
        sae = SparseDictionary.from_config(cfg.model_copy())
        fill_(sae, generator)
        sae.set_dataset_average_activation_norm(norms(cfg, generator))
        batch, directory = inputs(cfg, generator), start("llamascopium", name)
        with torch.no_grad():
            write(sae, name, directory)
            if name in FOLDED:
                read = SparseDictionary.from_pretrained(str(directory), norm_activation="inference")
            elif name.endswith("_dcp"):
                read = sae
            else:
                read = SparseDictionary.from_pretrained(str(directory))
            values = forward(read, batch)
            if is_stable(read, batch, values["acts"]):
                break
    else:
        raise SystemExit(f"{name}: no draw keeps its scores away from the thresholds")
    notes = {}
    if cfg.act_fn.startswith("batch"):
        notes["thresholds"] = threshold_between(read, batch, values["acts"]).tolist()
    if name in FOLDED:
        notes["note"] = "its runner's order: the configuration first, which says dataset-wise, then the folded weights"
    finish(directory, "llamascopium", values["x"], values["acts"], values["recon"], **notes)


if __name__ == "__main__":
    for case in sys.argv[1:] or CASES:
        make(case)
