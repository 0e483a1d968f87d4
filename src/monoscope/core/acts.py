"""Acts: feature activations, the one currency that crosses every boundary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Window:
    """What learned thresholds need of scores near them, which the sparse layout then holds with value 0.

    near: ``[F]`` how many lie near a threshold; counts: ``[*batch]`` how many leading slots of a row are entries, None
    in the dense layout
    """

    near: Int[Tensor, " F"]
    counts: Int[Tensor, "*batch"] | None = None


@dataclass(frozen=True, slots=True)
class Acts:
    """Feature activations of a batch of tokens, in one of two layouts. Values may be negative; firing means != 0.

    dense: ``values [*batch, F]``, ``indices`` None
    sparse: ``values [*batch, k]`` of the features ``indices [*batch, k]``; a row's indices are distinct wherever its
        values are not 0, and entries of value 0 are padding, or near a threshold that learns (``window``)
    """

    values: Float[Tensor, "*batch k"]
    n_features: int
    indices: Int[Tensor, "*batch k"] | None = None
    window: Window | None = None

    @property
    def is_sparse(self) -> bool:
        """Whether the layout is the sparse one."""
        return self.indices is not None

    def dense(self) -> Float[Tensor, "*batch F"]:
        """All features' activations, zeros included."""
        if self.indices is None:
            return self.values
        out = self.values.new_zeros(*self.values.shape[:-1], self.n_features)
        return out.scatter_add(-1, self.indices.long(), self.values)

    def coo(self) -> tuple[Int[Tensor, " nnz"], Int[Tensor, " nnz"], Float[Tensor, " nnz"]]:
        """Token (row-major over ``*batch``), feature and value of every entry that fires, ordered by token."""
        shape = (self.values.shape[:-1].numel(), self.values.shape[-1])
        flat = self.values.reshape(shape)
        rows, columns = flat.nonzero(as_tuple=True)
        features = columns if self.indices is None else self.indices.reshape(shape)[rows, columns].long()
        return rows, features, flat[rows, columns]

    def l0(self) -> Int[Tensor, "*batch"]:
        """Number of features that fire on each token."""
        return (self.values != 0).sum(-1)

    def fired(self) -> Bool[Tensor, " F"]:
        """Which features fire on at least one token of the batch."""
        on = self.values != 0
        if self.indices is None:
            return on.reshape(-1, self.n_features).any(0)
        out = torch.zeros(self.n_features + 1, dtype=torch.bool, device=on.device)
        out.scatter_(0, torch.where(on, self.indices, self.n_features).flatten(), True)
        return out[:-1]

    def prefix(self, m: int) -> Acts:
        """The first ``m`` features alone."""
        assert 1 <= m <= self.n_features, f"a prefix of {m} of {self.n_features} features"
        if self.indices is None:
            return Acts(self.values[..., :m], m)
        keep = self.indices < m
        return Acts(self.values.where(keep, 0), m, self.indices.where(keep, 0))

    def split(self, ends: Sequence[int]) -> list[Acts]:
        """Consecutive runs of features, up to each of ``ends`` in turn; each counts its own from 0."""
        starts = [0, *ends[:-1]]
        whole = ends[-1] == self.n_features and all(a <= b for a, b in zip(starts, ends, strict=True))
        assert whole, f"ends {ends} of {self.n_features} features"
        if self.indices is None:
            return [Acts(self.values[..., a:b], b - a) for a, b in zip(starts, ends, strict=True)]
        if self.values.numel() == 0:
            return [Acts(self.values, b - a, self.indices) for a, b in zip(starts, ends, strict=True)]
        features, order = torch.where(self.values != 0, self.indices, self.n_features).sort(dim=-1)
        values = self.values.gather(-1, order)
        bounds = torch.tensor([*starts, ends[-1]], dtype=features.dtype, device=features.device)
        place = torch.searchsorted(features, bounds.expand(*features.shape[:-1], -1).contiguous())
        parts = []
        for i, (a, b) in enumerate(zip(starts, ends, strict=True)):
            first, last = place[..., i : i + 1], place[..., i + 1 : i + 2]
            slots = first + torch.arange(max(1, int((last - first).max())), device=first.device)
            inside, slots = slots < last, slots.clamp_max(features.shape[-1] - 1)
            own = features.gather(-1, slots).sub(a).where(inside, 0)
            parts.append(Acts(values.gather(-1, slots).where(inside, 0), b - a, own))
        return parts

    @staticmethod
    def joined(parts: Sequence[Acts]) -> Acts:
        """Runs of features one after the other, as ``split`` takes them apart; dense unless all are sparse."""
        n_features = sum(part.n_features for part in parts)
        indices, start = [], 0
        for part in parts:
            if part.indices is None:
                return Acts(torch.cat([each.dense() for each in parts], dim=-1), n_features)
            indices.append(part.indices + start)
            start += part.n_features
        return Acts(torch.cat([part.values for part in parts], dim=-1), n_features, torch.cat(indices, dim=-1))

    def at_any_gate(self) -> Acts:
        """Of activations with a gate at each site, ``[*batch, site, F]``, the largest of each feature."""
        values = self.dense()
        strongest = values.abs().argmax(-2, keepdim=True)
        return Acts(values.gather(-2, strongest).squeeze(-2), self.n_features)

    def where(self, features: Int[Tensor, " n"]) -> Float[Tensor, "*batch n"]:
        """Activations of the chosen features, densely, in the order they are given; repeats are allowed."""
        if self.indices is None:
            return self.values[..., features]
        chosen, place = features.unique(return_inverse=True)
        slot = torch.full((self.n_features,), len(chosen), device=self.values.device)
        slot[chosen] = torch.arange(len(chosen), device=self.values.device)
        out = self.values.new_zeros(*self.values.shape[:-1], len(chosen) + 1)
        return out.scatter_add(-1, slot[self.indices.long()], self.values)[..., place]

    def shaped(self, batch: Sequence[int]) -> Acts:
        """The same activations, their tokens in another shape."""
        indices = None if self.indices is None else self.indices.view(*batch, -1)
        window = self.window
        if window is not None and window.counts is not None:
            window = replace(window, counts=window.counts.view(*batch))
        return replace(self, values=self.values.view(*batch, -1), indices=indices, window=window)

    def detach(self) -> Acts:
        """The same activations, without their history."""
        return replace(self, values=self.values.detach())

    def to(self, device: torch.device | str) -> Acts:
        """The same activations on another device."""
        indices = None if self.indices is None else self.indices.to(device)
        return Acts(self.values.to(device), self.n_features, indices)
