"""Every op in plain PyTorch: the specification that fast paths are tested against.

Shapes: N tokens, d width, F features, k kept per token. Sparse entries are ``values [N, k]`` at features
``indices [N, k]``; entries of value 0 are padding.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from monoscope.ops.selection import AboveThreshold, Selection, TopKPerBatch, TopKPerToken


def keep(score: Float[Tensor, "n F"], selection: Selection) -> Bool[Tensor, "n F"]:
    """Entries that a selection lets survive, before rectification."""
    match selection:
        case TopKPerToken(k):
            chosen = score.topk(k, dim=-1, sorted=False).indices
            return torch.zeros_like(score, dtype=torch.bool).scatter_(-1, chosen, True)
        case TopKPerBatch(k):
            return score >= kth_largest(score, max(1, min(round(k * len(score)), score.numel())))
        case AboveThreshold(threshold):
            return score > threshold


def encode(
    x: Float[Tensor, "n d"],
    W_enc: Float[Tensor, "d F"],
    b_enc: Float[Tensor, " F"],
    selection: Selection,
    *,
    center: Float[Tensor, " d"] | None = None,
    norm: Float[Tensor, " F"] | None = None,
) -> Float[Tensor, "n F"]:
    """Rectified pre-activations of the entries that survive.

        pre = (x - center) @ W_enc + b_enc,    acts = max(pre, 0) * keep(pre * norm)

    Gradients reach kept, positive entries alone; ``norm`` and thresholds decide the selection and get none.
    """
    z = x if center is None else x - center
    pre = z @ W_enc + b_enc
    score = pre.detach() if norm is None else pre.detach() * norm.detach()
    return pre.relu() * keep(score, selection)


def sparse_decode(
    values: Float[Tensor, "n k"], indices: Int[Tensor, "n k"], W_dec: Float[Tensor, "F d"]
) -> Float[Tensor, "n d"]:
    """Weighted sum of decoder rows: ``out[n] = sum_j values[n, j] W_dec[indices[n, j]]``."""
    return torch.einsum("nk,nkd->nd", values, W_dec[indices.long()])


def kth_largest(scores: Float[Tensor, "*any"], k: int) -> Float[Tensor, ""]:
    """The k-th largest entry of a whole tensor, counting from 1."""
    return scores.flatten().kthvalue(scores.numel() - k + 1).values
