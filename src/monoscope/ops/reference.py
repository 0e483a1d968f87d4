"""Every op in plain PyTorch: the specification that fast paths are tested against.

Shapes: N tokens, d width, F features, k kept per token. Sparse entries are ``values [N, k]`` at features
``indices [N, k]``; entries of value 0 are padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from monoscope.ops.jump import jump
from monoscope.ops.selection import (
    AboveThreshold,
    AbsTopKPerToken,
    EachLayer,
    LargestPerGroup,
    PerToken,
    Selection,
    TopKPerBatch,
    TopKPerToken,
)


def keep(score: Float[Tensor, "n F"], selection: Selection) -> Bool[Tensor, "n F"]:
    """Entries that a selection lets survive, before rectification."""
    match selection:
        case TopKPerToken() | AbsTopKPerToken() | LargestPerGroup():
            return torch.zeros_like(score, dtype=torch.bool).scatter_(-1, chosen(score, selection), True)
        case TopKPerBatch(k):
            return score >= kth_largest(score, max(1, min(round(k * len(score)), score.numel())))
        case AboveThreshold(threshold):
            return score > threshold
        case EachLayer(rules):
            layers = score.chunk(len(rules), dim=-1)
            return torch.cat([keep(part, rule) for part, rule in zip(layers, rules, strict=True)], dim=-1)


def chosen(score: Float[Tensor, "*batch F"], selection: PerToken) -> Int[Tensor, "*batch k"]:
    """Features that a selection with a fixed number per token chooses, in any order."""
    match selection:
        case TopKPerToken(k):
            return score.topk(k, dim=-1, sorted=False).indices
        case AbsTopKPerToken(k):
            return score.abs().topk(k, dim=-1, sorted=False).indices
        case LargestPerGroup(n_groups):
            size = score.shape[-1] // n_groups
            place = score.unflatten(-1, (n_groups, size)).argmax(-1)
            return place + torch.arange(0, n_groups * size, size, device=score.device)


def encode(
    x: Float[Tensor, "n d"],
    W_enc: Float[Tensor, "d F"],
    b_enc: Float[Tensor, " F"],
    selection: Selection,
    *,
    center: Float[Tensor, " d"] | None = None,
    norm: Float[Tensor, " F"] | None = None,
) -> Float[Tensor, "n F"]:
    """Pre-activations of the entries that survive, rectified unless the selection is signed.

        pre = (x - center) @ W_enc + b_enc,    acts = max(pre, 0) * keep(pre * norm)  or  pre * keep(pre * norm)

    Gradients reach kept entries that are not zero; ``norm`` and thresholds decide the selection and get none.
    """
    z = x if center is None else x - center
    pre = z @ W_enc + b_enc
    score = pre.detach() if norm is None else pre.detach() * norm.detach()
    return (pre if selection.is_signed else pre.relu()) * keep(score, selection)


def encode_above(
    x: Float[Tensor, "n d"],
    W_enc: Float[Tensor, "d F"],
    b_enc: Float[Tensor, " F"],
    threshold: Float[Tensor, " F"],
    bandwidth: float,
    *,
    center: Float[Tensor, " d"] | None = None,
    norm: Float[Tensor, " F"] | None = None,
) -> Float[Tensor, "n F"]:
    """Pre-activations ``pre`` of scores ``pre * norm`` above a threshold, which learns through ``jump``'s kernel.

    Without a bandwidth there is no kernel, and the threshold gets no gradient.
    """
    z = x if center is None else x - center
    pre = z @ W_enc + b_enc
    score = pre.detach() if norm is None else pre.detach() * norm.detach()
    return jump(pre, score, norm, threshold, bandwidth) if bandwidth else pre * (score > threshold)


def encode_layers(
    x: Float[Tensor, "n layer d"],
    W_enc: Sequence[Float[Tensor, "d F"]],
    b_enc: Sequence[Float[Tensor, " F"]],
    selection: Selection,
    *,
    norm: Float[Tensor, " LF"] | None = None,
) -> Float[Tensor, "n LF"]:
    """``encode`` with an encoder for each layer: ``pre = [x_l @ W_enc[l] + b_enc[l] for every layer l]``.

    The selection is among the features of all layers, or each layer's own (``EachLayer``).
    """
    layers = zip(x.unbind(1), W_enc, b_enc, strict=True)
    pre = torch.cat([x_l @ weight + bias for x_l, weight, bias in layers], dim=-1)
    score = pre.detach() if norm is None else pre.detach() * norm.detach()
    return (pre if selection.is_signed else pre.relu()) * keep(score, selection)


def sparse_decode(
    values: Float[Tensor, "n k"], indices: Int[Tensor, "n k"], W_dec: Float[Tensor, "F d"]
) -> Float[Tensor, "n d"]:
    """Weighted sum of decoder rows: ``out[n] = sum_j values[n, j] W_dec[indices[n, j]]``."""
    return torch.einsum("nk,nkd->nd", values, W_dec[indices.long()])


def adam_rows_(
    weight: Float[Tensor, "rows d"],
    grad: Float[Tensor, "rows d"],
    exp_avg: Float[Tensor, "rows d"],
    exp_avg_sq: Float[Tensor, "rows d"],
    *,
    step: int,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    scale: Float[Tensor, ""] | None = None,
    unit_norm: bool = False,
) -> None:
    """One step of Adam, the ``step``-th counting from 1, in place; ``grad`` is used up.

        g = scale grad          m <- beta_1 m + (1 - beta_1) g          v <- beta_2 v + (1 - beta_2) g^2
        w <- w - lr (m / (1 - beta_1^step)) / (sqrt(v / (1 - beta_2^step)) + eps)

    With ``unit_norm`` rows of norm 1 stay so: g loses its part along the row before, ``g - (g . w) w``, and the row is
    divided by its norm after. Source: Kingma, Ba 2015.
    """
    g = grad if scale is None else grad.mul_(scale)
    if unit_norm:
        g = g - (g * weight).sum(1, keepdim=True) * weight
    exp_avg.lerp_(g, 1 - betas[0])
    exp_avg_sq.mul_(betas[1]).addcmul_(g, g, value=1 - betas[1])
    root = (exp_avg_sq / (1 - betas[1] ** step)).sqrt_().add_(eps)
    weight.addcdiv_(exp_avg, root, value=-lr / (1 - betas[0] ** step))
    if unit_norm:
        weight.div_(weight.norm(dim=1, keepdim=True).clamp_min(1e-12))


def kth_largest(scores: Float[Tensor, "*any"], k: int) -> Float[Tensor, ""]:
    """The k-th largest entry of a whole tensor, counting from 1."""
    return scores.flatten().kthvalue(scores.numel() - k + 1).values


def pursue(
    x: Float[Tensor, "n d"],
    rows: Float[Tensor, "F d"],
    k: int,
    method: Literal["mp", "omp"],
    *,
    positive: bool = False,
    tolerance: float = 0.0,
    until_repeat: bool = False,
) -> Float[Tensor, "n F"]:
    """Signed coefficients of a greedy decomposition of ``x`` into ``k`` unit rows.

        repeat k times:   j = argmax_j |r . rows_j|        r = x at first

        mp    acts_j += r . rows_j;   r -= (r . rows_j) rows_j          (a row chosen twice accumulates)
        omp   acts = the least-squares coefficients of x on the rows chosen so far;   r = x - acts @ rows

    A token whose residual is rounding error is finished early. With ``positive``, mp alone: j = argmax_j r . rows_j,
    and nothing is taken where that is negative. A token is finished too once ``|r| < tolerance``, and with
    ``until_repeat`` after the first choice that brings in no new row. Gradients flow through the coefficients, the
    choices held fixed. Source: Mallat, Zhang 1993; Pati, Rezaiifar, Krishnaprasad 1993.
    """
    if positive or tolerance or until_repeat:
        assert method == "mp", "only matching pursuit chooses by sign, or stops before its k-th choice"
        return _pursue_until(x, rows, k, positive, tolerance, until_repeat)
    acts, residual = x.new_zeros(len(x), len(rows)), x
    is_chosen = torch.zeros_like(acts, dtype=torch.bool)
    negligible = pursuit_rounding(x)
    for _ in range(min(k, len(rows)) if method == "omp" else k):
        coefficient = residual @ rows.T
        free = coefficient.detach() if method == "mp" else coefficient.detach().masked_fill(is_chosen, 0)
        best = free.abs().argmax(1, keepdim=True)
        is_chosen.scatter_(1, best, is_chosen.gather(1, best) | (free.gather(1, best).abs() > negligible))
        if method == "mp":
            value = coefficient.gather(1, best)
            acts = acts.scatter_add(1, best, value.where(value.abs() > negligible, 0))
        else:
            acts = torch.stack([_least_squares(x[i], rows, is_chosen[i]) for i in range(len(x))])
        residual = x - acts @ rows
    return acts


def _pursue_until(x: Tensor, rows: Tensor, k: int, positive: bool, tolerance: float, until_repeat: bool) -> Tensor:
    acts, residual = x.new_zeros(len(x), len(rows)), x
    is_finished = torch.zeros(len(x), 1, dtype=torch.bool, device=x.device)
    negligible = pursuit_rounding(x)
    for _ in range(k):
        coefficient = residual @ rows.T
        best = (coefficient.relu() if positive else coefficient.abs()).argmax(1, keepdim=True)
        value = coefficient.gather(1, best)
        is_taken = (value > 0 if positive else value.abs() > negligible) & ~is_finished
        value = value.where(is_taken, 0)
        is_new = is_taken & (acts.gather(1, best) == 0)
        acts = acts.scatter_add(1, best, value)
        residual = residual - value * rows[best.squeeze(1)]
        if until_repeat:
            is_finished = is_finished | ~is_new
        is_finished = is_finished | (residual.norm(dim=1, keepdim=True) < tolerance)
    return acts


def _least_squares(
    x: Float[Tensor, " d"], rows: Float[Tensor, "F d"], support: Bool[Tensor, " F"]
) -> Float[Tensor, " F"]:
    if not support.any():
        return x.new_zeros(len(rows))
    coefficients = torch.linalg.lstsq(rows[support].T, x[:, None]).solution[:, 0]
    return x.new_zeros(len(rows)).masked_scatter(support, coefficients)


def pursuit_rounding(x: Float[Tensor, "n d"]) -> Float[Tensor, "n 1"]:
    """Magnitude below which a pursuit's coefficient is rounding error."""
    return 64 * torch.finfo(x.dtype).eps * x.detach().norm(dim=1, keepdim=True)
