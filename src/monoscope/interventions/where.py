"""Where: which tokens an edit touches, by their place in the prompt or among the generated ones; and what it did there.

A token is named by what it is, never by the pass in which it is read, so cached generation and whole rows select the
same ones. ``generation = (0,)`` is the place of the first generated token, whose pass predicts the second: to change
the first generated token, select ``prompt = (-1,)``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from monoscope.core.errors import UserError
from monoscope.models import Edit, current_positions

Places = Literal["all"] | tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Where:
    """Tokens, counted from 0.

    prompt: places in the prompt, negative ones from its end
    generation: places among the generated tokens
    """

    prompt: Places = "all"
    generation: Places = "all"

    def check(self, n_prompt: int) -> None:
        """Raises UserError for a place outside a prompt of ``n_prompt`` tokens, or where nothing is selected."""
        for place in self.prompt if self.prompt != "all" else ():
            if not -n_prompt <= place < n_prompt:
                raise UserError(f"the prompt has {n_prompt} tokens, places 0 to {n_prompt - 1}; found {place}")
        for place in self.generation if self.generation != "all" else ():
            if place < 0:
                raise UserError(f"generated tokens are counted from 0, found {place}")
        if not self.prompt and not self.generation:
            raise UserError("no token is selected: name places in the prompt, among the generated tokens, or both")

    def mask(self, positions: Int[Tensor, "batch pos"], n_prompt: int) -> Bool[Tensor, "batch pos"]:
        """Which tokens at given positions are selected."""
        in_prompt = positions < n_prompt
        prompt = self.prompt if self.prompt == "all" else tuple(i + n_prompt if i < 0 else i for i in self.prompt)
        generation = self.generation if self.generation == "all" else tuple(n_prompt + i for i in self.generation)
        return (in_prompt & _at(positions, prompt)) | (~in_prompt & _at(positions, generation))


def _at(positions: Int[Tensor, "batch pos"], places: Places) -> Bool[Tensor, "batch pos"]:
    if places == "all":
        return torch.ones_like(positions, dtype=torch.bool)
    return torch.isin(positions, torch.tensor(places, dtype=positions.dtype, device=positions.device))


def where(edits: Sequence[Edit], selection: Where, n_prompt: int) -> tuple[Edit, ...]:
    """The same edits at selected tokens alone, of rows whose first ``n_prompt`` tokens are the prompt."""
    selection.check(n_prompt)

    def limited(edit: Edit) -> Edit:
        def fn(x: Tensor) -> Tensor | None:
            new, positions = edit.fn(x), current_positions()
            if new is None or positions is None:
                return new
            return torch.where(selection.mask(positions, n_prompt).to(x.device)[..., None], new.to(x.dtype), x)

        return Edit(edit.site, fn)

    return tuple(map(limited, edits))


@dataclass(slots=True)
class Change:
    """What one edit did in one pass: the change of each token at a site, relative to the norm of what stood there."""

    site: str
    relative: list[float]

    @property
    def n_changed(self) -> int:
        """Tokens that were changed at all."""
        return sum(value > 0 for value in self.relative)


@dataclass(slots=True)
class Trace:
    """What edits really did, pass by pass, on rows of one."""

    n_passes: int = 0
    changes: list[Change] = field(default_factory=list)

    def taken(self) -> list[Change]:
        """What was noted since the last time this was asked."""
        changes, self.changes = self.changes, []
        return changes


def traced(edits: Sequence[Edit], trace: Trace) -> tuple[Edit, ...]:
    """The same edits, which note what they do. Raises UserError, in the pass, for a change that is not finite."""

    def noted(edit: Edit) -> Edit:
        def fn(x: Tensor) -> Tensor | None:
            new = edit.fn(x)
            if new is None:
                return None
            before = x[0].float()
            relative = (new[0].float() - before).norm(dim=-1) / before.norm(dim=-1).clamp_min(1e-12)
            if not bool(torch.isfinite(relative).all()):
                raise UserError(f"the edit at {edit.site} gives values that are not finite; lower its strength")
            trace.n_passes += 1
            trace.changes.append(Change(str(edit.site), relative.tolist()))
            return new

        return Edit(edit.site, fn)

    return tuple(map(noted, edits))
