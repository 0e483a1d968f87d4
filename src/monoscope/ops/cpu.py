"""Fast CPU paths in PyTorch, whose inner loops are compiled kernels where there are any (``ops.native``).

Encoding walks over blocks of rows small enough for their pre-activations to stay in cache, so ``[N, F]`` is never
written to memory, and keeps the surviving entries alone. The backward pass touches those entries alone, through
``embedding_bag`` in both directions: dW_dec[f] is the sum of value * g over the tokens where f is active, and likewise
for the encoder.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from monoscope.ops.blocks import Blocks, in_bf16
from monoscope.ops.largest import kth_largest, largest_per_row
from monoscope.ops.native import kernels
from monoscope.ops.quantized import candidates, multiplies_int8
from monoscope.ops.reference import chosen
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

MOSTLY = 0.8  # share of entries that are not padding above which padding is computed along
SAMPLE = 2**18  # scores that estimate a batch's cut
UPDATE_ENTRIES = 2**17  # weights updated at once: 2 MB with gradients and moments


def encode(
    x: Tensor,
    W_enc: Tensor,
    b_enc: Tensor,
    selection: Selection,
    center: Tensor | None,
    norm: Tensor | None,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """``reference.encode`` as values and indices [n, k], rows padded with zeros where their numbers differ.

    A ``dtype`` narrower than the input's selects in that precision; what was selected is then computed exactly. With
    int8 that is for TopK on processors that multiply 8-bit numbers; the rest is then as in bf16, where there is that.
    """
    with torch.no_grad():
        z = x if center is None else x - center
        rows = W_enc.T.contiguous()  # [F, d], free when the encoder is stored feature by feature
        in_int8 = dtype == torch.int8 and multiplies_int8()
        if in_int8 and isinstance(selection, TopKPerToken):
            values, indices = _topk_by_int8(z, rows, b_enc, norm, selection.k)
        else:
            values, indices = _encode(z, rows, b_enc, selection, norm, in_bf16(dtype, x.dtype))
    return Attach.apply(x, W_enc, b_enc, center, z, values, indices), indices


def _topk_by_int8(z: Tensor, rows: Tensor, b_enc: Tensor, norm: Tensor | None, k: int) -> tuple[Tensor, Tensor]:
    count = min(len(rows), k + max(8, k // 2))
    if (native := kernels()) is not None:
        return native.encode_topk(z, rows, b_enc, norm, k, count)
    indices = candidates(z, rows, b_enc, norm, count)
    exact = gathered_dot(z, rows, indices).add_(b_enc[indices])
    score = exact if norm is None else exact * norm[indices]
    place = score.topk(k, dim=1, sorted=False).indices
    return exact.gather(1, place).relu_(), indices.gather(1, place)


def _encode(
    z: Tensor, rows: Tensor, b_enc: Tensor, selection: Selection, norm: Tensor | None, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    values, indices = _select(Blocks(z, rows, b_enc, norm, dtype), selection)
    if dtype == z.dtype:
        return values, indices
    candidate = None if selection.is_signed else present(values)  # the rest is padding
    exact = gathered_dot(z, rows, indices, candidate).add_(b_enc[indices])
    if not selection.is_signed:
        exact.relu_()
    if candidate is not None:
        exact *= candidate
    if not isinstance(selection, PerToken):
        score = exact if norm is None else exact * norm[indices]
        exact *= _still_kept(score, values != 0, indices, selection)
    return exact, indices


def _still_kept(
    score: Tensor, candidate: Tensor, indices: Tensor, selection: TopKPerBatch | AboveThreshold | EachLayer
) -> Tensor:
    # Narrow scores tie where exact ones do not, so a cut in narrow precision lets a few entries too many through.
    match selection:
        case TopKPerBatch(k):
            kept = score[candidate]
            return candidate & (score >= kth_largest(kept, max(1, min(round(k * len(score)), len(kept)))))
        case AboveThreshold(threshold):
            return candidate & (score > threshold[indices])
        case EachLayer():
            raise AssertionError("layers are encoded by encode_layers")


def _select(blocks: Blocks, selection: Selection) -> tuple[Tensor, Tensor]:
    match selection:
        case TopKPerToken() | AbsTopKPerToken() | LargestPerGroup():
            return per_token(blocks, selection)
        case TopKPerBatch(k):
            return _top_per_batch(blocks, max(1, min(round(k * blocks.n), blocks.n * blocks.n_features)))
        case AboveThreshold(threshold):
            return _padded([above(*block, threshold) for block in blocks], blocks.n)
        case EachLayer():
            raise AssertionError("layers are encoded by encode_layers")


def _padded(found: list[tuple[Tensor, Tensor, Tensor]], n: int) -> tuple[Tensor, Tensor]:
    token, feature, value = (torch.cat(parts) for parts in zip(*found, strict=True))
    values, indices = pad(token, value, feature, n=n)
    return values, indices


def per_token(blocks: Blocks, selection: PerToken) -> tuple[Tensor, Tensor]:
    """Values and indices [n, k] of what a rule with a fixed number per token chooses."""
    values, indices = [], []
    for _, pre, score in blocks:
        match selection:
            case TopKPerToken(k) | AbsTopKPerToken(k):
                indices.append(largest_per_row(score, k, magnitude=selection.is_signed))
            case LargestPerGroup():
                indices.append(chosen(score, selection))
        values.append(pre.gather(1, indices[-1]).float())
    kept = torch.cat(values)
    return kept if selection.is_signed else kept.relu_(), torch.cat(indices)


def _top_per_batch(blocks: Blocks, n_kept: int) -> tuple[Tensor, Tensor]:
    # The cut of a sample of the first block, lowered, bounds the batch's cut from below; if it proves too high, it is
    # lowered again.
    share = n_kept / (blocks.n * blocks.n_features)
    bound = -1.0
    while True:
        found = []
        for rows, pre, score in blocks:
            if bound < 0:
                sample = score.flatten()[:: max(1, score.numel() // SAMPLE)]
                rank = min(len(sample), round(1.3 * share * len(sample)) + 8)
                bound = max(0.0, sample.topk(rank).values[-1].item())
            token, feature, value = at_least(rows, pre, score, bound)
            found.append((token, feature, value, blocks.score(feature, value)))
        token, feature, value, score = (torch.cat(parts) for parts in zip(*found, strict=True))
        if len(score) >= n_kept or bound <= 0:
            break
        bound = bound * 0.5 if bound > 1e-6 else 0.0
    if len(score) > n_kept:
        keep = score >= kth_largest(score, n_kept)
        token, feature, value = token[keep], feature[keep], value[keep]
    values, indices = pad(token, value, feature, n=blocks.n)
    return values, indices


def above(rows: slice, pre: Tensor, score: Tensor, threshold: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Token, feature and value of a block's positive entries of scores above their thresholds, ordered by token."""
    if (native := kernels()) is not None:
        found = native.above(pre, score, threshold)
        assert found is not None, "as many as there are"
        token, feature, value = found
        return token + rows.start, feature, value
    return _entries(rows, pre, score > threshold.to(score.dtype))


def at_least(rows: slice, pre: Tensor, score: Tensor, cut: float) -> tuple[Tensor, Tensor, Tensor]:
    """Token, feature and value of a block's positive entries whose scores reach a cut, ordered by token."""
    if kernels() is not None:
        below = torch.nextafter(torch.tensor(cut), torch.tensor(-torch.inf))
        return above(rows, pre, score, below.expand(score.shape[1]))
    return _entries(rows, pre, score >= cut)


def _entries(rows: slice, pre: Tensor, keep: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    token, feature = nonzero(keep & (pre > 0))
    return token + rows.start, feature, pre[token, feature].float()


def nonzero(keep: Tensor) -> tuple[Tensor, Tensor]:
    """Rows and columns of what is True. Where that is little, most words of eight are passed over at once."""
    if keep.shape[1] % 8 or not keep.is_contiguous():
        row, column = keep.nonzero(as_tuple=True)
        return row, column
    words = keep.view(torch.int64)
    row, word = words.nonzero(as_tuple=True)
    place, byte = words[row, word].view(-1, 1).view(torch.uint8).nonzero(as_tuple=True)
    return row[place], word[place] * 8 + byte


def pad(token: Tensor, *columns: Tensor, n: int) -> tuple[Tensor, ...]:
    """Columns of entries ordered by token, such as values and indices, as [n, k], rows padded with zeros."""
    counts = torch.bincount(token, minlength=n)
    k = max(1, int(counts.max())) if len(counts) else 1
    slot = torch.arange(len(token)) - (counts.cumsum(0) - counts)[token]
    return tuple(column.new_zeros(n, k).index_put_((token, slot), column) for column in columns)


def present(values: Tensor) -> Tensor | None:
    """Which entries are not padding; None where nearly all are not, so that leaving the others out would not pay."""
    kept = values != 0
    return kept if kept.sum() < MOSTLY * kept.numel() else None


def gathered_dot(x: Tensor, rows: Tensor, indices: Tensor, kept: Tensor | None = None) -> Tensor:
    """``out[n, j] = x[n] . rows[indices[n, j]]``, 0 where not kept: ``[n, d], [F, d], [n, k] -> [n, k]``."""
    if (native := kernels()) is not None:
        return native.gathered_dot(x, rows, indices, kept)
    n, k = indices.shape
    if kept is None:
        features, starts, bag = indices.flatten(), torch.arange(0, n * k, k), torch.arange(n).repeat_interleave(k)
    else:
        features, starts, bag = indices[kept], _starts(kept)[:-1], kept.nonzero()[:, 0]
    dots = torch.ops.aten._embedding_bag_per_sample_weights_backward(x.contiguous(), rows, features, starts, bag, 0)
    return dots.view(n, k) if kept is None else dots.new_zeros(n, k).masked_scatter_(kept, dots)


def weighted_rows(values: Tensor, indices: Tensor, rows: Tensor) -> Tensor:
    """``out[n] = sum_j values[n, j] rows[indices[n, j]]``: ``[n, k], [n, k], [F, d] -> [n, d]``."""
    if (native := kernels()) is not None:
        return native.weighted_rows(values, indices, rows)
    kept = present(values)
    if kept is None:
        return embedding_bag(indices, rows, per_sample_weights=values, mode="sum")
    return _bags(indices[kept], rows, _starts(kept), values[kept])


def scatter_rows(weights: Tensor, indices: Tensor, rows: Tensor, n_features: int) -> Tensor:
    """``out[f] = sum over entries (n, j) of feature f of weights[n, j] rows[n]``."""
    if (native := kernels()) is not None:
        return native.scatter_rows(weights, indices, rows, n_features)
    order, token, starts = by_feature(indices, n_features, present(weights))
    return _bags(token, rows.contiguous(), starts, weights.flatten()[order])


def _bags(indices: Tensor, rows: Tensor, starts: Tensor, weights: Tensor) -> Tensor:
    return embedding_bag(indices, rows, starts, mode="sum", per_sample_weights=weights, include_last_offset=True)


def _starts(kept: Tensor) -> Tensor:
    return torch.nn.functional.pad(kept.sum(1).cumsum(0), (1, 0))


ByFeature = tuple[Tensor, Tensor, Tensor]
_last: tuple[Tensor, int, int, Tensor | None, ByFeature] | None = None


def by_feature(indices: Tensor, n_features: int, kept: Tensor | None = None) -> ByFeature:
    """(Kept) entries by feature: their places in ``indices``, their rows, where each feature's begin ``[F + 1]``.

    The last answer is held: the gradients of encoder and decoder ask for the same.
    """
    global _last
    if _last is not None and _same(_last, indices, n_features, kept):
        return _last[-1]
    flat = indices.flatten()
    place = None if kept is None else kept.flatten().nonzero().squeeze(1)
    narrow = (flat if place is None else flat[place]).to(torch.int16 if n_features < 2**15 else torch.int32)
    features, order = narrow.sort(stable=True)
    order = order if place is None else place[order]
    starts = torch.searchsorted(features, torch.arange(n_features + 1, dtype=features.dtype))
    answer = order, order // max(1, indices.shape[1]), starts
    _last = indices, indices._version, n_features, kept, answer
    return answer


def _same(
    last: tuple[Tensor, int, int, Tensor | None, ByFeature], indices: Tensor, n_features: int, kept: Tensor | None
) -> bool:
    # The held tensor lives, so one at its address shares its memory, unchanged if of the same version.
    held, version, n, held_kept, _ = last
    if (held.data_ptr(), held.shape, version, n) != (
        indices.data_ptr(),
        indices.shape,
        indices._version,
        n_features,
    ):
        return False
    return kept is held_kept or (kept is not None and held_kept is not None and torch.equal(kept, held_kept))


class Attach(torch.autograd.Function):
    """Surviving values as a function of the encoder: the identity forward, the sparse gradient backward.

    z: the centered input, ``x - center``, or x where there is no center
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        W_enc: Tensor,
        b_enc: Tensor,
        center: Tensor | None,
        z: Tensor,
        values: Tensor,
        indices: Tensor,
    ) -> Tensor:
        """The values, unchanged."""
        ctx.save_for_backward(W_enc, z, values, indices)
        ctx.is_centered = center is not None
        return values.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of x, W_enc, b_enc and center, from entries that are not 0: padding passes none."""
        W_enc, z, values, indices = ctx.saved_tensors
        rows = W_enc.T.contiguous()
        delta = grads[0] * (values != 0)
        dW = scatter_rows(delta, indices, z, len(rows)).T if ctx.needs_input_grad[1] else None
        kept = present(values)
        entries = (indices, delta) if kept is None else (indices[kept], delta[kept])
        db = torch.zeros(len(rows)).index_add_(0, *(part.flatten() for part in entries))
        dx = weighted_rows(delta, indices, rows) if ctx.needs_input_grad[0] else None
        dcenter = -(db @ rows) if ctx.is_centered and ctx.needs_input_grad[3] else None
        return dx, dW, db, dcenter, None, None, None


class SparseDecode(torch.autograd.Function):
    """``reference.sparse_decode``, with the sparse gradient.

    counts: ``[n]`` slots of each row that get a gradient, whatever their value; None: those whose value is not 0
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor, indices: Tensor, W_dec: Tensor, counts: Tensor | None = None) -> Tensor:
        """Weighted sum of decoder rows."""
        ctx.save_for_backward(values, indices, W_dec, counts)
        return weighted_rows(values, indices, W_dec)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of values and W_dec; those of padding may be left out."""
        values, indices, W_dec, counts = ctx.saved_tensors
        g, dvalues = grads[0].contiguous(), None
        if ctx.needs_input_grad[0]:
            kept = present(values) if counts is None else torch.arange(values.shape[1]) < counts[:, None]
            dvalues = gathered_dot(g, W_dec, indices, kept)
        dW = scatter_rows(values, indices, g, len(W_dec)) if ctx.needs_input_grad[2] else None
        return dvalues, None, dW, None


def adam_rows_(
    weight: Tensor,
    grad: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    *,
    step: int,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    scale: Tensor | None,
    unit_norm: bool,
) -> None:
    """``reference.adam_rows_`` by torch's fused kernel, by blocks in cache where rows have norm 1."""
    if (native := kernels()) is not None:
        factor = 1.0 if scale is None else scale.item()
        settings = {"step": step, "lr": lr, "betas": betas, "eps": eps}
        native.adam_rows_(weight, grad, exp_avg, exp_avg_sq, **settings, scale=factor, unit_norm=unit_norm)
        return
    steps, inverse = [torch.tensor(float(step))], None if scale is None else scale.reciprocal()
    size = max(1, UPDATE_ENTRIES // weight.shape[1]) if unit_norm else len(weight)
    for w, g, m, v in zip(*(t.split(max(1, size)) for t in (weight, grad, exp_avg, exp_avg_sq)), strict=True):
        if unit_norm:
            g.addcmul_(torch.linalg.vecdot(g, w).unsqueeze(1), w, value=-1)
        torch._fused_adam_(  # pyright: ignore[reportPrivateImportUsage]
            [w], [g], [m], [v], [], steps, lr=lr, beta1=betas[0], beta2=betas[1], weight_decay=0.0, eps=eps,
            amsgrad=False, maximize=False, grad_scale=inverse,
        )  # fmt: skip
        if unit_norm:
            w.div_(w.norm(dim=1, keepdim=True).clamp_min_(1e-12))
