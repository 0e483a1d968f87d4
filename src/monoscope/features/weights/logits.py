"""Logit effects: which tokens a feature promotes and suppresses when its direction reaches the unembedding unchanged.

    effect(f) = c(W_dec[f] * g) @ W_U        c subtracts the mean over the vocabulary

The final norm is taken at a frozen scale, so that it is linear: the direction is centered first where the norm centers
(LayerNorm), multiplied by the norm's gain g, and not divided by the norm of the residual stream, which is the same
factor for all tokens of a place. Effects are in logits times that factor, per unit of activation. What lies between is
left out: later layers (only the direct path counts), the norm's bias and the unembedding's (they do not depend on the
feature), and a softcap (monotone, so it reorders nothing). Subtracting the mean changes no probability.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from monoscope.core.errors import ModelError
from monoscope.core.site import Site
from monoscope.dictionaries import Dictionary
from monoscope.features.columns import Columns, Ragged
from monoscope.models import LanguageModel

SHOWN, N_BINS = 20, 50
CELLS = 2**22
ADDED_KINDS = frozenset({"attn_out", "mlp_out"})
RESIDUAL_KINDS = frozenset({"embed", "resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out"})


def logit_effects(dictionary: Dictionary, lm: LanguageModel | None) -> Columns:
    """logit_max, logit_min, logit_kurtosis, the 20 tokens at either end, and a histogram over the vocabulary.

    Of a dictionary that does not write into the residual stream, or without a model to ask, lists are empty and numbers
    are NaN. Of several write sites, what is added to the residual stream adds up; of states of the stream the last one
    counts. Kurtosis is the fourth standardized moment less 3: large where a feature singles out a few tokens.
    """
    unembed = None if lm is None else _unembedding(lm, dictionary.writes[-1].of(""))
    directions = _reaching(dictionary)
    if unembed is None or directions is None:
        return _unknown(dictionary.n_features)
    weight = directions.detach().to(unembed.device, unembed.dtype)
    rows = max(1, CELLS // unembed.shape[1])
    parts = [_describe(weight[start : start + rows] @ unembed) for start in range(0, len(weight), rows)]
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    scalars = {name: columns.pop(name) for name in ("logit_max", "logit_min", "logit_kurtosis")}
    return Columns(scalars, {name: Ragged.from_table(table) for name, table in columns.items()})


def through_norm(norm: Callable[[Tensor], Tensor], d: int, like: Tensor) -> tuple[Float[Tensor, " d"], bool]:
    """Gain of a final norm, and whether it subtracts the mean: what it does to directions at a frozen scale.

    Found by probing, so any norm ``g * (x - mean?) / scale(x) + b`` will do, and none at all. Raises ModelError for
    another.
    """
    probe = torch.ones(d, device=like.device, dtype=like.dtype)
    probe[1::2] = -1
    if d % 2:
        probe[-3:] = probe.new_tensor([2.0, -1.0, -1.0])  # of mean 0, and nowhere 0
    probe *= 64  # far above any epsilon
    rms = probe.square().mean().sqrt()

    def close(a: Tensor, b: Tensor) -> bool:
        return torch.allclose(a, b, rtol=1e-2, atol=1e-2 * float(b.abs().max()))

    with torch.no_grad():
        ordered = probe.sort().values
        probes = torch.stack([probe, -probe, probe + rms, 2 * probe, ordered, -ordered])
        above, below, shifted, doubled, other, opposite = norm(probes).to(like.dtype)
    gain = (above - below) / 2 / probe
    if not close((other - opposite) / 2, gain * ordered):
        raise ModelError("the model's final norm is not a gain after a scale: logit effects are not defined for it")
    scales = close(doubled, above)
    return gain * rms if scales else gain, close(shifted, above)


def _reaching(dictionary: Dictionary) -> Float[Tensor, "F d"] | None:
    """What features have written into the residual stream once all their sites are passed."""
    own = [site for site in dictionary.writes if site.model == dictionary.writes[-1].model]
    adds_up = all(site.module is None and site.kind in ADDED_KINDS for site in own)
    rows = [dictionary.decoder_rows(site) for site in (own if adds_up else own[-1:])]
    known = [row for row in rows if row is not None]
    return torch.stack(known).sum(0) if len(known) == len(rows) else None


def _unembedding(lm: LanguageModel, site: Site) -> Float[Tensor, "d vocab"] | None:
    """What directions at a site are multiplied by: center, gain, W_U, center over the vocabulary."""
    if site.module is None and site.kind not in RESIDUAL_KINDS:
        return None
    try:
        norm, W_U, _, _ = lm.unembed()
        if site.module is not None and lm.width(site) != len(W_U):
            return None
        W_U = W_U.detach().float()
        gain, centers = through_norm(lambda x: norm(x.to(lm.dtype)).float(), len(W_U), W_U)
    except ModelError:  # an architecture without a table, or with more than a norm before its unembedding
        return None
    out = gain[:, None] * W_U
    if centers:
        out = out - out.mean(0, keepdim=True)  # (v - mean(v)) @ A == v @ (A - mean over rows of A)
    if lm.tokenizer is not None:
        out = out[:, : len(lm.tokenizer)]  # what follows is padding of the matrix
    return out - out.mean(1, keepdim=True)


def _describe(effects: Float[Tensor, "rows vocab"]) -> dict[str, np.ndarray]:
    k = min(SHOWN, effects.shape[1])
    top, bottom = effects.topk(k, dim=1), effects.topk(k, dim=1, largest=False)
    variance = effects.square().mean(1)
    kurtosis = effects.square().square().mean(1) / variance.square().clamp_min(1e-30) - 3
    low, high = bottom.values[:, :1], top.values[:, :1]
    place = ((effects - low) * (N_BINS / (high - low).clamp_min(1e-30))).long().clamp_(0, N_BINS - 1)
    place += torch.arange(len(effects), device=effects.device)[:, None] * N_BINS
    counts = torch.bincount(place.reshape(-1), minlength=len(effects) * N_BINS).view(-1, N_BINS)
    edges = low + (high - low) * torch.linspace(0, 1, N_BINS + 1, device=effects.device)
    return {
        "logit_max": high[:, 0].cpu().numpy(),
        "logit_min": low[:, 0].cpu().numpy(),
        "logit_kurtosis": kurtosis.cpu().numpy(),
        "pos_tokens": top.indices.cpu().numpy().astype(np.uint32),
        "pos_values": top.values.cpu().numpy(),
        "neg_tokens": bottom.indices.cpu().numpy().astype(np.uint32),
        "neg_values": bottom.values.cpu().numpy(),
        "logit_edges": edges.cpu().numpy(),
        "logit_counts": counts.cpu().numpy().astype(np.uint64),
    }


def _unknown(n: int) -> Columns:
    def nothing(dtype: type) -> Ragged:
        return Ragged(np.zeros(0, dtype), np.zeros(n + 1, np.int64))

    unknown = np.full(n, np.nan, np.float32)
    tokens = dict.fromkeys(("pos_tokens", "neg_tokens"), nothing(np.uint32))
    values = dict.fromkeys(("pos_values", "neg_values", "logit_edges"), nothing(np.float32))
    return Columns(
        dict.fromkeys(("logit_max", "logit_min", "logit_kurtosis"), unknown),
        {**tokens, **values, "logit_counts": nothing(np.uint64)},
    )
