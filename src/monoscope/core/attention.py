"""Attention of one layer, as plain values and weights: one layout for every architecture.

    q = rotate(norm(x @ W_Q + b_Q))    k = rotate(norm(x @ W_K + b_K))    v = x @ W_V + b_V         head by head
    pattern = softmax(cap(q . k / scale))  over the sources a token may attend to
    out = sum over heads of (pattern @ v) @ W_O, plus b_O

Rotation turns pair j of a head's coordinates by the angle ``position * frequencies[j]`` (Su et al. 2021,
arXiv:2104.09864). Norms of queries and keys: Henry et al. 2020 (arXiv:2010.04245). Softcap: ``c tanh(score / c)``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, Self

from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor

from monoscope.core.config import Config


class Rotary(Config):
    """Which coordinates of queries and keys are turned with position, and how fast.

    The model's frequencies already hold whatever scaling its context was stretched by. Coordinates past the last pair
    stay as they are.
    """

    frequencies: tuple[float, ...] = Field(min_length=1, description="radians per position, one for each pair")
    pairs: Literal["halves", "adjacent"] = Field(
        default="halves", description="pair j is (j, j + n_pairs), or (2j, 2j + 1)"
    )
    gain: float = Field(default=1.0, gt=0, description="factor of the turned coordinates (YaRN)")


class AttentionForm(Config):
    """How queries and keys become a pattern: all of an attention layer but its weights."""

    d_head: int = Field(ge=1, description="width of a head's queries and keys")
    scale: float = Field(gt=0, description="what scores are divided by, usually sqrt(d_head)")
    bias: bool = Field(default=False, description="whether queries and keys have biases")
    norm: Literal["none", "rms", "layer"] = Field(default="none", description="of each head's queries and keys")
    norm_eps: float = Field(default=1e-6, ge=0)
    rotary: Rotary | None = None
    is_causal: bool = True
    window: int | None = Field(default=None, ge=1, description="sources seen, the token itself included; None: all")
    softcap: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _pairs_fit(self) -> Self:
        if self.rotary is not None and 2 * len(self.rotary.frequencies) > self.d_head:
            raise ValueError(
                f"rotary turns {len(self.rotary.frequencies)} pairs, more than heads of width {self.d_head} have"
            )
        return self


@dataclass(frozen=True, slots=True)
class AttentionWeights:
    """Weights of one attention layer, every head with keys and values of its own.

    W_Q, W_K, W_V: ``[head, d, d_head]``; keys and values that heads share are repeated
    W_O: ``[head, d_head, d]``; an elementwise gain behind the output projection is part of it, and of b_O
    b_Q, b_K, b_V: ``[head, d_head]``; b_O: ``[d]``; zero where the model has none
    q_norm, k_norm: weight and bias of the norm of queries and of keys, each ``[d_head]``; None without a norm
    has_norm_behind: whether the model divides the heads' sum by its root mean square before adding it to the stream:
        then ``attn_out`` is that sum only up to one factor for each token
    """

    form: AttentionForm
    W_Q: Float[Tensor, "head d d_head"]
    W_K: Float[Tensor, "head d d_head"]
    W_V: Float[Tensor, "head d d_value"]
    W_O: Float[Tensor, "head d_value d"]
    b_Q: Float[Tensor, "head d_head"]
    b_K: Float[Tensor, "head d_head"]
    b_V: Float[Tensor, "head d_value"]
    b_O: Float[Tensor, " d"]
    q_norm: tuple[Float[Tensor, " d_head"], Float[Tensor, " d_head"]] | None = None
    k_norm: tuple[Float[Tensor, " d_head"], Float[Tensor, " d_head"]] | None = None
    has_norm_behind: bool = False

    @property
    def n_heads(self) -> int:
        """Number of query heads."""
        return self.W_Q.shape[0]

    def heads(self, *numbers: int) -> AttentionWeights:
        """Some of the heads alone, without the output bias, which belongs to no head."""
        chosen = list(numbers)
        parts = {name: getattr(self, name)[chosen] for name in ("W_Q", "W_K", "W_V", "W_O", "b_Q", "b_K", "b_V")}
        return replace(self, **parts, b_O=self.b_O * 0)
