"""Activations that are already there: a tensor, an array, or a memory-mapped file of them."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from monoscope.core.batch import ActivationBatch
from monoscope.core.errors import DataError, NotFinite
from monoscope.core.site import Site
from monoscope.harvest.source import (
    ActivationSource,
    check_few_not_finite,
    check_same,
    first_not_finite,
    part_rows,
)

_log = logging.getLogger("monoscope.harvest")


class ArraySource(ActivationSource):
    """Rows of one array, as flat batches. See ``from_array``."""

    def __init__(
        self,
        x: Tensor | np.ndarray,
        site: Site,
        seed: int | None,
        batch_tokens: int,
        dtype: torch.dtype,
        skip_not_finite: bool,
    ) -> None:
        assert batch_tokens >= 1, f"a batch holds at least one row, found {batch_tokens}"
        if x.ndim != 2 or 0 in x.shape:
            raise DataError(f"activations are an array [n, d] that is not empty, found shape {list(x.shape)}")
        self.x, self.site, self.seed, self.batch_tokens, self.dtype = x, site, seed, batch_tokens, dtype
        self.sites, self.widths, self.n_tokens = (site,), {site: x.shape[1]}, len(x)
        self.skip_not_finite = skip_not_finite
        self._row, self._pass, self._left_out = 0, 0, 0

    @property
    def info(self) -> dict[str, Any]:
        """Provenance: an array says nothing but its shape."""
        excluded = {"excluded": {"not_finite": self._left_out}} if self.skip_not_finite else {}
        return {"kind": "array", "shape": list(self.x.shape), "shuffle_seed": self.seed, **excluded}

    def __iter__(self) -> Iterator[ActivationBatch]:
        """Batches of ``batch_tokens`` rows; the last of a pass may be smaller."""
        order = self._order()
        while self._row < len(self.x):
            self._left_out = self._left_out if self._row else 0
            end = min(self._row + self.batch_tokens, len(self.x))
            rows = slice(self._row, end) if order is None else order[self._row : end]
            batch = ActivationBatch({self.site: self._read(rows)})
            self._row = end
            yield batch
        self._row, self._pass = 0, self._pass + 1

    def state_dict(self) -> dict[str, Any]:
        """The pass, and the row in it."""
        position = {"pass": self._pass, "row": self._row, "left_out": self._left_out}
        return {"shape": list(self.x.shape), "seed": self.seed, **position}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Move to a position."""
        check_same(state, shape=list(self.x.shape), seed=self.seed)
        self._pass, self._row, self._left_out = state["pass"], state["row"], state.get("left_out", 0)

    def part(self, number: int, of: int) -> ArraySource:
        """One of several consecutive parts."""
        rows = part_rows(len(self.x), self.batch_tokens, number, of)
        own = ArraySource(self.x[rows], self.site, self.seed, self.batch_tokens, self.dtype, self.skip_not_finite)
        own.first_row = self.first_row + rows.start
        return own

    def _order(self) -> np.ndarray | None:
        if self.seed is None:
            return None
        return np.random.default_rng([self.seed, self._pass]).permutation(len(self.x))

    def _read(self, rows: slice | np.ndarray) -> Tensor:
        if isinstance(self.x, Tensor):
            x = self.x[rows if isinstance(rows, slice) else torch.from_numpy(rows).to(self.x.device)]
        else:
            x = torch.from_numpy(np.array(self.x[rows], order="C"))
        x = x.to(self.dtype)
        if (bad := first_not_finite(x)) and self.skip_not_finite:
            kept = torch.isfinite(x).all(-1)
            self._left_out += int((~kept).sum())
            _log.warning("%d rows of the array are NaN or infinite, and left out so far", self._left_out)
            check_few_not_finite(self._left_out, self._row + len(x))
            return x[kept]
        if bad:
            row = rows.start + bad[0] if isinstance(rows, slice) else rows[bad[0]]
            raise NotFinite(
                f"row {row} of the array is NaN or infinite; remove such rows, or find where they come from"
            )
        return x


def from_array(
    x: Tensor | np.ndarray,
    site: Site | str = "x:out",
    *,
    seed: int | None = None,
    batch_tokens: int = 4096,
    dtype: torch.dtype = torch.float32,
    skip_not_finite: bool = False,
) -> ActivationSource:
    """Activations ``[n, d]`` of a tensor, NumPy array or memory map, in batches ``[batch_tokens, d]`` of ``dtype``.

    Rows come in their own order, or with a ``seed`` in a random one, new in every pass. Raises DataError for an array
    of another shape, and NotFinite for the first row that holds NaN or infinity; with ``skip_not_finite`` such rows are
    left out, while they are few.
    """
    return ArraySource(x, Site.parse(site), seed, batch_tokens, dtype, skip_not_finite)
