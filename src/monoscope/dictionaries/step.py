"""Step: what one pass through a dictionary yields, and every loss term sees."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from monoscope import ops
from monoscope.core.acts import Acts

if TYPE_CHECKING:
    from monoscope.dictionaries.base import Dictionary


@runtime_checkable
class Downstream(Protocol):
    """The rest of the language model behind a dictionary's write sites, on the tokens of one batch."""

    def divergence(self, recon: Float[Tensor, "tokens d"]) -> Float[Tensor, ""]:
        """``mean KL(clean, spliced)`` of the model's predictions, in nats."""
        ...


@dataclass(frozen=True, slots=True)
class Step:
    """One pass over a batch. With several sites there is an axis of them before the width.

    x: ``[*batch, (site,) d]`` read, whole; mask: ``[*batch]`` which of its tokens count, None if all do
    target: ``[*tokens, (site,) d_out]``, None where a transcoder was given none; acts; recon: ``[*tokens, (site,)
    d_out]``; all three of the tokens that count
    is_dead: ``[F]`` features that have not fired for long, where a trainer keeps count
    most_dead: no fewer than those, where to count them would wait for a device
    downstream: what the model makes of a reconstruction, where the recipe asks
    n_all_tokens: tokens that count on all processes, where several read a batch together
    """

    dictionary: Dictionary
    x: Float[Tensor, "*batch d"]
    target: Float[Tensor, "*tokens d_out"] | None
    acts: Acts
    recon: Float[Tensor, "*tokens d_out"]
    mask: Bool[Tensor, "*batch"] | None = None
    is_dead: Bool[Tensor, " F"] | None = None
    most_dead: int | None = None
    downstream: Downstream | None = None
    n_all_tokens: int | None = None

    def counted(self, values: Shaped[Tensor, "*batch n"]) -> Shaped[Tensor, "*tokens n"]:
        """The values of tokens that count."""
        return values if self.mask is None else values[self.mask]

    @property
    def dead(self) -> tuple[Int[Tensor, " n"], Bool[Tensor, " n"] | None]:
        """Dead features by number, and which of these are dead indeed; None where all are."""
        assert self.is_dead is not None, "nobody keeps count of dead features"
        if self.most_dead is None:
            return self.is_dead.nonzero().squeeze(1), None
        dead = torch.nonzero_static(self.is_dead, size=self.most_dead, fill_value=0).squeeze(1)
        return dead, torch.arange(self.most_dead, device=dead.device) < self.is_dead.sum()

    @property
    def n_tokens(self) -> int:
        """Tokens that count, of this process."""
        return self.recon.shape[:-1].numel() // len(self.dictionary.writes)

    @property
    def pre(self) -> Float[Tensor, "*tokens F"]:
        """All pre-activations, computed on each request: training with hard selection never needs them whole."""
        return self.counted(self.dictionary.preacts(self.x))

    @property
    def score(self) -> Float[Tensor, "*tokens F"]:
        """What decides which entries survive: pre-activations, times decoder norms where the wiring says so."""
        norm = self.dictionary.score_norm()
        return self.pre if norm is None else self.pre * norm

    @property
    def error(self) -> Float[Tensor, "*tokens d_out"]:
        """What the reconstruction leaves out: ``target - recon``. Raises ValueError without a target."""
        return self._target - self.recon

    @property
    def squared_error(self) -> Float[Tensor, ""]:
        """``sum (target - recon)^2``, over the tokens of this process. Raises ValueError without a target."""
        return ops.squared_distance(self.recon, self._target)

    @property
    def _target(self) -> Float[Tensor, "*tokens d_out"]:
        if self.target is None:
            raise ValueError("there is no target to compare with; pass dictionary(x, target)")
        return self.target

    def preacts_of(self, features: Int[Tensor, " n"]) -> Float[Tensor, "*tokens n"]:
        """Pre-activations of chosen features, with gradients to their own weights alone."""
        return self.counted(self.dictionary.preacts_of(self.x, features))

    def largest_of(self, features: Int[Tensor, " n"], k: int) -> Acts:
        """The k largest pre-activations of chosen features on each token, those that are positive."""
        acts = self.dictionary.largest_of(self.x, features, k)
        indices = None if acts.indices is None else self.counted(acts.indices)
        return Acts(self.counted(acts.values), acts.n_features, indices)

    def decode_of(self, acts: Acts, features: Int[Tensor, " n"]) -> Float[Tensor, "*tokens d_out"]:
        """What chosen features reconstruct, with gradients to their own weights alone and no bias."""
        return self.dictionary.decode_of(acts, self.counted(self.x), features)
