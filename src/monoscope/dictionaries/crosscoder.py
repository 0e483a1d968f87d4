"""Crosscoder: one set of features for several sites, be they layers, models, or snapshots of one model in training.

    pre = sum_m x_m @ W_enc[m] + b_enc

    shared gate       acts = phi(pre)                         recon_m = acts @ W_dec[m] + b_dec[m]
    per-site gate     acts_m = pre where phi keeps pre n_mf   recon_m = acts_m @ W_dec[m] + b_dec[m]

    n_mf = ||W_dec[m, f]||        n_f = sum_m n_mf  (l1)  or  sqrt(sum_m n_mf^2)  (l2)

Every site has the activation scale of its own dataset; only the sum of the sites' encoder biases matters, so there is
one. Penalties and scores weigh a feature of shared activations by n_f, one with a gate at each site by n_mf there. All
sites start from the same weights, so that whatever tells them apart was learned.

A feature's norms over sites say where it lives (``dictionaries.trajectories``). A penalty on activations times l1 norms
shrinks weak heads to nothing, and so makes features that look exclusive to one model; top-k functions do it less.

Sources: Lindsey et al. 2024, Sparse Crosscoders (Transformer Circuits); gates and snapshots: Ge et al. 2025
(arXiv:2509.17196); what l1 does: Minder et al. 2025 (arXiv:2504.02922). Shapes: M sites, F features, d width.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn

from monoscope import ops
from monoscope.core.acts import Acts
from monoscope.core.errors import ConfigError
from monoscope.core.site import Site
from monoscope.dictionaries.base import Dictionary, Wiring, one_width
from monoscope.dictionaries.function import ActivationFunction
from monoscope.dictionaries.initialize import (
    Initialization,
    Sample,
    best_encoder_scale,
    calibrate,
    decoder_biases,
    unit_directions,
)
from monoscope.dictionaries.order import check_distinct, comes_before

GATED_PER_SITE = frozenset({"topk", "batch_topk", "abs_topk", "jumprelu"})
"""Functions whose choice depends on the norms that tell sites apart."""


class Crosscoder(Dictionary):
    """Features that read and write several sites.

    Shapes: W_enc [M, d, F], stored feature by feature; b_enc [F]; W_dec [M, F, d_out], stored feature by feature;
    b_dec [M, d_out]. ``acts`` are ``[*batch, F]``, and ``[*batch, site, F]`` with a gate at each site.

    Norms are taken in the units of training, in which sites are alike in scale: ``norm_scale [M]`` is what decoder rows
    are multiplied by before their norms are taken, 1 until activation scales are folded in.
    """

    class Config(Wiring):
        """Settings of a crosscoder."""

        kind: Literal["crosscoder"] = "crosscoder"
        n_features: int = Field(default=4096, ge=1)
        gate: Literal["shared", "per_site"] = Field(
            default="shared", description="whether a feature fires at all sites at once, or at each by its norm there"
        )
        norm: Literal["l1", "l2"] = Field(default="l2", description="of a feature's norms over its sites")
        scale_by_decoder_norm: bool = Field(default=True, description="whether scores are activations times norms")

        @classmethod
        def defaults(cls) -> dict[str, Any]:
            """BatchTopK, which leaves weak heads alone."""
            return {"function": {"kind": "batch_topk"}}

        def build(
            self,
            function: ActivationFunction.Config,
            reads: tuple[Site, ...],
            writes: tuple[Site, ...],
            widths: Mapping[Site, int],
        ) -> Crosscoder:
            """An uninitialized crosscoder."""
            check_distinct(reads, "read")
            check_distinct(writes, "written")
            if reads != writes:
                _check_causal(reads, writes)
            if self.gate == "per_site":
                self._check_gate(str(function.to_dict()["kind"]))
            return Crosscoder(self, function.build(self.n_features), reads, writes, widths)

        def _check_gate(self, function: str) -> None:
            if function not in GATED_PER_SITE:
                raise ConfigError(
                    f"gate = 'per_site' tells sites apart by scores, which {function!r} does not select by; take one "
                    f"of {', '.join(sorted(GATED_PER_SITE))}, or gate = 'shared'"
                )
            if not self.scale_by_decoder_norm:
                raise ConfigError("gate = 'per_site' needs scores that differ between sites: scale_by_decoder_norm")

    norm_scale: Tensor

    def __init__(
        self,
        config: Config,
        activation: ActivationFunction,
        reads: tuple[Site, ...],
        writes: tuple[Site, ...],
        widths: Mapping[Site, int],
    ) -> None:
        super().__init__()
        self.config, self.activation, self.reads, self.writes = config, activation, reads, writes
        self.widths = {site: widths[site] for site in {*reads, *writes}}
        self.d_in, self.d_out, self.n_features = one_width(reads, widths), one_width(writes, widths), config.n_features
        self.feature_axes = {"W_enc": 2, "b_enc": 0, "W_dec": 1}
        self.acts_scale, self.provenance = None, {}
        self.encode_dtype = None
        self.is_gated = config.gate == "per_site"
        self.W_enc = nn.Parameter(torch.zeros(self.n_features, len(reads), self.d_in).permute(1, 2, 0))
        self.b_enc = nn.Parameter(torch.zeros(self.n_features))
        self.W_dec = nn.Parameter(torch.zeros(self.n_features, len(writes), self.d_out).transpose(0, 1))
        self.b_dec = nn.Parameter(torch.zeros(len(writes), self.d_out))
        self.register_buffer("norm_scale", torch.ones(len(writes)))

    @torch.no_grad()
    def initialize_(self, config: Initialization, sample: Sample, generator: torch.Generator) -> None:
        """The same random directions at every site; encoders their transposes, scaled for the best reconstruction.

        b_enc takes the mean of what is read away, so that all features start with a chance to fire.
        """
        if config.directions == "model":
            raise ConfigError("initialize.directions = 'model' starts from one MLP, and a crosscoder has several sites")
        x, target = _with_sites(sample.x, len(self.reads)), _with_sites(sample.target, len(self.writes))
        directions = unit_directions(self.n_features, x.flatten(0, 1), config, generator)
        self.b_enc.zero_()
        self.b_dec.copy_(decoder_biases(target, config.decoder_bias))
        self.W_enc.copy_(directions.T / len(self.reads))
        if self.reads == self.writes:
            self.W_dec.copy_(directions)
            centered = dataclasses.replace(sample, x=sample.x - sample.x.mean(0))
            scale = config.encoder_scale
            self.W_enc.mul_(best_encoder_scale(self, centered) if scale == "search" else scale)
        else:  # small, so that training starts near the mean, and not 0, which would leave nothing to score by
            self.W_dec.copy_(torch.randn(self.n_features, self.d_out, generator=generator))
            self.W_dec.mul_(0.1 / self.W_dec.norm(dim=-1, keepdim=True))
        self.b_enc.copy_(-self._joined(sample.x.mean(0)) @ self.W_enc.flatten(0, 1))
        calibrate(self, sample.x)

    def preacts(self, x: Float[Tensor, "*read d"]) -> Float[Tensor, "*acts F"]:
        """Pre-activations, the sum over what is read; with a gate at each site, the same for all of them."""
        pre = self._joined(x) @ self.W_enc.flatten(0, 1) + self.b_enc
        return self._at_gates(pre)

    def preacts_of(self, x: Float[Tensor, "*read d"], features: Int[Tensor, " n"]) -> Float[Tensor, "*acts n"]:
        """Pre-activations of chosen features."""
        pre = self._joined(x) @ ops.rows_of(self.W_enc, features, 2).flatten(0, 1) + self.b_enc[features]
        return self._at_gates(pre)

    def site_norms(self) -> Float[Tensor, "site F"]:
        """Norm of each feature at each site it writes, in the units of training."""
        return self.W_dec.norm(dim=-1) * self.norm_scale[:, None]

    def decoder_norm(self) -> Float[Tensor, "*site F"]:
        """Norm of each feature over its sites; at each site where each has its gate."""
        norms = self.site_norms()
        return norms if self.is_gated else norms.norm(p=1 if self.config.norm == "l1" else 2, dim=0)

    @torch.no_grad()
    def score_norm(self) -> Float[Tensor, "*site F"] | None:
        """Decoder norms where the wiring scales scores by them."""
        return self.decoder_norm() if self.config.scale_by_decoder_norm else None

    def encode(self, x: Float[Tensor, "*read d"]) -> Acts:
        """Feature activations."""
        selection, norm = self.activation.selection, self.score_norm()
        if selection is None or self.is_gated:
            acts = self.activation(self.preacts(x), norm)
        else:
            encoder, dtype = self.W_enc.flatten(0, 1), self.encode_dtype
            acts = ops.encode(self._joined(x), encoder, self.b_enc, selection, norm=norm, dtype=dtype)
        if self.training:
            self.activation.observe(acts.detach(), norm)
        return acts

    def decode(self, acts: Acts, x: Float[Tensor, "*read d"] | None = None) -> Float[Tensor, "*written d_out"]:
        """Reconstruction of every site: ``recon_m = acts @ W_dec[m] + b_dec[m]``."""
        recon = self._decoded(acts, self.W_dec[:, : acts.n_features])
        return recon + (self.b_dec[0] if len(self.writes) == 1 else self.b_dec)

    def decode_of(
        self, acts: Acts, x: Float[Tensor, "*read d"], features: Int[Tensor, " n"]
    ) -> Float[Tensor, "*written d_out"]:
        """What chosen features reconstruct."""
        return self._decoded(acts, ops.rows_of(self.W_dec, features, 1))

    def _decoded(self, acts: Acts, rows: Float[Tensor, "site n d_out"]) -> Float[Tensor, "*written d_out"]:
        if self.is_gated:
            parts = [ops.decode_part(_at(acts, m), rows[m]) for m in range(len(self.writes))]
            recon = ops.over_features(torch.stack(parts, dim=-2))
        else:  # a feature's rows of all sites are one row
            recon = ops.decode(acts, rows.transpose(0, 1).flatten(1)).unflatten(-1, (len(self.writes), self.d_out))
        return recon.squeeze(-2) if len(self.writes) == 1 else recon

    def _joined(self, x: Tensor) -> Float[Tensor, "*batch Md"]:
        return x if len(self.reads) == 1 else x.flatten(-2)

    def _at_gates(self, pre: Float[Tensor, "*batch n"]) -> Float[Tensor, "*acts n"]:
        if not self.is_gated:
            return pre
        return pre[..., None, :].expand(*pre.shape[:-1], len(self.writes), pre.shape[-1])

    def decoder_rows(self, site: Site, features: Int[Tensor, " n"] | None = None) -> Float[Tensor, "n d_out"]:
        """Decoder rows of (chosen) features at a site."""
        rows = self.W_dec[self.writes.index(site)]
        return rows if features is None else rows[features]

    def encoder_rows(self) -> Float[Tensor, "F d_in"]:
        """Encoder columns of all features, those of the sites one behind the other."""
        return self.W_enc.flatten(0, 1).T

    @torch.no_grad()
    def rescale_(self, scale_in: Float[Tensor, " reads"], scale_out: Float[Tensor, " writes"]) -> None:
        """``W_enc[m] *= s_m; W_dec[m], b_dec[m] /= s_m``; b_enc and thresholds stay, as norms keep their units."""
        self.W_enc.mul_(scale_in.to(self.W_enc)[:, None, None])
        self.W_dec.div_(scale_out.to(self.W_dec)[:, None, None])
        self.b_dec.div_(scale_out.to(self.b_dec)[:, None])
        self.norm_scale.mul_(scale_out.to(self.norm_scale))


def _with_sites(x: Tensor, n_sites: int) -> Float[Tensor, "n site d"]:
    return x[:, None] if n_sites == 1 else x


def _at(acts: Acts, site: int) -> Acts:
    indices = None if acts.indices is None else acts.indices[..., site, :]
    return Acts(acts.values[..., site, :], acts.n_features, indices)


def _check_causal(reads: tuple[Site, ...], writes: tuple[Site, ...]) -> None:
    for write in writes:
        for read in reads:
            if comes_before(write, read):
                raise ConfigError(
                    f"every feature reads {read}, which the model comes to after {write}, where it writes; write at "
                    f"{read} or later, or read and write the same sites"
                )
