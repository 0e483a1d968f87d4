"""Matryoshka: the first features reconstruct alone, the first and some more reconstruct better, and so on.

    prefixes m_1 < ... < m_J = F        recon_j = acts[:m_j] @ W_dec[:m_j] + b_dec
    value = sum_j w_j sum_tokens ||target - recon_j||^2, per variance of the target or per token

Early features have to be general, so that general ones are not split among, or absorbed by, special ones. Features
are selected once, over all F. It takes the place of the reconstruction term, and AuxK acts on what the last level
leaves out.

Every level adds its own features to the level before, so all levels cost one decode, and their gradient one transposed
decode, whose input for level j sums over the levels from j on.

Source: Bussmann, Nabeshima, Karvonen, Nanda 2025 (arXiv:2503.17547), section 3. Shapes: F features.
"""

from __future__ import annotations

from typing import ClassVar, Literal, Self

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor

from monoscope import ops
from monoscope.core.acts import Acts
from monoscope.dictionaries.objective import Term, token_mean, total_variance
from monoscope.dictionaries.step import Step

SHARES = (1 / 32, 3 / 32, 7 / 32, 15 / 32, 1)


class Matryoshka(Term):
    """``sum_j w_j`` times the error of the first m_j features alone."""

    reconstructs: ClassVar[bool] = True
    kind: Literal["matryoshka"] = "matryoshka"
    prefixes: tuple[int, ...] | None = Field(
        default=None, description="numbers of features; None: F times 1/32, 3/32, 7/32, 15/32, 1"
    )
    level_weights: tuple[float, ...] | None = Field(default=None, description="w_j; None: 1 each")
    units: Literal["fvu", "squared_error"] = Field(
        default="fvu", description="what a level's error is: the variance unexplained, or the squared error of a token"
    )

    @model_validator(mode="after")
    def _levels_rise(self) -> Self:
        if self.prefixes is not None and (
            self.prefixes[:1] < (1,) or any(b <= a for a, b in zip(self.prefixes, self.prefixes[1:], strict=False))
        ):
            raise ValueError(f"prefixes rise from at least 1, found {list(self.prefixes)}")
        if self.level_weights is not None and len(self.level_weights) != len(self.prefixes or SHARES):
            n = len(self.prefixes or SHARES)
            raise ValueError(f"level_weights holds {len(self.level_weights)} numbers for {n} prefixes")
        return self

    @property
    def stands_for(self) -> str:
        """The term whose units it has."""
        return self.units

    def check_size(self, n_features: int) -> None:
        """Raise ValueError where the last prefix is not the whole dictionary."""
        if self.prefixes is not None and self.prefixes[-1] != n_features:
            raise ValueError(f"the last of prefixes is all {n_features} features, found {self.prefixes[-1]}")
        if self.prefixes is None and n_features < 32:
            raise ValueError(
                f"{n_features} features are too few for the usual prefixes; name them, as in prefixes = [4, 16]"
            )

    def ends(self, n_features: int) -> tuple[int, ...]:
        """The prefixes of a dictionary."""
        return self.prefixes or tuple(round(share * n_features) for share in SHARES)

    def value(self, step: Step) -> Float[Tensor, ""]:
        """The term for one step."""
        assert step.target is not None, "terms compare a reconstruction with its target"
        ends = self.ends(ops.feature_count(step.acts.n_features))
        own = ops.own_ends(ends, step.acts.n_features)
        silent = Acts(step.acts.values.new_zeros(*step.acts.values.shape[:-1], 1), 1)
        recon = step.dictionary.decode(silent, step.counted(step.x))
        total, start = recon.new_zeros(()), 0
        for part, end, weight in zip(step.acts.split(own), own, self.level_weights or (1.0,) * len(ends), strict=True):
            recon = recon + step.decode_of(part, torch.arange(start, end, device=recon.device))
            total = total + weight * ops.squared_distance(recon, step.target)
            start = end
        if self.units == "fvu":
            return ops.over_tokens(total) / total_variance(step.target, step.n_tokens)
        return token_mean(step, total)
