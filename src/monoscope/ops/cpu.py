"""Fast CPU paths in PyTorch, whose inner loops are compiled kernels where there are any (``ops.native``).

Encoding walks over blocks of rows small enough for their pre-activations to stay in cache, so ``[N, F]`` is never
written to memory, and keeps the surviving entries alone. The backward pass touches those entries alone, through
``embedding_bag`` in both directions: dW_dec[f] is the sum of value * g over the tokens where f is active, and likewise
for the encoder.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from monoscope.ops.native import kernels
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

BLOCK_ENTRIES = 2**21  # pre-activations in a block: 8 MB in fp32


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
    int8 that is for TopK on processors that multiply 8-bit numbers, and bf16 for the rest.
    """
    with torch.no_grad():
        z = x if center is None else x - center
        rows = W_enc.T.contiguous()  # [F, d], free when the encoder is stored feature by feature
        native = kernels()
        if (
            dtype == torch.int8
            and native is not None
            and native.multiplies_int8
            and isinstance(selection, TopKPerToken)
        ):
            values, indices = native.encode_topk(z, rows, b_enc, norm, selection.k)
        else:
            values, indices = _encode(z, rows, b_enc, selection, norm, torch.bfloat16 if dtype == torch.int8 else dtype)
    return Attach.apply(x, W_enc, b_enc, center, values, indices), indices


def _encode(
    z: Tensor, rows: Tensor, b_enc: Tensor, selection: Selection, norm: Tensor | None, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    values, indices = _select(Blocks(z, rows, b_enc, norm, dtype), selection)
    if dtype == z.dtype:
        return values, indices
    exact = gathered_dot(z, rows, indices).add_(b_enc[indices])
    if not selection.is_signed:
        exact.relu_()
    score = exact if norm is None else exact * norm[indices]
    return exact * _still_kept(score, values != 0, indices, selection), indices


def _still_kept(score: Tensor, candidate: Tensor, indices: Tensor, selection: Selection) -> Tensor:
    # Narrow scores tie where exact ones do not, so a cut in narrow precision lets a few entries too many through.
    match selection:
        case TopKPerToken() | AbsTopKPerToken() | LargestPerGroup():
            return torch.ones_like(candidate)
        case TopKPerBatch(k):
            kept = score[candidate]
            return candidate & (score >= kth_largest(kept, max(1, min(round(k * len(score)), len(kept)))))
        case AboveThreshold(threshold):
            return candidate & (score > threshold[indices])
        case EachLayer():
            raise AssertionError("layers are encoded by encode_layers")


class Blocks:
    """Pre-activations by blocks of rows; a block's buffer is used again for the next."""

    def __init__(self, z: Tensor, rows: Tensor, b_enc: Tensor, norm: Tensor | None, dtype: torch.dtype) -> None:
        self.z, self.rows, self.b_enc = (t.to(dtype) for t in (z, rows, b_enc))
        self.norm = None if norm is None else norm.to(dtype)
        self.n, self.n_features = len(z), len(rows)
        self.size = max(1, min(self.n, BLOCK_ENTRIES // self.n_features))

    def score(self, feature: Tensor, value: Tensor) -> Tensor:
        """Scores of entries."""
        return value if self.norm is None else value * self.norm.float()[feature]

    def __iter__(self) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Rows, their pre-activations, and their scores; one empty block where there are no rows."""
        buffer = torch.empty(self.size, self.n_features, dtype=self.z.dtype)
        for start in range(0, max(self.n, 1), self.size):
            rows = slice(start, min(start + self.size, self.n))
            pre = buffer[: rows.stop - start]
            torch.addmm(self.b_enc, self.z[rows], self.rows.T, out=pre)
            yield rows, pre, pre if self.norm is None else pre * self.norm


def _select(blocks: Blocks, selection: Selection) -> tuple[Tensor, Tensor]:
    match selection:
        case TopKPerToken() | AbsTopKPerToken() | LargestPerGroup():
            return per_token(blocks, selection)
        case TopKPerBatch(k):
            return _top_per_batch(blocks, max(1, min(round(k * blocks.n), blocks.n * blocks.n_features)))
        case AboveThreshold(threshold):
            found = [entries(rows, pre, score > threshold.to(score.dtype)) for rows, pre, score in blocks]
            return pad(*(torch.cat(parts) for parts in zip(*found, strict=True)), n=blocks.n)
        case EachLayer():
            raise AssertionError("layers are encoded by encode_layers")


def per_token(blocks: Blocks, selection: PerToken) -> tuple[Tensor, Tensor]:
    """Values and indices [n, k] of what a rule with a fixed number per token chooses."""
    values, indices = [], []
    for _, pre, score in blocks:
        indices.append(chosen(score, selection))
        values.append(pre.gather(1, indices[-1]).float())
    kept = torch.cat(values)
    return kept if selection.is_signed else kept.relu_(), torch.cat(indices)


def _top_per_batch(blocks: Blocks, n_kept: int) -> tuple[Tensor, Tensor]:
    # A first block's own cut, lowered, bounds the batch's cut from below; if it proves too high, it is lowered again.
    share = n_kept / (blocks.n * blocks.n_features)
    bound = -1.0
    while True:
        found = []
        for rows, pre, score in blocks:
            if bound < 0:
                rank = min(score.numel(), round(1.3 * share * score.numel()) + 8)
                bound = max(0.0, kth_largest(score.float(), rank).item())
            token, feature, value = entries(rows, pre, score >= bound)
            found.append((token, feature, value, blocks.score(feature, value)))
        token, feature, value, score = (torch.cat(parts) for parts in zip(*found, strict=True))
        if len(score) >= n_kept or bound <= 0:
            break
        bound = bound * 0.5 if bound > 1e-6 else 0.0
    if len(score) > n_kept:
        keep = score >= kth_largest(score, n_kept)
        token, feature, value = token[keep], feature[keep], value[keep]
    return pad(token, feature, value, n=blocks.n)


def entries(rows: slice, pre: Tensor, keep: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Token, feature and value of kept, positive entries of a block, ordered by token."""
    token, feature = (keep & (pre > 0)).nonzero(as_tuple=True)
    return token + rows.start, feature, pre[token, feature].float()


def pad(token: Tensor, feature: Tensor, value: Tensor, *, n: int) -> tuple[Tensor, Tensor]:
    """Entries ordered by token as values and indices [n, k], rows padded with zeros."""
    counts = torch.bincount(token, minlength=n)
    k = max(1, int(counts.max())) if len(counts) else 1
    slot = torch.arange(len(token)) - (counts.cumsum(0) - counts)[token]
    values, indices = torch.zeros(n, k), torch.zeros(n, k, dtype=torch.long)
    values[token, slot], indices[token, slot] = value, feature
    return values, indices


def kth_largest(scores: Tensor, k: int) -> Tensor:
    """``reference.kth_largest``, with most entries ruled out by an evenly spaced sample.

    The sample bounds the answer from below; where the bound proves too high, all entries are searched.
    """
    flat, stride = scores.detach().flatten(), 61
    if len(flat) >= 2**16 and k >= 8 * stride:
        sample = flat[::stride]
        bound = sample.topk(min(len(sample), round(1.3 * k / stride) + 8)).values[-1]
        upper = flat[flat >= bound]
        if len(upper) >= k:
            flat = upper
    return flat.kthvalue(len(flat) - k + 1).values


def gathered_dot(x: Tensor, rows: Tensor, indices: Tensor) -> Tensor:
    """``out[n, j] = x[n] . rows[indices[n, j]]``: ``[n, d], [F, d], [n, k] -> [n, k]``."""
    if (native := kernels()) is not None:
        return native.gathered_dot(x, rows, indices)
    n, k = indices.shape
    offsets = torch.arange(0, n * k, k)
    bag = torch.arange(n).repeat_interleave(k)
    flat = torch.ops.aten._embedding_bag_per_sample_weights_backward(
        x.contiguous(), rows, indices.flatten(), offsets, bag, 0
    )
    return flat.view(n, k)


def weighted_rows(values: Tensor, indices: Tensor, rows: Tensor) -> Tensor:
    """``out[n] = sum_j values[n, j] rows[indices[n, j]]``: ``[n, k], [n, k], [F, d] -> [n, d]``."""
    if (native := kernels()) is not None:
        return native.weighted_rows(values, indices, rows)
    return embedding_bag(indices, rows, per_sample_weights=values, mode="sum")


def scatter_rows(weights: Tensor, indices: Tensor, rows: Tensor, n_features: int) -> Tensor:
    """``out[f] = sum over entries (n, j) of feature f of weights[n, j] rows[n]``."""
    if (native := kernels()) is not None:
        return native.scatter_rows(weights, indices, rows, n_features)[0]
    flat = indices.flatten()
    narrow = flat.to(torch.int16) if n_features < 2**15 else flat.to(torch.int32)
    order = narrow.argsort(stable=True)
    offsets = torch.zeros(n_features + 1, dtype=torch.long)
    torch.cumsum(torch.bincount(flat, minlength=n_features), 0, out=offsets[1:])
    return embedding_bag(
        order // weights.shape[1],
        rows.contiguous(),
        offsets,
        mode="sum",
        per_sample_weights=weights.flatten()[order],
        include_last_offset=True,
    )


class Attach(torch.autograd.Function):
    """Surviving values as a function of the encoder: the identity forward, the sparse gradient backward."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        W_enc: Tensor,
        b_enc: Tensor,
        center: Tensor | None,
        values: Tensor,
        indices: Tensor,
    ) -> Tensor:
        """The values, unchanged."""
        ctx.save_for_backward(x, W_enc, center, values, indices)
        return values.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of x, W_enc, b_enc and center, from entries that are not 0: padding passes none."""
        x, W_enc, center, values, indices = ctx.saved_tensors
        z = x if center is None else x - center
        rows = W_enc.T.contiguous()
        delta = grads[0] * (values != 0)
        dW = scatter_rows(delta, indices, z, len(rows)).T if ctx.needs_input_grad[1] else None
        db = torch.zeros(len(rows)).index_add_(0, indices.flatten(), delta.flatten())
        dx = weighted_rows(delta, indices, rows) if ctx.needs_input_grad[0] else None
        dcenter = -(db @ rows) if center is not None and ctx.needs_input_grad[3] else None
        return dx, dW, db, dcenter, None, None


class SparseDecode(torch.autograd.Function):
    """``reference.sparse_decode``, both ways through ``embedding_bag``."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, indices: Tensor, W_dec: Tensor) -> Tensor:
        """Weighted sum of decoder rows."""
        ctx.save_for_backward(values, indices, W_dec)
        return weighted_rows(values, indices, W_dec)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of values and W_dec."""
        values, indices, W_dec = ctx.saved_tensors
        g = grads[0].contiguous()
        dvalues = gathered_dot(g, W_dec, indices) if ctx.needs_input_grad[0] else None
        dW = scatter_rows(values, indices, g, len(W_dec)) if ctx.needs_input_grad[2] else None
        return dvalues, None, dW
