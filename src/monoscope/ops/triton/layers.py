"""Encoders of several layers. Where layers share a budget, each gives what could be within it, and a cut decides.

The k largest of all are among the k largest of each layer, and likewise those of a batch. No [N, L F] exists.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from monoscope.ops.selection import AboveThreshold, EachLayer, Selection, TopKPerBatch, TopKPerToken
from monoscope.ops.triton.library import encode, kth_largest


def encode_layers(
    x: Tensor,
    W_enc: Sequence[Tensor],
    b_enc: Sequence[Tensor],
    selection: Selection,
    norm: Tensor | None,
    dtype: torch.dtype,
) -> list[tuple[Tensor, Tensor]]:
    """``reference.encode_layers`` as values and indices of each layer, which counts its features from 0."""
    n_layers, n_features = x.shape[1], W_enc[0].shape[1]
    norms = [None] * n_layers if norm is None else norm.chunk(n_layers)
    match selection:
        case EachLayer(rules):
            own = rules
        case AboveThreshold(threshold):
            own = tuple(map(AboveThreshold, threshold.chunk(n_layers)))
        case TopKPerToken(k):
            own = (TopKPerToken(min(k, n_features)),) * n_layers
        case TopKPerBatch(k):
            own = (TopKPerBatch(min(k, n_features)),) * n_layers
        case _:
            raise AssertionError(f"no budget over layers is known for {selection}")
    layers = zip(x.unbind(1), W_enc, b_enc, own, norms, strict=True)
    found = [encode(x_l, weight, bias, rule, None, n, dtype) for x_l, weight, bias, rule, n in layers]
    if isinstance(selection, (TopKPerToken, TopKPerBatch)):
        found = _within_budget(found, selection, norms)
    return found


@torch.no_grad()
def _scores(found: list[tuple[Tensor, Tensor]], norms: Sequence[Tensor | None]) -> list[Tensor]:
    return [v.float() if n is None else v.float() * n[i] for (v, i), n in zip(found, norms, strict=True)]


def _within_budget(
    found: list[tuple[Tensor, Tensor]], selection: TopKPerToken | TopKPerBatch, norms: Sequence[Tensor | None]
) -> list[tuple[Tensor, Tensor]]:
    scores = _scores(found, norms)
    every = torch.cat(scores, dim=1)
    if isinstance(selection, TopKPerToken):
        best = every.topk(min(selection.k, every.shape[1]), dim=1, sorted=False).indices
        keep = torch.zeros_like(every, dtype=torch.bool).scatter_(1, best, True)
    else:
        keep = every >= kth_largest(every, max(1, round(selection.k * len(every))))
    parts = keep.split([score.shape[1] for score in scores], dim=1)
    return [(values * part, indices) for (values, indices), part in zip(found, parts, strict=True)]
