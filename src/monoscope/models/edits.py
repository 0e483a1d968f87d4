"""Edits: changes at sites of a model, and where in a text those that need it are."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass

from jaxtyping import Int
from torch import Tensor

from monoscope.core.site import Site


@dataclass(frozen=True)
class Edit:
    """A change at a site: x [batch, pos, d] becomes ``fn(x)``, of the same shape; None leaves x as it is.

    Under cached generation x holds the new tokens only, and ``current_positions()`` says where they are.
    """

    site: Site
    fn: Callable[[Tensor], Tensor | None]

    @staticmethod
    def at(site: Site | str, fn: Callable[[Tensor], Tensor | None]) -> Edit:
        """An edit at a site given by name."""
        return Edit(Site.parse(site), fn)


under_way: ContextVar[Tensor | None] = ContextVar("positions", default=None)


def current_positions() -> Int[Tensor, "batch pos"] | None:
    """Position in its row of each token of the forward pass under way, padding not counted: for edits that need it.

    None where no pass over text is under way.
    """
    return under_way.get()
