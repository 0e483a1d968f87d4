"""Operators: several changes of a dictionary's features at once, all read from the same activations.

    a'_i = a_i + s (add)    c (clamp)    max(a_i, c) (floor)    min(a_i, c) (cap)    g a_i (scale; ablate is g = 0)
    x'   = x + sum_i (a'_i - a_i) D_i

so their order does not matter, the reconstruction's error is kept, and an operator that changes no activation changes
nothing. What is added may also be a length of the feature's direction ``u_i = D_i / |D_i|`` over all write sites: a
fixed one (``distance``), or a share of the norm of what stands at each token (``share``). A dictionary that is only
added to is not encoded. See ``interventions.edits`` for ``skip_first`` and ``model``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from monoscope.core.errors import MismatchError, UserError
from monoscope.dictionaries import Dictionary
from monoscope.interventions.edits import Edits, indices_of, kept, where_trained
from monoscope.interventions.passage import Seen, passing, writes_of
from monoscope.models import Edit

Kind = Literal["add", "distance", "share", "clamp", "floor", "cap", "scale"]
WITHOUT_ENCODER = ("add", "distance", "share")


@dataclass(frozen=True, slots=True)
class Operator:
    """One change of one feature. ``value`` is an activation, a length, a share or a factor, as ``kind`` says."""

    feature: int
    kind: Kind
    value: float

    def change(
        self, acts: Float[Tensor, "*batch"], norm: Float[Tensor, "*batch"], length: float
    ) -> Float[Tensor, "*batch"]:
        """``a' - a``, from activations, the norm of what stands at each token, and the length of the direction."""
        if self.kind == "add":
            return torch.full_like(acts, self.value)
        if self.kind == "distance":
            return torch.full_like(acts, self.value / max(length, 1e-12))
        if self.kind == "share":
            return (self.value / max(length, 1e-12)) * norm.to(acts)
        if self.kind == "clamp":
            return self.value - acts
        if self.kind == "floor":
            return acts.clamp_min(self.value) - acts
        if self.kind == "cap":
            return acts.clamp_max(self.value) - acts
        return (self.value - 1) * acts


def operate(dictionary: Dictionary, operators: Sequence[Operator], *, skip_first: int = 1, model: str = "") -> Edits:
    """Edits that apply all operators. Raises UserError for two on one feature, or a feature that does not exist."""
    if not operators:
        return ()
    named = [operator.feature for operator in operators]
    if twice := [feature for feature in named if named.count(feature) > 1]:
        raise UserError(f"feature {twice[0]} is changed twice; one change of a feature says all")
    features = indices_of(dictionary, named)
    model, writes = writes_of(dictionary, model)
    rows = [dictionary.decoder_rows(site, features) for site in writes]
    known = [row for row in rows if row is not None]
    if len(known) < len(rows):
        if any(operator.kind in ("distance", "share") for operator in operators):
            raise MismatchError(
                f"features of a {type(dictionary).__name__} are maps, and have no direction of a length"
            )
        lengths = [1.0] * len(named)
    else:
        lengths = torch.cat(known, dim=1).norm(dim=1).tolist()
        if all(operator.kind in WITHOUT_ENCODER for operator in operators):
            return tuple(
                Edit(site.of(""), where_trained(_adder(operators, lengths, row), skip_first))
                for site, row in zip(writes, known, strict=True)
            )

    def rewrite(seen: Seen, target: Tensor) -> Tensor:
        acts, norm = seen.of(features), target.norm(dim=-1)
        norm = norm if acts.ndim == target.ndim else norm[..., None]  # a gate at each site
        each = zip(operators, acts.unbind(-1), lengths, strict=True)
        change = torch.stack([operator.change(own, norm.expand_as(own), length) for operator, own, length in each], -1)
        return kept(target + seen.contribution(change, features), target, skip_first)

    return passing(dictionary, rewrite, model=model)


def _adder(
    operators: Sequence[Operator], lengths: Sequence[float], rows: Float[Tensor, "n d"]
) -> Callable[[Tensor], Tensor]:
    def add(x: Tensor) -> Tensor:
        value = x.to(rows.dtype)
        norm = value.norm(dim=-1)
        for operator, length, row in zip(operators, lengths, rows, strict=True):
            value = value + operator.change(norm, norm, length)[..., None] * row
        return value

    return add
