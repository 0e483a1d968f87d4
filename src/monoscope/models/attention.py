"""The attention weights of one layer, in one layout for every family that has a table of sites."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from monoscope.core.attention import AttentionForm, AttentionWeights, Rotary
from monoscope.core.errors import ModelError, SiteError
from monoscope.models.family import At, Stack
from monoscope.models.layout import FUSED, Layout

Q_NORMS, K_NORMS = ("q_norm", "q_layernorm"), ("k_norm", "k_layernorm")
CHANGING_ROTARY = ("dynamic", "longrope")  # their frequencies depend on the length of the text


@torch.no_grad()
def attention_weights(layout: Layout, layer: int, stack: Stack = "") -> AttentionWeights:
    """Weights of a layer's attention, as float32 copies.

    Raises SiteError for a layer the model lacks, and ModelError, with the reason, for attention that AttentionForm does
    not describe.
    """
    hf, family = layout.hf, layout.family
    if getattr(hf.config.get_text_config(), "alibi", False) or hf.config.model_type == "bloom":
        raise ModelError(
            f"{type(hf).__name__} adds a bias that grows with distance to its attention scores (ALiBi); "
            "only rotary positions, learned ones, or none can be carried over"
        )
    if family is None:
        raise ModelError(
            f"{type(hf).__name__} ({hf.config.model_type}) has no table of sites, so its heads are unknown"
        )
    if stack not in layout.blocks or not 0 <= layer < len(layout.blocks[stack]):
        stacks = ", ".join(f"{name or 'the model'}: 0..{len(blocks) - 1}" for name, blocks in layout.blocks.items())
        raise SiteError(f"no attention in layer {layer} of {stack or 'the model'}; the layers are {stacks}")
    block, sites, n_heads = layout.blocks[stack][layer], family.sites, layout.n_heads
    module: Any = block.get_submodule(sites["pattern"].path)
    W_O, b_O = _affine(block.get_submodule(sites["z"].path))
    d_head = W_O.shape[0] // n_heads
    parts = [_projection(block, sites[kind], FUSED.index(kind), n_heads, d_head) for kind in FUSED]
    W_Q, W_K, W_V = (weight for weight, _ in parts)
    b_Q, b_K, b_V = (bias for _, bias in parts)
    behind = _behind(block, sites)
    gain = 1.0 if behind is None else _gain(behind)
    q_norm = _find_norm(module, Q_NORMS)
    if q_norm is not None and _gain(q_norm).shape != (d_head,):
        raise ModelError(
            f"{type(hf).__name__} normalizes queries and keys over all heads at once, which is not described here"
        )
    is_causal, window = bool(module.is_causal), _window(module)
    if window is not None and not is_causal:
        raise ModelError(f"layer {layer} attends to both sides within a window, which is not described here")
    form = AttentionForm(
        d_head=d_head,
        scale=1 / float(module.scaling if hasattr(module, "scaling") else module.scale),
        bias=getattr(block.get_submodule(sites["q"].path), "bias", None) is not None,
        norm="none" if q_norm is None else "layer" if isinstance(q_norm, nn.LayerNorm) else "rms",
        norm_eps=1e-6 if q_norm is None else _eps(q_norm),
        rotary=_rotary(layout, module),
        is_causal=is_causal,
        window=window,
        softcap=getattr(module, "attn_logit_softcapping", None),
    )
    return AttentionWeights(
        form,
        W_Q,
        W_K,
        W_V,
        W_O.unflatten(0, (n_heads, d_head)) * gain,
        b_Q,
        b_K,
        b_V,
        b_O * gain,
        q_norm=norm_weights(q_norm),
        k_norm=norm_weights(_find_norm(module, K_NORMS)),
        has_norm_behind=behind is not None and _eps(behind) > 0,
    )


def _affine(module: Any) -> tuple[Tensor, Tensor]:
    """Weight ``[d_in, d_out]`` and bias ``[d_out]`` of a projection; a bias the model does not have is 0."""
    weight = module.weight.detach().float().clone()
    weight = weight.T if isinstance(module, nn.Linear) else weight  # GPT-2's Conv1D has it this way already
    bias = module.bias
    return weight, weight.new_zeros(weight.shape[1]) if bias is None else bias.detach().float().clone()


def _projection(block: nn.Module, at: At, number: int, n_heads: int, d_head: int) -> tuple[Tensor, Tensor]:
    """Weight ``[head, d, d_head]`` and bias ``[head, d_head]``; heads that share keys and values each get a copy."""
    weight, bias = _affine(block.get_submodule(at.path))
    if at.fused == "thirds":
        weight, bias = (t.unflatten(-1, (3, n_heads, d_head)).select(-3, number) for t in (weight, bias))
    elif at.fused == "per_head":
        weight, bias = (t.unflatten(-1, (n_heads, 3, d_head)).select(-2, number) for t in (weight, bias))
    else:
        weight, bias = (t.unflatten(-1, (-1, d_head)) for t in (weight, bias))
    sharing = n_heads // bias.shape[0]
    return weight.movedim(-2, 0).repeat_interleave(sharing, 0), bias.repeat_interleave(sharing, 0)


def _behind(block: nn.Module, sites: Any) -> nn.Module | None:
    """The norm or scale between output projection and stream, where there is one."""
    path = sites["attn_out"].path
    return None if path in (sites["z"].path, sites["pattern"].path) else block.get_submodule(path)


def _find_norm(module: nn.Module, names: tuple[str, ...]) -> nn.Module | None:
    return next((child for name, child in module.named_children() if name in names), None)


def _eps(norm: Any) -> float:
    """Of an RMS or layer norm; 0 for a scale."""
    return float(getattr(norm, "eps", getattr(norm, "variance_epsilon", 0.0)))


def _gain(norm: nn.Module) -> Tensor:
    """Factor of each coordinate in an RMS norm or a scale, however the family stores it: what becomes of ones."""
    ones = torch.ones_like(next(norm.parameters()))
    return norm(ones).float() * (1 + _eps(norm)) ** 0.5


def norm_weights(norm: Any) -> tuple[Tensor, Tensor] | None:
    """Gain and bias of a norm, a bias it does not have being 0; None for None."""
    if norm is None:
        return None
    if isinstance(norm, nn.LayerNorm):
        return norm.weight.detach().float().clone(), norm.bias.detach().float().clone()
    weight = _gain(norm)
    return weight, torch.zeros_like(weight)


def _window(module: Any) -> int | None:
    """Sliding window of a layer, the token itself included; Mistral has one for all layers, in its config."""
    return getattr(module, "sliding_window", getattr(module.config, "sliding_window", None))


def _rotary(layout: Layout, module: Any) -> Rotary | None:
    """Frequencies as the model computes with them: scaled, and by the type of the layer where types differ."""
    family = layout.family
    if family is None or family.rotary is None or not getattr(module, "use_rope", True):
        return None
    rotary: Any = layout.hf.base_model.get_submodule(family.rotary)
    kind, prefix = rotary.rope_type, ""
    if isinstance(kind, dict):
        kind, prefix = kind[module.layer_type], f"{module.layer_type}_"
    if kind in CHANGING_ROTARY:
        raise ModelError(
            f"the {kind!r} scaling of this model's rotary positions changes with the length of a text; "
            "load it with a fixed one, such as 'linear', 'llama3' or 'yarn'"
        )
    frequencies = getattr(rotary, f"{prefix}inv_freq").tolist()
    return Rotary(frequencies=tuple(frequencies), gain=float(getattr(rotary, f"{prefix}attention_scaling")))
