"""MOLT: a sparse mixture of linear transforms in place of an MLP. A feature is a low-rank map, not a direction.

    pre = x @ W_enc + b_enc        acts = phi(pre)        recon = sum_f acts_f (x @ A_f @ B_f) + b_dec

    n_f = ||A_f B_f||_F = sqrt(trace((A_f^T A_f) (B_f B_f^T)))

Ranks come in groups: N transforms of the largest rank, 2 N of half of it, 4 N of a quarter, ... so that every group has
as many parameters. Features are numbered from the largest rank down; other ranks, in another order, are given one by
one. With one rank-1 group that reads a constant
coordinate alone it is a transcoder; with one transform of full rank that is always on, linear regression.

Source: Lindsey et al. 2025, *Sparse mixtures of linear transforms* (Transformer Circuits). Shapes: F transforms, d_in
and d_out widths; group g has n_g transforms of rank r_g.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn

from monoscope import ops
from monoscope.core.acts import Acts
from monoscope.core.errors import ConfigError
from monoscope.core.site import Site
from monoscope.dictionaries.base import Dictionary, Wiring
from monoscope.dictionaries.function import ActivationFunction
from monoscope.dictionaries.initialize import Initialization, Sample, calibrate, decoder_bias, unit_directions

STRENGTH = 0.1
"""Norm of one transform's output at the start, as a share of the target's: together, all of them stay well below it."""


class Molt(Dictionary):
    """Sparse mixture of linear transforms.

    Shapes: W_enc [d_in, F], stored feature by feature; b_enc [F]; A.g [n_g, d_in, r_g]; B.g [n_g, r_g, d_out]; b_dec
    [d_out].
    """

    class Config(Wiring):
        """Settings of a MOLT. ``n_features`` transforms share ``groups`` ranks: N, 2 N, 4 N, ... of each."""

        kind: Literal["molt"] = "molt"
        n_features: int = Field(default=62, ge=1, description="transforms in all: a multiple of 2^groups - 1")
        groups: int = Field(default=5, ge=1, description="ranks; each is half of the one before it")
        rank: int | None = Field(default=None, ge=1, description="the largest rank; None: about half the width")
        ranks: tuple[tuple[int, int], ...] | None = Field(
            default=None,
            description="rank and number of transforms of every group, as features are numbered; None: by groups",
        )
        scale_by_decoder_norm: bool = True

        @classmethod
        def defaults(cls) -> dict[str, Any]:
            """BatchTopK of few transforms, since each is a whole linear map."""
            return {"function": {"kind": "batch_topk", "k": 8}}

        def sizes(self, d_in: int, d_out: int) -> dict[int, int]:
            """How many transforms have each rank. Raises ConfigError where they cannot be had."""
            if self.ranks is not None:
                return self._sizes_given(self.ranks)
            shares, width = 2**self.groups - 1, min(d_in, d_out)
            if self.n_features % shares:
                nearest = max(1, round(self.n_features / shares)) * shares
                raise ConfigError(
                    f"{self.groups} rank groups of N, 2 N, 4 N, ... transforms need n_features to be a multiple of "
                    f"{shares}, found {self.n_features}; the nearest is {nearest}"
                )
            step = 2 ** (self.groups - 1)
            rank = self.rank or max(1, width // 2 // step) * step
            if rank > width or rank % step:
                raise ConfigError(
                    f"the largest of {self.groups} ranks, each half of the one before it, is a multiple of {step} and "
                    f"at most the width {width}; found {rank}; choose another rank or fewer groups"
                )
            return {rank >> g: self.n_features // shares << g for g in range(self.groups)}

        def _sizes_given(self, ranks: tuple[tuple[int, int], ...]) -> dict[int, int]:
            sizes = dict(ranks)
            if len(sizes) < len(ranks) or any(rank < 1 or n < 1 for rank, n in ranks):
                raise ConfigError(f"ranks are pairs (rank, number), every rank once, both at least 1; found {ranks}")
            if sum(sizes.values()) != self.n_features:
                raise ConfigError(f"ranks name {sum(sizes.values())} transforms, and n_features is {self.n_features}")
            return sizes

        def build(
            self,
            function: ActivationFunction.Config,
            reads: tuple[Site, ...],
            writes: tuple[Site, ...],
            widths: Mapping[Site, int],
        ) -> Molt:
            """An uninitialized MOLT."""
            if len(reads) != 1 or len(writes) != 1:
                raise ConfigError(
                    f"a MOLT reads one site and writes one, found {len(reads)} read, {len(writes)} written"
                )
            if reads == writes:
                raise ConfigError(
                    f"a MOLT that writes {reads[0]} from itself learns the identity; it stands for an MLP, as with "
                    "reads = ['L.mlp_in'] and writes = ['L.mlp_out']"
                )
            sizes = self.sizes(widths[reads[0]], widths[writes[0]])
            config = self if self.ranks else self.model_copy(update={"rank": max(sizes)})
            return Molt(config, sizes, function.build(self.n_features), reads, writes, widths)

    def __init__(
        self,
        config: Config,
        sizes: Mapping[int, int],
        activation: ActivationFunction,
        reads: tuple[Site, ...],
        writes: tuple[Site, ...],
        widths: Mapping[Site, int],
    ) -> None:
        super().__init__()
        self.config, self.activation, self.reads, self.writes = config, activation, reads, writes
        self.widths = {site: widths[site] for site in {*reads, *writes}}
        self.d_in, self.d_out, self.n_features = widths[reads[0]], widths[writes[0]], config.n_features
        self.acts_scale, self.provenance = None, {}
        self.encode_dtype = None
        ends = list(accumulate(sizes.values()))
        self.groups = [range(end - n, end) for end, n in zip(ends, sizes.values(), strict=True)]
        self.W_enc = nn.Parameter(torch.zeros(self.n_features, self.d_in).T)
        self.b_enc = nn.Parameter(torch.zeros(self.n_features))
        self.A = nn.ParameterList(torch.zeros(n, self.d_in, rank) for rank, n in sizes.items())
        self.B = nn.ParameterList(torch.zeros(n, rank, self.d_out) for rank, n in sizes.items())
        self.b_dec = nn.Parameter(torch.zeros(self.d_out))
        grouped = {f"{name}.{g}": 0 for name in ("A", "B") for g in range(len(sizes))}
        self.feature_axes = {"W_enc": 1, "b_enc": 0, **grouped}

    @torch.no_grad()
    def initialize_(self, config: Initialization, sample: Sample, generator: torch.Generator) -> None:
        """Random transforms, small beside the target, behind gates of which half are open."""
        if config.directions == "model":
            raise ConfigError("initialize.directions = 'model' starts a transcoder; a MOLT starts at random")
        x, target = sample.x, sample.target
        scale = 1.0 if config.encoder_scale == "search" else config.encoder_scale
        self.W_enc.copy_(scale * unit_directions(self.n_features, x, config, generator).T)
        self.b_enc.zero_()
        self.b_dec.copy_(decoder_bias(target, config.decoder_bias))
        size_in = x.pow(2).sum(1).mean().sqrt()
        size_out = (target - self.b_dec).pow(2).sum(1).mean().sqrt()
        for a, b in zip(self.A, self.B, strict=True):
            a.copy_(torch.randn(a.shape, generator=generator) / size_in)
            b.copy_(torch.randn(b.shape, generator=generator) * STRENGTH * size_out / (b[0].numel() ** 0.5))
        calibrate(self, x)

    def features_of(self, parameter: str) -> range:
        """Features that the feature axis of a parameter runs over: those of one rank for ``A`` and ``B``."""
        name, _, group = parameter.partition(".")
        return self.groups[int(group)] if name in ("A", "B") else range(self.n_features)

    def share_(self, of: int) -> None:
        """Take the sizes of one of several equal shares of every rank's transforms."""
        super().share_(of)
        self.groups = [range(group.start // of, group.stop // of) for group in self.groups]

    @property
    def feature_blocks(self) -> tuple[int, ...]:
        """Sizes of the rank groups, cut where the activation function has blocks of its own."""
        ends = {group.stop for group in self.groups}
        ends |= set(range(0, self.n_features, self.activation.block or self.n_features)) - {0}
        return tuple(end - start for start, end in zip([0, *sorted(ends)], sorted(ends), strict=False))

    def preacts(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch F"]:
        """Pre-activations: ``x @ W_enc + b_enc``."""
        return x @ self.W_enc + self.b_enc

    def preacts_of(self, x: Float[Tensor, "*batch d"], features: Int[Tensor, " n"]) -> Float[Tensor, "*batch n"]:
        """Pre-activations of chosen features."""
        return x @ ops.rows_of(self.W_enc, features, 1) + self.b_enc[features]

    def decoder_norm(self) -> Float[Tensor, " F"]:
        """Frobenius norm of each transform, by the trace formula: no matrix is wider than a rank."""
        squares = [((a.mT @ a) * (b @ b.mT)).sum((1, 2)).clamp_min(1e-30) for a, b in zip(self.A, self.B, strict=True)]
        return torch.cat(squares).sqrt()

    def score_norm(self) -> Float[Tensor, " F"] | None:
        """Frobenius norms where the wiring scales scores by them."""
        return self.decoder_norm().detach() if self.config.scale_by_decoder_norm else None

    def encode(self, x: Float[Tensor, "*batch d"]) -> Acts:
        """Feature activations."""
        selection, norm = self.activation.selection, self.score_norm()
        if selection is None:
            acts = self.activation(self.preacts(x), norm)
        else:
            acts = ops.encode(x, self.W_enc, self.b_enc, selection, norm=norm, dtype=self.encode_dtype)
        if self.training:
            self.activation.observe(acts.detach(), norm)
        return acts

    def decode(self, acts: Acts, x: Float[Tensor, "*batch d"] | None = None) -> Float[Tensor, "*batch d_out"]:
        """Reconstruction: ``sum_f acts_f (x @ A_f @ B_f) + b_dec``."""
        if x is None:
            raise ValueError("the features of a MOLT are maps of x; pass decode(acts, x)")
        return self._mapped(acts, x) + self.b_dec

    def decode_of(
        self, acts: Acts, x: Float[Tensor, "*batch d"], features: Int[Tensor, " n"]
    ) -> Float[Tensor, "*batch d_out"]:
        """What chosen features reconstruct."""
        if not len(features):
            return ops.over_features(x.new_zeros(*x.shape[:-1], self.d_out))
        chosen = features.expand(acts.values.shape) if acts.indices is None else features[acts.indices]
        return self._mapped(Acts(acts.values, self.n_features, chosen), x)

    def _mapped(self, acts: Acts, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d_out"]:
        rows, values = x.reshape(-1, self.d_in), acts.values.reshape(-1, acts.values.shape[-1])
        indices = None if acts.indices is None else acts.indices.reshape(values.shape)
        out = rows.new_zeros(len(rows), self.d_out)
        for group, a, b in zip(self.groups, self.A, self.B, strict=True):
            if group.start >= acts.n_features:
                break
            if indices is None:
                own = values[:, group.start : group.stop]
                part = Acts(own, own.shape[1])
                a, b = a[: own.shape[1]], b[: own.shape[1]]
            else:
                is_here = (indices >= group.start) & (indices < group.stop)
                part = Acts(values.where(is_here, 0), len(group), (indices - group.start).where(is_here, 0))
            out = out + ops.mixture(part, rows, a, b)
        return ops.over_features(out).view(*x.shape[:-1], self.d_out)

    def decoder_rows(self, site: Site, features: Int[Tensor, " n"] | None = None) -> None:
        """None: a feature is a map, and what it writes depends on what is read."""
        return

    def encoder_rows(self) -> Float[Tensor, "F d_in"]:
        """Encoder columns of all features."""
        return self.W_enc.T

    @torch.no_grad()
    def rescale_(self, scale_in: Float[Tensor, " reads"], scale_out: Float[Tensor, " writes"]) -> None:
        """W_enc *= s_in; A *= s_in / s_out; b_dec /= s_out; thresholds follow scores scaled by norms."""
        s_in, s_out = scale_in.item(), scale_out.item()
        self.W_enc.mul_(s_in)
        for a in self.A:
            a.mul_(s_in / s_out)
        self.b_dec.div_(s_out)
        if self.config.scale_by_decoder_norm:
            self.activation.rescale_scores_(s_in / s_out)
