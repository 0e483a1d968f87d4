"""Attention with values of any width: what Lorsa computes its pre-activations with.

    q = rotate(norm(x @ W_Q + b_Q))            k = rotate(norm(x @ W_K + b_K))
    pattern[t, s] = softmax over s of cap(q[t] . k[s] / scale)            out[t] = sum_s pattern[t, s] v[s]

``attended`` gives ``out`` in one fused call, without the pattern; a softcap, which no fused kernel of PyTorch knows,
takes the pattern itself. Shapes: S sequences, H heads, T positions (t of queries, s of sources), e width of a head.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from monoscope.core.attention import AttentionForm, Rotary

Norm = tuple[Float[Tensor, "H e"] | None, Float[Tensor, "H e"] | None]  # weight and bias


def projected(
    x: Float[Tensor, "S T d"],
    weight: Float[Tensor, "H d e"],
    bias: Float[Tensor, "H e"] | None,
    norm: Norm,
    form: AttentionForm,
    real: Bool[Tensor, "S T"] | None,
) -> Float[Tensor, "S H T e"]:
    """Queries or keys: projected, normed head by head, and turned by their position among the tokens that are real."""
    out = torch.einsum("std,hde->shte", x, weight)
    if bias is not None:
        out = out + bias[:, None]
    if form.norm != "none":
        out = normed(out, norm, form)
    return out if form.rotary is None else rotated(out, form.rotary, real)


def normed(x: Float[Tensor, "S H T e"], norm: Norm, form: AttentionForm) -> Float[Tensor, "S H T e"]:
    """Each head's vectors divided by their root mean square (a layer norm centers them first), weight and bias."""
    if form.norm == "layer":
        x = x - x.mean(-1, keepdim=True)
    x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + form.norm_eps)
    weight, bias = norm
    x = x if weight is None else x * weight[:, None]
    return x if bias is None else x + bias[:, None]


def rotated(x: Float[Tensor, "S H T e"], rotary: Rotary, real: Bool[Tensor, "S T"] | None) -> Float[Tensor, "S H T e"]:
    """Pairs of coordinates turned by ``position * frequency``; positions count from the first real token."""
    frequencies = _frequencies(rotary.frequencies, x.device, torch.promote_types(x.dtype, torch.float32))
    angles = positions(x.shape[2], real, x.device)[:, None, :, None] * frequencies
    cos, sin = (rotary.gain * angles.cos()).to(x.dtype), (rotary.gain * angles.sin()).to(x.dtype)
    n = len(rotary.frequencies)
    turned, rest = x[..., : 2 * n], x[..., 2 * n :]
    if rotary.pairs == "halves":
        a, b = turned[..., :n], turned[..., n:]
        return torch.cat([a * cos - b * sin, b * cos + a * sin, rest], -1)
    a, b = turned[..., 0::2], turned[..., 1::2]
    return torch.cat([torch.stack([a * cos - b * sin, b * cos + a * sin], -1).flatten(-2), rest], -1)


@lru_cache(maxsize=64)
def _frequencies(values: tuple[float, ...], device: torch.device, dtype: torch.dtype) -> Float[Tensor, " pairs"]:
    return torch.tensor(values, device=device, dtype=dtype)


def positions(n: int, real: Bool[Tensor, "S T"] | None, device: torch.device) -> Int[Tensor, "_ T"]:
    """Position of each token in its sequence, padding not counted."""
    if real is None:
        return torch.arange(n, device=device)[None]
    return (real.long().cumsum(1) - 1).clamp(min=0)


def visible(
    form: AttentionForm, n: int, real: Bool[Tensor, "S T"] | None, device: torch.device
) -> Bool[Tensor, "_ 1 T T"] | None:
    """Which sources each token attends to; None where causality alone decides, or nothing does.

    Padding is visible to itself alone, so that no row is empty.
    """
    window = None if form.window is None or form.window >= n else form.window
    if real is None and window is None:
        return None
    here = torch.arange(n, device=device)
    seen = torch.ones(n, n, dtype=torch.bool, device=device)
    if form.is_causal:
        seen = here[:, None] >= here
    if window is not None:
        seen = seen & (here[:, None] - here < window)
    if real is None:
        return seen[None, None]
    return ((seen & real[:, None, :]) | torch.eye(n, dtype=torch.bool, device=device))[:, None]


def attended(
    q: Float[Tensor, "S H T e"],
    k: Float[Tensor, "S H T e"],
    v: Float[Tensor, "S H T m"],
    form: AttentionForm,
    real: Bool[Tensor, "S T"] | None,
) -> Float[Tensor, "S H T m"]:
    """Mean of values under the pattern: ``out[t] = sum_s pattern[t, s] v[s]``."""
    if form.softcap is not None:
        return pattern(q, k, form, real) @ v
    mask = visible(form, q.shape[2], real, q.device)
    causal = form.is_causal and mask is None
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, scale=1 / form.scale)


def pattern(
    q: Float[Tensor, "S H T e"],
    k: Float[Tensor, "S H T e"],
    form: AttentionForm,
    real: Bool[Tensor, "S T"] | None,
) -> Float[Tensor, "S H T T"]:
    """Attention weights; every row sums to 1."""
    score = q @ k.transpose(-1, -2) / form.scale
    if form.softcap is not None:
        score = form.softcap * torch.tanh(score / form.softcap)
    n = q.shape[2]
    mask = visible(form, n, real, q.device)
    if mask is None and form.is_causal:
        mask = torch.ones(n, n, dtype=torch.bool, device=q.device).tril()
    return (score if mask is None else score.masked_fill(~mask, -torch.inf)).softmax(-1)
