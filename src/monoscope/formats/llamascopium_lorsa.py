"""Lorsa of llamascopium: an attention layer as features, with the attention that their pre-activations are averaged by.

    W_Q, W_K [H, d, e]   b_Q, b_K [H, e]   W_V, W_O [F, d]   b_V [F]   b_D [d]   ln_q.w, ln_k.w [H, e]

``attn_scale`` is what scores are divided by, sqrt(e) by default. Rotation turns the first ``rotary_dim`` coordinates,
in adjacent pairs unless the configuration says otherwise; queries and keys are normed before it. Frequencies stretched
by parts: Peng et al. 2023 (arXiv:2309.00071). Buffers that follow from the configuration, such as masks, are left out.
Shapes: H heads, e = d_qk_head, F features.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from monoscope.core.attention import AttentionForm
from monoscope.core.errors import CannotHold, DataError
from monoscope.formats.lazy import Lazy
from monoscope.formats.llamascopium_found import Found, Made, times


def lorsa(found: Found) -> Made:
    """A Lorsa."""
    found.refuse_token_wise()
    d, n, heads, e = found.d, found.n_features, found.setting("n_qk_heads", int), found.setting("d_qk_head", int)
    has_norm = found.setting("use_post_qk_ln", bool, False)
    if has_norm and found.config.get("normalization_type") != "RMS":
        raise DataError(
            f"{found.where} norms queries and keys by {found.config.get('normalization_type')!r}; only 'RMS' has been"
        )
    s_in, s_out = found.scale(found.hooks_in[0]), found.scale(found.hooks_out[0])
    queries_keys = ["W_Q", "W_K", "b_Q", "b_K", *["ln_q.w", "ln_k.w"] * has_norm]
    buffers = {"mask", "IGNORE", "rotary_sin", "rotary_cos"}
    found.take(*queries_keys, "W_V", "W_O", "b_V", *["b_D"] * found.has_bias, skip=buffers)

    def each_head(name: str, *shape: int) -> Lazy:
        """Of every head; a file may hold fewer, each of which then serves for several in a row."""
        lazy = found.tensor(name, None, *shape)
        stored = lazy.shape[0]
        if stored == heads:
            return lazy
        if stored == 0 or heads % stored:
            raise DataError(f"{name} in the weights of {found.where} has {stored} heads, and n_qk_heads is {heads}")
        return lazy.map(lambda held: held.repeat_interleave(heads // stored, 0), (heads, *shape))

    tensors = {
        "W_Q": times(each_head("W_Q", d, e), s_in),
        "W_K": times(each_head("W_K", d, e), s_in),
        "b_Q": each_head("b_Q", e),
        "b_K": each_head("b_K", e),
        "W_enc": times(found.tensor("W_V", n, d).t(), s_in),
        "b_enc": found.tensor("b_V", n),
        "W_dec": times(found.tensor("W_O", n, d), 1 / s_out),
        "b_dec": times(found.tensor("b_D", d), 1 / s_out) if found.has_bias else Lazy.of(torch.zeros(d)),
    }
    if has_norm:
        tensors |= {"q_norm": each_head("ln_q.w", e), "k_norm": each_head("ln_k.w", e)}
    if found.act_fn == "jumprelu":
        tensors["activation.threshold"] = times(found.threshold(n), 1 / s_out if found.is_scaled else 1.0)
    wiring = {"kind": "lorsa", "n_features": n, "n_heads": heads, "attention": _attention(found, e, has_norm)}
    return found.table(wiring | {"scale_by_decoder_norm": found.is_scaled}, found.function()), tensors


def _attention(found: Found, e: int, has_norm: bool) -> dict[str, Any]:
    scale = found.config.get("attn_scale")
    form: dict[str, Any] = {"d_head": e, "scale": math.sqrt(e) if scale is None else float(scale), "bias": True}
    if has_norm:
        form |= {"norm": "rms", "norm_eps": found.setting("eps", float, 1e-6)}
    match found.config.get("positional_embedding_type", "rotary"):
        case "none":
            return form
        case "rotary":
            pass
        case other:
            raise DataError(f"{found.where} has positional_embedding_type {other!r}; known: rotary, none")
    if found.setting("rotary_scale", int, 1) != 1:
        raise DataError(f"{found.where} has rotary_scale {found.config['rotary_scale']}, for which no rule is known")
    adjacent = found.setting("rotary_adjacent_pairs", bool, True)
    return form | {"rotary": {"frequencies": _frequencies(found, e), "pairs": "adjacent" if adjacent else "halves"}}


def _frequencies(found: Found, d_head: int) -> list[float]:
    """Radians per position: ``base^(-2j / n)``; stretched by parts where the context was."""
    n, base = found.setting("rotary_dim", int), float(found.setting("rotary_base", int, 10000))
    if not 0 < n <= d_head:
        raise DataError(f"{found.where} has rotary_dim {n}; 1 to {d_head}, the width of a head, can be turned")
    plain = [base ** (-2 * j / n) for j in range(n // 2)]
    if not found.setting("use_NTK_by_parts_rope", bool, False):
        return plain
    factor, low, high = (
        found.setting(f"NTK_by_parts_{name}", float, 1.0) for name in ("factor", "low_freq_factor", "high_freq_factor")
    )
    context = found.setting("old_context_len", int, 2048)

    def stretched(frequency: float) -> float:
        turns = context * frequency / (2 * math.pi)  # in the context that the model was first trained on
        if turns < low:
            return frequency / factor
        if turns > high:
            return frequency
        share = (turns - low) / (high - low)
        return (1 - share) * frequency / factor + share * frequency

    return [stretched(frequency) for frequency in plain]


def attention_settings(form: AttentionForm, length: int) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Settings of an attention, and the buffers that the library expects beside them, for contexts of a length.

    Raises CannotHold for what its attention cannot do.
    """
    lacks = {
        f"{form.norm} norms of queries and keys": form.norm not in ("none", "rms"),
        "a softcap": form.softcap is not None,
        "a window": form.window is not None and form.window < length,
        "attention to later tokens": not form.is_causal,
        "a gain of rotations": form.rotary is not None and form.rotary.gain != 1,
    }
    if missing := [what for what, is_there in lacks.items() if is_there]:
        raise CannotHold(f"Lorsa of llamascopium lacks {', '.join(missing)}", ["native"])
    settings: dict[str, Any] = {
        "d_qk_head": form.d_head,
        "attn_scale": form.scale,
        "use_post_qk_ln": form.norm == "rms",
    }
    if form.norm == "rms":
        settings |= {"normalization_type": "RMS", "eps": form.norm_eps}
    buffers = {"mask": torch.ones(length, length, dtype=torch.bool).tril(), "IGNORE": torch.tensor(-math.inf)}
    if form.rotary is None:
        return settings | {"positional_embedding_type": "none", "rotary_dim": 0}, buffers
    frequencies = torch.tensor(form.rotary.frequencies, dtype=torch.float64)
    n, is_adjacent = 2 * len(frequencies), form.rotary.pairs == "adjacent"
    base = round(frequencies[1].item() ** (-n / 2)) if len(frequencies) > 1 else 10000
    plain = torch.tensor([base ** (-2 * j / n) for j in range(n // 2)], dtype=torch.float64)
    if not torch.allclose(frequencies, plain, rtol=1e-5, atol=0):
        raise CannotHold(
            "Lorsa of llamascopium turns by powers of one whole number, and these frequencies are others (a stretched "
            "context's are not written)",
            ["native"],
        )
    angles = torch.arange(length, dtype=torch.float64)[:, None] * plain
    every = angles.repeat_interleave(2, 1) if is_adjacent else angles.repeat(1, 2)
    buffers |= {"rotary_sin": every.sin().float(), "rotary_cos": every.cos().float()}
    return settings | {"rotary_dim": n, "rotary_base": base, "rotary_adjacent_pairs": is_adjacent}, buffers
