"""Reading shared: the rows of a batch spread over the processes of an axis, which all get all activations."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from monoscope.core.mesh import Axis
from monoscope.core.site import Site

Read = Callable[[Tensor, Tensor | None], dict[Site, Tensor]]


def read_shared(axis: Axis, read: Read, tokens: Tensor, mask: Tensor | None) -> dict[Site, Tensor]:
    """What ``read`` gives for all rows, of which this process reads its share.

    Shares are equally large, as processes exchange them; a last one that is short repeats the last row.
    """
    if axis.size == 1:
        return read(tokens, mask)
    n = len(tokens)
    each = -(-n // axis.size)
    rows = torch.arange(axis.number * each, (axis.number + 1) * each, device=tokens.device).clamp_max(n - 1)
    own = read(tokens[rows], None if mask is None else mask[rows])
    return {site: torch.cat(axis.gather(x))[:n] for site, x in own.items()}
