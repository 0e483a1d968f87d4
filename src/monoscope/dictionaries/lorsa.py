"""Lorsa, low-rank sparse attention: an attention layer as many features, each of which reads and writes one direction.

    pattern[h] = softmax over the sources s <= t of  q[h, t] . k[h, s] / scale       of H query-key heads, see attention
    v[s, f] = x[s] @ W_enc[:, f] + b_enc[f]
    pre[t, f] = sum_s pattern[h(f), t, s] v[s, f]            h(f) = f // (F / H): one head to a group of features
    acts = phi(pre)                recon = acts @ W_dec + b_dec

What source s contributes to a feature at t is ``pattern[h(f), t, s] v[s, f]``; the contributions sum to ``pre``, biases
included, since a pattern sums to 1. One fused call with values of width F / H gives ``pre``: no ``F x T x T`` tensor
exists.

Source: He et al. 2025 (arXiv:2504.20938). Shapes: S sequences of T tokens, F features in H groups, e = d_head.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from typing import ClassVar, Literal, Self

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field, model_validator
from torch import Tensor, nn

from monoscope import ops
from monoscope.core.acts import Acts
from monoscope.core.attention import AttentionForm
from monoscope.core.errors import ConfigError
from monoscope.core.site import Site
from monoscope.dictionaries.attention import attended, pattern, projected
from monoscope.dictionaries.base import Dictionary, Wiring
from monoscope.dictionaries.function import ActivationFunction
from monoscope.dictionaries.initialize import Initialization, Origin, Sample
from monoscope.dictionaries.lorsa_start import initialize_lorsa_


class Lorsa(Dictionary):
    """Low-rank sparse attention.

    Shapes: W_Q, W_K [H, d_in, e]; b_Q, b_K, q_norm, k_norm and their biases [H, e], None where the form has none;
    W_enc [d_in, F], stored feature by feature; b_enc [F]; W_dec [F, d_out]; b_dec [d_out].
    """

    per_token: ClassVar[bool] = False
    # All features of a group move with its pattern: at the others' rate, it moves faster than they can follow.
    rates: ClassVar[Mapping[str, float]] = dict.fromkeys(("W_Q", "W_K", "b_Q", "b_K", "q_norm", "k_norm"), 0.1)

    class Config(Wiring):
        """Settings of Lorsa; heads and form default to those of the model whose attention it decomposes."""

        refuses_terms: ClassVar[Mapping[str, str]] = {
            "matryoshka": "its first features are those of its first heads, which cannot attend for the others"
        }

        kind: Literal["lorsa"] = "lorsa"
        n_features: int = Field(default=3072, ge=1)
        n_heads: int | None = Field(
            default=None,
            ge=1,
            description="query-key heads; None: the model's, each repeated while its features outnumber its width",
        )
        attention: AttentionForm | None = Field(default=None, description="None: the form of the model's attention")
        scale_by_decoder_norm: bool = True

        @model_validator(mode="after")
        def _groups_are_whole(self) -> Self:
            if self.n_heads is not None and self.n_features % self.n_heads:
                raise ValueError(f"{self.n_features} features do not form {self.n_heads} groups of one size")
            return self

        @property
        def encodes_linearly(self) -> bool:
            """No: patterns of attention are not linear in what they attend to."""
            return False

        @property
        def needs_model(self) -> bool:
            """Whether the model has to say which form its attention has, and how many heads."""
            return self.n_heads is None or self.attention is None

        def completed(self, origin: Origin) -> Self:
            """With heads and form of the model's attention, where they are open. Raises ConfigError without one."""
            weights = origin.attention
            if not self.needs_model:
                return self
            if weights is None:
                raise ConfigError(
                    "lorsa takes its heads from the attention it decomposes: reads = ['L.attn_in'] and writes = "
                    "['L.attn_out'] of one layer, with its model; without one, set wiring.n_heads and wiring.attention"
                )
            if self.n_features % weights.n_heads:
                fits = max(1, round(self.n_features / weights.n_heads)) * weights.n_heads
                raise ConfigError(
                    f"{self.n_features} features do not form groups for the {weights.n_heads} heads of the model; "
                    f"{fits} would"
                )
            each = self.n_features // weights.n_heads
            repeats = max(
                n for n in range(1, each + 1) if each % n == 0 and (n == 1 or each // n >= weights.form.d_head)
            )
            return self.model_copy(
                update={
                    "n_heads": self.n_heads or weights.n_heads * repeats,
                    "attention": self.attention or weights.form,
                }
            )

        def build(
            self,
            function: ActivationFunction.Config,
            reads: tuple[Site, ...],
            writes: tuple[Site, ...],
            widths: Mapping[Site, int],
        ) -> Lorsa:
            """An uninitialized Lorsa."""
            _check_sites(reads, writes)
            if self.n_heads is None or self.attention is None:
                raise ConfigError("lorsa needs wiring.n_heads and wiring.attention, or a model to take them from")
            return Lorsa(self, function.build(self.n_features), reads, writes, widths)

    def __init__(
        self,
        config: Config,
        activation: ActivationFunction,
        reads: tuple[Site, ...],
        writes: tuple[Site, ...],
        widths: Mapping[Site, int],
    ) -> None:
        super().__init__()
        assert config.attention is not None, "build() refuses a config without the form of its attention"
        assert config.n_heads is not None, "build() refuses a config without a number of heads"
        self.config, self.activation, self.reads, self.writes = config, activation, reads, writes
        self.form, self.n_heads = config.attention, config.n_heads
        self.widths = {site: widths[site] for site in {*reads, *writes}}
        self.d_in, self.d_out, self.n_features = widths[reads[0]], widths[writes[0]], config.n_features
        self.feature_axes = {"W_enc": 1, "b_enc": 0, "W_dec": 0}
        heads = ("W_Q", "W_K", "b_Q", "b_K", "q_norm", "k_norm", "q_norm_bias", "k_norm_bias")
        self.group_axes = dict.fromkeys(heads, 0)
        self.acts_scale, self.provenance = None, {}
        self.encode_dtype = None
        shape = (self.n_heads, self.form.d_head)

        def each_head(present: bool, value: float) -> nn.Parameter | None:
            return nn.Parameter(torch.full(shape, value)) if present else None

        self.W_Q = nn.Parameter(torch.zeros(self.n_heads, self.d_in, self.form.d_head))
        self.W_K = nn.Parameter(torch.zeros(self.n_heads, self.d_in, self.form.d_head))
        self.b_Q, self.b_K = (each_head(self.form.bias, 0.0) for _ in "QK")
        self.q_norm, self.k_norm = (each_head(self.form.norm != "none", 1.0) for _ in "QK")
        self.q_norm_bias, self.k_norm_bias = (each_head(self.form.norm == "layer", 0.0) for _ in "QK")
        self.W_enc = nn.Parameter(torch.zeros(self.n_features, self.d_in).T)
        self.b_enc = nn.Parameter(torch.zeros(self.n_features))
        self.W_dec = nn.Parameter(torch.zeros(self.n_features, self.d_out))
        self.b_dec = nn.Parameter(torch.zeros(self.d_out))

    def share_(self, of: int) -> None:
        """Take the sizes of one of several equal shares of the heads, with their features."""
        super().share_(of)
        self.n_heads //= of

    @property
    def feature_blocks(self) -> tuple[int, ...]:
        """Features may change places inside their head's group, and inside the function's blocks."""
        group, block = self.n_features // self.n_heads, self.activation.block or self.n_features
        edges = sorted({*range(0, self.n_features, group), *range(0, self.n_features, block), self.n_features})
        return tuple(b - a for a, b in pairwise(edges))

    def queries_keys(
        self, x: Float[Tensor, "S T d"], real: Bool[Tensor, "S T"] | None = None
    ) -> tuple[Float[Tensor, "S H T e"], Float[Tensor, "S H T e"]]:
        """Queries and keys of every head, as scores compare them."""
        q_norm, k_norm = (self.q_norm, self.q_norm_bias), (self.k_norm, self.k_norm_bias)
        q = projected(x, self.W_Q, self.b_Q, q_norm, self.form, real)
        return q, projected(x, self.W_K, self.b_K, k_norm, self.form, real)

    def preacts(
        self, x: Float[Tensor, "*batch d"], real: Bool[Tensor, "*batch"] | None = None
    ) -> Float[Tensor, "*batch F"]:
        """Pre-activations of sequences, ``[sequence, pos, d]`` or one ``[pos, d]``.

        ``real`` is False at padding, which is never attended to; without it no token is padding. Padding behind a
        sequence changes nothing under causal attention, so only padding in front needs to be named.
        """
        rows, padding = _rows(x, real)
        q, k = self.queries_keys(rows, padding)
        v = (rows @ self.W_enc + self.b_enc).unflatten(-1, (self.n_heads, -1)).transpose(1, 2)
        return attended(q, k, v, self.form, padding).transpose(1, 2).reshape(*x.shape[:-1], -1)

    def patterns(
        self, x: Float[Tensor, "*batch d"], heads: Int[Tensor, " n"], real: Bool[Tensor, "*batch"] | None = None
    ) -> Float[Tensor, "S n T T"]:
        """Attention weights of some heads: of the token at ``t`` (third axis) to the source ``s`` (last)."""
        rows, padding = _rows(x, real)
        q, k = self.queries_keys(rows, padding)
        return pattern(q[:, heads], k[:, heads], self.form, padding)

    def head_of(self, features: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
        """The query-key head of each feature."""
        return features // (self.n_features // self.n_heads)

    def contributions(
        self, x: Float[Tensor, "*batch d"], features: Int[Tensor, " n"], real: Bool[Tensor, "*batch"] | None = None
    ) -> Float[Tensor, "S n T T"]:
        """What each source contributes to each pre-activation of chosen features: the features' z-patterns.

        ``[sequence, feature, t, s]``; the sum over ``s`` is the pre-activation at ``t``. Besides the result there is
        one head's pattern at a time; of many features, ask for some at once.
        """
        rows, padding = _rows(x, real)
        q, k = self.queries_keys(rows, padding)
        v = rows @ self.W_enc[:, features] + self.b_enc[features]
        out = v.new_empty(len(rows), len(features), rows.shape[1], rows.shape[1])
        heads = self.head_of(features)
        for head in heads.unique():
            here = (heads == head).nonzero()[:, 0]
            weights = pattern(q[:, head, None], k[:, head, None], self.form, padding)
            out[:, here] = weights * v[..., here].transpose(1, 2)[:, :, None]
        return out

    def contributions_at(
        self,
        x: Float[Tensor, "S T d"],
        sequence: Int[Tensor, " n"],
        features: Int[Tensor, " n"],
        position: Int[Tensor, " n"],
    ) -> Float[Tensor, "n T"]:
        """What each source contributes to single pre-activations: rows of z-patterns; their sums are the values."""
        out, heads = x.new_zeros(len(features), x.shape[1]), self.head_of(features)
        for number in sequence.unique():
            q, k = self.queries_keys(x[number, None])
            for head in heads[sequence == number].unique():
                here = ((sequence == number) & (heads == head)).nonzero()[:, 0]
                weights = pattern(q[:, head, None], k[:, head, None], self.form, None)[0, 0, position[here]]
                own = features[here]
                out[here] = weights * (x[number] @ self.W_enc[:, own] + self.b_enc[own]).T
        return out

    def preacts_of(self, x: Float[Tensor, "*batch d"], features: Int[Tensor, " n"]) -> Float[Tensor, "*batch n"]:
        """Pre-activations of chosen features; queries and keys, which they share with others, get no gradient.

        The features of each head stand side by side, padded to the largest group, so that one fused call serves all.
        """
        if not len(features):
            return x.new_zeros(*x.shape[:-1], 0)
        rows, _ = _rows(x, None)
        heads, group = self.head_of(features).unique(return_inverse=True)
        order = group.argsort(stable=True)
        counts = group.bincount(minlength=len(heads))
        first = counts.cumsum(0) - counts
        slot = torch.empty_like(group)
        slot[order] = torch.arange(len(group), device=group.device) - first[group[order]]
        width = int(counts.max())
        with torch.no_grad():
            q, k = (t[:, heads] for t in self.queries_keys(rows))
        v = rows @ ops.rows_of(self.W_enc, features, 1) + self.b_enc[features]
        padded = v.new_zeros(*v.shape[:-1], len(heads) * width).index_copy(-1, group * width + slot, v)
        means = attended(q, k, padded.unflatten(-1, (len(heads), width)).transpose(1, 2), self.form, None)
        chosen = means.transpose(1, 2).flatten(-2)[..., group * width + slot]
        return chosen.reshape(*x.shape[:-1], -1)

    def decode_of(
        self, acts: Acts, x: Float[Tensor, "*batch d"], features: Int[Tensor, " n"]
    ) -> Float[Tensor, "*batch d_out"]:
        """What chosen features reconstruct: ``acts @ W_dec[features]``."""
        return ops.decode(acts, ops.rows_of(self.W_dec, features))

    def initialize_(self, config: Initialization, sample: Sample, generator: torch.Generator) -> None:
        """Set every parameter, from the model's attention or at random. See ``lorsa_start``."""
        initialize_lorsa_(self, config, sample, generator)

    def decoder_norm(self) -> Float[Tensor, " F"]:
        """Norm of each decoder row."""
        return self.W_dec.norm(dim=1)

    def score_norm(self) -> Float[Tensor, " F"] | None:
        """Decoder norms where the wiring scales scores by them."""
        return self.decoder_norm().detach() if self.config.scale_by_decoder_norm else None

    def encode(self, x: Float[Tensor, "*batch d"]) -> Acts:
        """Feature activations."""
        return self.activate(self.preacts(x))

    def decode(self, acts: Acts, x: Float[Tensor, "*batch d"] | None = None) -> Float[Tensor, "*batch d_out"]:
        """Reconstruction: ``acts @ W_dec + b_dec``."""
        return ops.decode(acts, self.W_dec) + self.b_dec

    def decoder_rows(self, site: Site, features: Int[Tensor, " n"] | None = None) -> Float[Tensor, "n d_out"]:
        """Decoder rows of (chosen) features."""
        return self.W_dec if features is None else self.W_dec[features]

    def encoder_rows(self) -> Float[Tensor, "F d_in"]:
        """Encoder columns of all features."""
        return self.W_enc.T

    @torch.no_grad()
    def rescale_(self, scale_in: Float[Tensor, " reads"], scale_out: Float[Tensor, " writes"]) -> None:
        """W_Q, W_K, W_enc *= s_in; W_dec, b_dec /= s_out; thresholds follow scores scaled by norms."""
        s_in, s_out = scale_in.item(), scale_out.item()
        for weight in (self.W_Q, self.W_K, self.W_enc):
            weight.mul_(s_in)
        self.W_dec.div_(s_out)
        self.b_dec.div_(s_out)
        if self.config.scale_by_decoder_norm:
            self.activation.rescale_scores_(1 / s_out)


def _rows(x: Tensor, real: Tensor | None) -> tuple[Float[Tensor, "S T d"], Bool[Tensor, "S T"] | None]:
    """Sequences on one axis; a single one, ``[pos, d]``, gets it."""
    rows = x.reshape(-1, *x.shape[-2:])
    return rows, None if real is None else real.reshape(rows.shape[:2])


def _check_sites(reads: tuple[Site, ...], writes: tuple[Site, ...]) -> None:
    """Raises ConfigError unless one attention layer's input is read, before or after a gain, and its output written."""
    right = "reads = ['L.attn_in'] and writes = ['L.attn_out'] of one layer"
    if len(reads) != 1 or len(writes) != 1:
        raise ConfigError(f"lorsa reads one site and writes one, found {len(reads)} and {len(writes)}; give {right}")
    (read,), (write,) = reads, writes
    is_input = read.kind in ("attn_in", "attn_normalized")
    if not is_input or write.kind != "attn_out" or replace(read, kind="attn_out") != write:
        raise ConfigError(f"lorsa decomposes one attention layer, found {read} and {write}; give {right}")
