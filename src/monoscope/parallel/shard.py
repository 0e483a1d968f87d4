"""Places a dictionary on a mesh: every process of the features axis holds an equal share of each block of features.

A block is a run of features that one parameter has to itself: the features of one layer of a cross-layer transcoder, of
one rank of a MOLT; else all of them. What has no feature axis is held by every process, and stays the same on all.

    gradients      summed over the data axis; of what all hold, averaged over the features axis, on which they agree
    global norm    of each share once, and once of what all hold
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from monoscope.core.errors import ConfigError
from monoscope.core.mesh import Axis, Mesh, Shards


@dataclass(frozen=True, slots=True)
class Cut:
    """How a tensor is shared out: along ``axis``, an equal consecutive part of each of its ``blocks`` (their sizes)."""

    axis: int
    blocks: tuple[int, ...]

    def part(self, whole: Tensor, number: int, of: int) -> Tensor:
        """The share of one process, in the memory order of the whole."""
        rows = whole.movedim(self.axis, 0)
        own = [block.chunk(of)[number] for block in rows.split(self.blocks)]
        return torch.cat(own).contiguous().movedim(0, self.axis)

    def pieces(self, part: Tensor, of: int) -> list[Tensor]:
        """A share, block by block."""
        return list(part.split([size // of for size in self.blocks], dim=self.axis))

    def whole(self, parts: Sequence[Tensor]) -> Tensor:
        """The tensor whose shares these are, in order."""
        by_block = zip(*(self.pieces(part.movedim(self.axis, 0), len(parts)) for part in parts), strict=True)
        return torch.cat([piece for block in by_block for piece in block]).movedim(0, self.axis)


@dataclass(frozen=True, slots=True)
class Placed:
    """A dictionary of which this process holds a share.

    cuts: how each of its parameters that has features is shared out, by name
    features: how anything with an entry for each feature is
    """

    shards: Shards
    cuts: Mapping[str, Cut]
    features: Cut

    @property
    def mesh(self) -> Mesh:
        """The mesh it is placed on."""
        return self.shards.mesh

    def reduce_gradients_(self, dictionary: nn.Module) -> None:
        """Make every gradient that of the whole batch."""
        mesh = self.mesh
        for name, parameter in _trained(dictionary):
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            if name in self.cuts:
                mesh.data.reduce_(parameter.grad)
            else:
                mesh.every.reduce_(parameter.grad).div_(mesh.features.size)

    def gradient_norm(self, dictionary: nn.Module) -> Tensor:
        """The norm of the whole dictionary's gradient."""
        own, common = [], []
        for name, parameter in _trained(dictionary):
            if parameter.grad is not None:
                (own if name in self.cuts else common).append(parameter.grad)
        square = torch.nn.utils.get_total_norm(own).square() if own else torch.zeros((), device=self.mesh.every.device)
        square = self.mesh.features.reduce_(square)
        if common:
            square = square + torch.nn.utils.get_total_norm(common).square()
        return square.sqrt()

    def agree_(self, dictionary: nn.Module) -> None:
        """Make what several processes hold the same on all of them: that of the first."""
        for name, tensor in (*dictionary.named_parameters(), *dictionary.named_buffers()):
            _same_as_first(tensor.data, self.mesh.data if name in self.cuts else self.mesh.every)

    def gathered(self, name: str, value: Tensor) -> Tensor:
        """The whole of a parameter or buffer, on every process."""
        return self.whole(value, self.cuts[name]) if name in self.cuts else value

    def whole(self, part: Tensor, cut: Cut) -> Tensor:
        """The whole of which each process holds a share."""
        moved = part.movedim(cut.axis, 0).contiguous()
        return Cut(0, cut.blocks).whole(self.mesh.features.gather(moved)).movedim(0, cut.axis)


def shard_(dictionary: Any, mesh: Mesh) -> Placed:
    """Leave a dictionary this process's share of its features.

    Raises ConfigError where its features cannot be shared out equally.
    """
    cuts = cuts_of(dictionary)
    number, of, n_features = mesh.features.number, mesh.features.size, dictionary.n_features
    features = features_of(dictionary)
    placed = Placed(Shards(mesh, features.part(torch.arange(n_features), number, of), n_features), cuts, features)
    if of > 1:
        _check_shares(dictionary, cuts, features, of)
        with torch.no_grad():
            for name, cut in cuts.items():
                parameter = dictionary.get_parameter(name)
                parameter.data = cut.part(parameter.data, number, of)
        dictionary.share_(of)
    return placed


def cuts_of(dictionary: Any) -> dict[str, Cut]:
    """How each parameter of a whole dictionary that has features is shared out."""
    cuts = {}
    for name, axis in dictionary.feature_axes.items():
        cuts[name] = Cut(axis, _blocks(dictionary, dictionary.features_of(name)))
    for name, axis in dictionary.activation.feature_axes.items():
        cuts[f"activation.{name}"] = Cut(axis, _blocks(dictionary, range(dictionary.n_features)))
    for name, axis in dictionary.group_axes.items():
        if (parameter := getattr(dictionary, name)) is not None:
            cuts[name] = Cut(axis, (parameter.shape[axis],))
    return cuts


def features_of(dictionary: Any) -> Cut:
    """How anything that has an entry for each feature of a whole dictionary is shared out."""
    return Cut(0, _blocks(dictionary, range(dictionary.n_features)))


def _blocks(dictionary: Any, features: range) -> tuple[int, ...]:
    """Sizes of the runs of features, among some, that no parameter's own features cut in two."""
    runs = [dictionary.features_of(name) for name in dictionary.feature_axes]
    inside = {edge for run in runs for edge in (run.start, run.stop) if features.start < edge < features.stop}
    edges = sorted({features.start, features.stop} | inside)
    return tuple(b - a for a, b in pairwise(edges))


def _check_shares(dictionary: Any, cuts: Mapping[str, Cut], features: Cut, of: int) -> None:
    group = dictionary.activation.block or 1
    for size in features.blocks:
        if size % (of * group):
            what = f"{size} features" if len(features.blocks) == 1 else f"a block of {size} features"
            kept = f" in whole groups of {group}" if group > 1 else ""
            raise ConfigError(
                f"{what} cannot be shared out equally among {of} processes{kept}; choose n_features so that it can, or "
                "another parallel.features"
            )
    for name, cut in cuts.items():
        if any(size % of for size in cut.blocks):
            raise ConfigError(
                f"{name} has {cut.blocks[0]} groups of features, which {of} processes cannot share equally; choose "
                "another parallel.features"
            )


def _trained(dictionary: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    for name, parameter in dictionary.named_parameters():
        if parameter.requires_grad:
            yield name, parameter


def _same_as_first(tensor: Tensor, axis: Axis) -> None:
    """Give a tensor the values it has on the first process of an axis."""
    if axis.group is not None:
        if axis.number:
            tensor.zero_()
        axis.reduce_(tensor)
