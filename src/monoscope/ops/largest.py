"""The largest of many numbers, without sorting them.

Shapes: n rows, F columns.
"""

from __future__ import annotations

import torch
from torch import Tensor

from monoscope.ops.native import kernels

GROUP = 4
INTEGERS = {torch.float32: torch.int32, torch.bfloat16: torch.int16, torch.float16: torch.int16}


def largest_per_row(score: Tensor, k: int, *, magnitude: bool = False) -> Tensor:
    """Columns [n, k] of the k largest positive entries of each row, in any order; others fill up where fewer are.

    With ``magnitude``, of the k entries of largest magnitude. The bits of positive floats are integers in the same
    order, and integers compare faster.
    """
    if (native := kernels()) is not None:
        return native.top_per_row(score, k, magnitude=magnitude)
    bits = score.view(INTEGERS[score.dtype])
    return _largest(bits & torch.iinfo(bits.dtype).max if magnitude else bits, k)


def _largest(bits: Tensor, k: int) -> Tensor:
    # The k groups whose maxima are largest, and the few columns that are in none, hold the k largest entries.
    n, width = bits.shape
    size = width // GROUP
    if size <= 2 * k:
        return bits.topk(k, dim=1, sorted=False).indices
    whole = size * GROUP
    groups = _largest(bits[:, :whole].view(n, GROUP, size).amax(1), k)
    members = (groups[:, None, :] + torch.arange(0, whole, size)[:, None]).flatten(1)
    if whole < width:
        members = torch.cat([members, torch.arange(whole, width).expand(n, -1)], dim=1)
    place = bits.gather(1, members).topk(k, dim=1, sorted=False).indices
    return members.gather(1, place)


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
