"""The CPU path of encoders of several layers: selection goes on layer by layer, so that no [N, L F] exists.

Where layers share a budget, what is kept is a running best: of each further layer only entries that could displace some
of it are looked at. The k largest of a concatenation are the k largest of the k largest of its parts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from monoscope.ops.blocks import Blocks, in_bf16
from monoscope.ops.cpu import Attach, at_least, encode, gathered_dot, pad, per_token, present
from monoscope.ops.largest import kth_largest
from monoscope.ops.selection import AboveThreshold, EachLayer, Selection, TopKPerBatch, TopKPerToken

Entries = tuple[Tensor, Tensor, Tensor]  # token, feature and value, ordered by token


def encode_layers(
    x: Tensor,
    W_enc: Sequence[Tensor],
    b_enc: Sequence[Tensor],
    selection: Selection,
    norm: Tensor | None,
    dtype: torch.dtype,
) -> list[tuple[Tensor, Tensor]]:
    """``reference.encode_layers`` as values and indices of each layer, which counts its features from 0."""
    dtype = in_bf16(dtype, x.dtype)
    each = x.unbind(1)
    norms = [None] * len(each) if norm is None else norm.chunk(len(each))
    match selection:
        case EachLayer(rules):
            pass
        case AboveThreshold(threshold):
            rules = tuple(map(AboveThreshold, threshold.chunk(len(each))))
        case _:
            return _shared(each, W_enc, b_enc, selection, norms, dtype)
    layers = zip(each, W_enc, b_enc, rules, norms, strict=True)
    return [encode(x_l, weight, bias, rule, None, n, dtype) for x_l, weight, bias, rule, n in layers]


def _shared(
    each: Sequence[Tensor],
    W_enc: Sequence[Tensor],
    b_enc: Sequence[Tensor],
    selection: Selection,
    norms: Sequence[Tensor | None],
    dtype: torch.dtype,
) -> list[tuple[Tensor, Tensor]]:
    n, n_features = len(each[0]), W_enc[0].shape[1]
    with torch.no_grad():
        rows = [weight.T.contiguous() for weight in W_enc]
        layers = (Blocks(*parts, dtype) for parts in zip(each, rows, b_enc, norms, strict=True))
        match selection:
            case TopKPerToken(k):
                token, feature, value = _largest_per_token(layers, k)
            case TopKPerBatch(k):
                n_kept = max(1, min(round(k * n), n * n_features * len(each)))
                token, feature, value = _largest_per_batch(layers, n_kept)
            case _:
                raise AssertionError(f"no budget over layers is known for {selection}")
        padded = []
        for layer in range(len(each)):
            own = feature // n_features == layer
            values, indices = pad(token[own], value[own], feature[own] - layer * n_features, n=n)
            padded.append((values, indices))
        if dtype != each[0].dtype:
            _make_exact(padded, each, rows, b_enc, norms, selection)
    layers = zip(each, W_enc, b_enc, padded, strict=True)
    return [
        (Attach.apply(x_l, weight, bias, None, x_l, values, indices), indices)
        for x_l, weight, bias, (values, indices) in layers
    ]


def _largest_per_token(layers: Iterator[Blocks], k: int) -> Entries:
    value = score = feature = None
    for layer, blocks in enumerate(layers):
        values, indices = per_token(blocks, TopKPerToken(min(k, blocks.n_features)))
        scores, features = blocks.score(indices, values), indices + layer * blocks.n_features
        if value is None or score is None or feature is None:
            value, score, feature = values, scores, features
            continue
        value, score, feature = (torch.cat(pair, 1) for pair in ((value, values), (score, scores), (feature, features)))
        if score.shape[1] > k:
            best = score.topk(k, dim=1, sorted=False).indices
            value, score, feature = (part.gather(1, best) for part in (value, score, feature))
    assert value is not None
    assert feature is not None
    token, slot = (value > 0).nonzero(as_tuple=True)
    return token, feature[token, slot], value[token, slot]


def _largest_per_batch(layers: Iterator[Blocks], n_kept: int) -> Entries:
    best: list[tuple[Tensor, ...]] = []
    pending, cut = 0, 0.0
    for layer, blocks in enumerate(layers):
        for rows, pre, score in blocks:
            token, feature, value = at_least(rows, pre, score, cut)
            best.append((token, feature + layer * blocks.n_features, value, blocks.score(feature, value)))
            pending += len(token)
            if pending > n_kept:
                kept = tuple(torch.cat(parts) for parts in zip(*best, strict=True))
                if len(kept[3]) > n_kept:
                    cut = kth_largest(kept[3], n_kept).item()
                    kept = tuple(part[kept[3] >= cut] for part in kept)
                best, pending = [kept], 0
    token, feature, value, score = (torch.cat(parts) for parts in zip(*best, strict=True))
    if len(score) > n_kept:
        keep = score >= kth_largest(score, n_kept)
        token, feature, value = token[keep], feature[keep], value[keep]
    return token, feature, value


def _make_exact(
    padded: list[tuple[Tensor, Tensor]],
    each: Sequence[Tensor],
    rows: Sequence[Tensor],
    b_enc: Sequence[Tensor],
    norms: Sequence[Tensor | None],
    selection: Selection,
) -> None:
    """Recompute selected values in the input's precision; a batch's budget is cut again, since narrow scores tie."""
    scores = []
    for layer, (values, indices) in enumerate(padded):
        dots = gathered_dot(each[layer], rows[layer], indices, present(values))
        exact = dots.add_(b_enc[layer][indices]).relu_() * (values != 0)
        padded[layer] = exact, indices
        norm = norms[layer]
        scores.append(exact if norm is None else exact * norm[indices])
    if isinstance(selection, TopKPerBatch):
        positive = torch.cat([score[score > 0] for score in scores])
        if len(positive):
            cut = kth_largest(positive, max(1, min(round(selection.k * len(each[0])), len(positive))))
            for layer, (values, indices) in enumerate(padded):
                padded[layer] = values * (scores[layer] >= cut), indices
