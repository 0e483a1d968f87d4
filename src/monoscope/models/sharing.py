"""Models shared by the processes of an axis: the rows of what they read, or the weights.

rows       each process runs the whole model on its rows of a batch, and all get all activations
weights    each process holds a share of every block's weights; a pass gathers them block by block (PyTorch's FSDP2)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

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


class SharedWeights:
    """Blocks of a model, of whose weights each process of an axis holds a share. What is not in a block stays whole.

    All processes take part in every pass, each with what it reads itself, as far as the last of ``sites``. One that has
    nothing to read says so, and takes part all the same until none has.
    """

    def __init__(self, model: nn.Module, blocks: Sequence[nn.Module], axis: Axis, sites: Sequence[Site]) -> None:
        from torch.distributed.fsdp import fully_shard

        assert axis.group is not None, "weights are shared by several processes"
        self.axis, self.sites = axis, tuple(sites)
        mesh = DeviceMesh.from_group(axis.group, torch.device(axis.device).type)
        for block in blocks:
            fully_shard(block, mesh=mesh, reshard_after_forward=True)
        inside = {id(parameter) for block in blocks for parameter in block.parameters()}
        whole = {parameter for parameter in model.parameters() if id(parameter) not in inside}
        root: Any = fully_shard(model, mesh=mesh, ignored_params=whole)
        self.blocks: list[Any] = list(blocks)
        self._states = [module._get_fsdp_state() for module in (root, *self.blocks)]

    def any_reads(self, *, reads: bool) -> bool:
        """Whether any process is about to read, once each has said whether it is."""
        return self.axis.counted(int(reads)) > 0

    def let_go(self) -> None:
        """Keep no more than the share, though the pass ended within a block."""
        for block in self.blocks:
            block.reshard()
        for state in self._states:  # where FSDP notes every pass for a backward pass that never comes
            state._comm_ctx.post_forward_order.clear()
            for group in state._fsdp_param_groups:
                group._post_forward_indices.clear()
