"""Cross-layer transcoder (CLT): features read one layer each, and write the MLP outputs of that layer and later ones.

    acts_l  = phi(x_l @ W_enc[l] + b_enc[l])                                 x_l: what the MLP of layer l reads
    recon_t = sum_{l <= t} acts_l @ W_dec[l, t] + b_dec[t] (+ x_t @ W_skip[t])    y_t: what the MLP of layer t writes
    n_lf    = sqrt(sum_{t >= l} ||W_dec[l, t, f]||^2)                        norm of the concatenated decoder

The reconstruction's error is the sum over target layers, not their mean, which would divide it by L and so multiply the
weight of every penalty by L. Penalties pass gradients to n_lf, since norms would otherwise grow to escape them. b_dec
belongs to the layer that is written, and is added once.

Feature f of layer l is number ``l F + f`` of ``L F``. Most functions act in every layer (k of ``topk`` is per layer);
``layer_topk`` and ``batch_layer_topk`` choose among all layers. Functions with a selection encode layer by layer and
keep what survives, so memory grows with what is active; ``relu``, and ``jumprelu`` or ``gated`` in training, hold
``[N, L F]``.

Source: Ameisen et al. 2025, Circuit Tracing (Transformer Circuits). Shapes: L layers, F features in each, d width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import ClassVar, Literal

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
from monoscope.dictionaries.initialize import Initialization, Sample, calibrate, decoder_biases, unit_directions
from monoscope.dictionaries.order import check_distinct, comes_before
from monoscope.dictionaries.per_layer import over_layers


class CrossLayer(Dictionary):
    """Transcoders of all layers at once, whose features write to later layers too.

    Shapes: W_enc.l [d_in, F], stored feature by feature; b_enc.l [F]; W_dec.l [F, L - l, d_out], a feature's rows of
    all its targets in one; b_dec [L, d_out]; W_skip [L, d_in, d_out] or None.

    Norms are taken in the units of training: ``norm_scale [L]`` is what decoder rows are multiplied by before their
    norms are taken, 1 until activation scales are folded in.
    """

    class Config(Wiring):
        """Settings of a cross-layer transcoder; ``n_features`` is per layer."""

        has_layers: ClassVar[bool] = True
        refuses_terms: ClassVar[Mapping[str, str]] = {
            "matryoshka": "the first features of all are those of the first layer",
            "multi_topk": "k is each layer's own",
        }

        kind: Literal["cross_layer"] = "cross_layer"
        n_features: int = Field(default=4096, ge=1, description="of each layer")
        skip: bool = False
        scale_by_decoder_norm: bool = Field(default=True, description="whether scores are activations times norms")
        start_across: bool = Field(default=True, description="False: start with decoders to later layers at 0")

        def build(
            self,
            function: ActivationFunction.Config,
            reads: tuple[Site, ...],
            writes: tuple[Site, ...],
            widths: Mapping[Site, int],
        ) -> CrossLayer:
            """An uninitialized cross-layer transcoder."""
            if len(reads) != len(writes):
                raise ConfigError(
                    f"a cross-layer transcoder reads and writes each layer once, found {len(reads)} sites to read and "
                    f"{len(writes)} to write"
                )
            check_distinct(reads, "read")
            check_distinct(writes, "written")
            for layer, read in enumerate(reads):
                for write in writes[layer:]:
                    if comes_before(write, read):
                        raise ConfigError(
                            f"features that read {read} cannot write {write}, to which the model comes first; name "
                            "sites in the order of layers, each read before its write"
                        )
            return CrossLayer(self, over_layers(function, len(reads), self.n_features), reads, writes, widths)

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
        self.d_in, self.d_out = one_width(reads, widths), one_width(writes, widths)
        self.n_layers, self.n_per_layer = len(reads), config.n_features
        self.n_features = self.n_layers * self.n_per_layer
        self.acts_scale, self.provenance = None, {}
        self.encode_dtype = None
        n, d_in, d_out, layers = self.n_per_layer, self.d_in, self.d_out, range(self.n_layers)
        self.W_enc = nn.ParameterList(torch.zeros(n, d_in).T for _ in layers)
        self.b_enc = nn.ParameterList(torch.zeros(n) for _ in layers)
        self.W_dec = nn.ParameterList(torch.zeros(n, self.n_layers - layer, d_out) for layer in layers)
        self.b_dec = nn.Parameter(torch.zeros(self.n_layers, d_out))
        self.W_skip = nn.Parameter(torch.zeros(self.n_layers, d_in, d_out)) if config.skip else None
        self.register_buffer("norm_scale", torch.ones(self.n_layers))
        axes = {"W_enc": 1, "b_enc": 0, "W_dec": 0}
        self.feature_axes = {f"{name}.{layer}": axis for name, axis in axes.items() for layer in layers}

    def features_of(self, parameter: str) -> range:
        """Features of the layer whose parameter it is."""
        layer = int(parameter.split(".")[1])
        return range(layer * self.n_per_layer, (layer + 1) * self.n_per_layer)

    def share_(self, of: int) -> None:
        """Take the sizes of one of several equal shares of every layer's features."""
        super().share_(of)
        self.n_per_layer //= of

    @property
    def feature_blocks(self) -> tuple[int, ...]:
        """Features change places within their layer, and within its blocks where its function has some."""
        block = self.activation.block or self.n_per_layer
        return (block,) * (self.n_features // block)

    @torch.no_grad()
    def initialize_(self, config: Initialization, sample: Sample, generator: torch.Generator) -> None:
        """Encoders along random unit directions; decoders uniform in ``+-0.1 / sqrt(L d)``, so near the mean, not 0.

        Scores are scaled by decoder norms, and decoders of 0 would leave nothing to choose by. b_enc takes the mean of
        what is read away, so that all features start with a chance to fire.
        """
        if config.directions == "model":
            raise ConfigError("initialize.directions = 'model' starts from one MLP, and a CLT spans several layers")
        x, target = self._with_layers(sample.x), self._with_layers(sample.target)
        self.b_dec.copy_(decoder_biases(target, config.decoder_bias))
        bound = 0.1 * (self.n_layers * self.d_out) ** -0.5
        for layer in range(self.n_layers):
            directions = unit_directions(self.n_per_layer, x[:, layer], config, generator)
            self.W_enc[layer].copy_(directions.T)
            self.b_enc[layer].copy_(-directions @ x[:, layer].mean(0))
            rows = self.W_dec[layer]
            rows.copy_((2 * torch.rand(rows.shape, generator=generator) - 1) * bound)
            if not self.config.start_across:
                rows[:, 1:] = 0
        if self.W_skip is not None:
            self.W_skip.zero_()
        calibrate(self, sample.x)

    def preacts(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*acts LF"]:
        """Pre-activations of all layers' features."""
        layers = zip(self._with_layers(x).unbind(-2), self.W_enc, self.b_enc, strict=True)
        return torch.cat([x_l @ weight + bias for x_l, weight, bias in layers], dim=-1)

    def preacts_of(self, x: Float[Tensor, "*batch d"], features: Int[Tensor, " n"]) -> Float[Tensor, "*acts n"]:
        """Pre-activations of chosen features."""
        each, order = self._by_layer(features)
        layers = zip(self._with_layers(x).unbind(-2), self.W_enc, self.b_enc, each, strict=True)
        pre = torch.cat([x_l @ ops.rows_of(weight, own, 1) + bias[own] for x_l, weight, bias, own in layers], dim=-1)
        return pre if order is None else pre[..., order.argsort()]

    def decoder_norm(self) -> Float[Tensor, " LF"]:
        """Norm of each feature's decoder to all of its targets, in the units of training."""
        return torch.cat([norms.norm(dim=1) for norms in self.write_norms()])

    def write_norms(self) -> list[Float[Tensor, "F target"]]:
        """Norm of each feature's decoder to each of its targets, by layer, in the units of training."""
        return [rows.norm(dim=-1) * self.norm_scale[layer:] for layer, rows in enumerate(self.W_dec)]

    @torch.no_grad()
    def score_norm(self) -> Float[Tensor, " LF"] | None:
        """Decoder norms where the wiring scales scores by them."""
        return self.decoder_norm() if self.config.scale_by_decoder_norm else None

    def encode(self, x: Float[Tensor, "*batch d"]) -> Acts:
        """Feature activations of all layers."""
        selection, norm = self.activation.selection, self.score_norm()
        if selection is None:
            acts = self.activation(self.preacts(x), norm)
        else:
            weights, biases, dtype = list(self.W_enc), list(self.b_enc), self.encode_dtype
            acts = ops.encode_layers(self._with_layers(x), weights, biases, selection, norm=norm, dtype=dtype)
        if self.training:
            self.activation.observe(acts.detach(), norm)
        return acts

    def decode(self, acts: Acts, x: Float[Tensor, "*batch d"] | None = None) -> Float[Tensor, "*written d_out"]:
        """Reconstruction of every layer's MLP output."""
        n, F = acts.n_features, self.n_per_layer
        ends = [*range(F, n, F), n]
        parts = acts.split(ends)
        rows = [self.W_dec[layer][: part.n_features] for layer, part in enumerate(parts)]
        recon = self._decoded(parts, rows, acts.values.shape[:-1]) + self.b_dec
        if self.W_skip is not None:
            if x is None:
                raise ValueError("a dictionary with a skip decodes from its activations and x; pass decode(acts, x)")
            recon = recon + torch.einsum("...ld,lde->...le", self._with_layers(x), self.W_skip)
        return self._without_layers(recon)

    def decode_of(
        self, acts: Acts, x: Float[Tensor, "*batch d"], features: Int[Tensor, " n"]
    ) -> Float[Tensor, "*written d_out"]:
        """What chosen features reconstruct."""
        each, order = self._by_layer(features)
        if order is not None:
            indices = None if acts.indices is None else order.argsort()[acts.indices]
            values = acts.values[..., order] if indices is None else acts.values
            acts = Acts(values, acts.n_features, indices)
        chosen = [layer for layer, own in enumerate(each) if len(own)]
        ends = torch.tensor([len(each[layer]) for layer in chosen]).cumsum(0).tolist()
        parts: list[Acts | None] = [None] * self.n_layers
        for layer, part in zip(chosen, acts.split(ends) if chosen else (), strict=True):
            parts[layer] = part
        rows = [ops.rows_of(weight, own) for weight, own in zip(self.W_dec, each, strict=True)]
        return self._without_layers(self._decoded(parts, rows, acts.values.shape[:-1]))

    def _decoded(
        self, parts: Sequence[Acts | None], rows: Sequence[Tensor], shape: torch.Size
    ) -> Float[Tensor, "*batch layer d_out"]:
        """Sum over layers; a gather-sum for each serves all of its targets."""
        sums: list[Tensor | None] = [None] * self.n_layers
        for layer, (part, weight) in enumerate(zip(parts, rows, strict=False)):
            if part is None:
                continue
            written = ops.decode_part(part, weight.flatten(1)).unflatten(-1, weight.shape[1:])
            for target, share in enumerate(written.unbind(-2), layer):
                before = sums[target]
                sums[target] = share if before is None else before + share
        nothing = self.b_dec.new_zeros(*shape, self.d_out)
        return ops.over_features(torch.stack([nothing if total is None else total for total in sums], dim=-2))

    def _by_layer(self, features: Int[Tensor, " n"]) -> tuple[list[Int[Tensor, " m"]], Int[Tensor, " n"] | None]:
        """Chosen features of every layer, counted from 0; and the order that lists them so, None if they are sorted."""
        layer = features // self.n_per_layer
        order = None
        if any(a > b for a, b in pairwise(layer.tolist())):
            order = layer.argsort(stable=True)
            features, layer = features[order], layer[order]
        own = features % self.n_per_layer
        return [own[layer == number] for number in range(self.n_layers)], order

    def _with_layers(self, x: Tensor) -> Float[Tensor, "*batch layer d"]:
        return x.unsqueeze(-2) if self.n_layers == 1 else x

    def _without_layers(self, x: Float[Tensor, "*batch layer d"]) -> Tensor:
        return x.squeeze(-2) if self.n_layers == 1 else x

    def decoder_rows(self, site: Site, features: Int[Tensor, " n"] | None = None) -> Float[Tensor, "n d_out"]:
        """Decoder rows of (chosen) features at a layer's site; 0 for features of later layers."""
        target, parts = self.writes.index(site), []
        each, order = self._by_layer(torch.arange(self.n_features) if features is None else features)
        for layer, (rows, own) in enumerate(zip(self.W_dec, each, strict=True)):
            parts.append(rows[own, target - layer] if layer <= target else rows.new_zeros(len(own), self.d_out))
        written = torch.cat(parts)
        return written if order is None else written[order.argsort()]

    def encoder_rows(self) -> Float[Tensor, "F d_in"]:
        """Encoder columns of all features, each at the layer it reads."""
        return torch.cat([weight.T for weight in self.W_enc])

    @property
    def reads_apart(self) -> bool:
        """Whether layers select apart: not where a budget is shared, until thresholds take its place."""
        return not self.activation.config.across_layers

    def encode_read(self, number: int, x: Float[Tensor, "*batch d"]) -> Acts:
        """Activations of one layer's features, counted from 0."""
        selection, norm = self.activation.selection, self.score_norm()
        match selection:
            case ops.EachLayer(rules):
                rule = rules[number]
            case ops.AboveThreshold(threshold):
                rule = ops.AboveThreshold(threshold.chunk(self.n_layers)[number])
            case _:
                every = x.new_zeros(*x.shape[:-1], self.n_layers, self.d_in)
                every[..., number, :] = x
                ends = range(self.n_per_layer, self.n_features + 1, self.n_per_layer)
                return self.encode(self._without_layers(every)).split(ends)[number]
        own = None if norm is None else norm.chunk(self.n_layers)[number]
        return ops.encode(x, self.W_enc[number], self.b_enc[number], rule, norm=own, dtype=self.encode_dtype)

    @torch.no_grad()
    def rescale_(self, scale_in: Float[Tensor, " reads"], scale_out: Float[Tensor, " writes"]) -> None:
        """``W_enc[l] *= s_l; W_dec[l, t], b_dec[t] /= o_t; W_skip[t] *= s_t / o_t``; b_enc and thresholds stay."""
        s_in, s_out = scale_in.to(self.b_dec), scale_out.to(self.b_dec)
        for layer in range(self.n_layers):
            self.W_enc[layer].mul_(s_in[layer])
            self.W_dec[layer].div_(s_out[layer:, None])
        self.b_dec.div_(s_out[:, None])
        if self.W_skip is not None:
            self.W_skip.mul_((s_in / s_out)[:, None, None])
        self.norm_scale.mul_(s_out)
