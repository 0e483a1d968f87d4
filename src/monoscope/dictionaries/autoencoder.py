"""Autoencoder: one site in, one site out. An SAE when they are the same, a transcoder when not; optionally a skip.

    z = x - b_dec (center) or x        pre = z @ W_enc + b_enc        acts = phi(pre)
    recon = acts @ W_dec + b_dec (+ x @ W_skip)

With a gated linear unit, pre = (z @ W_enc + b_enc) * sigmoid(z @ W_glu + b_glu). With a normalizer, x stands for the
normalized token, everywhere but in the skip, and what was taken off it is given back to recon
(``dictionaries.normalizer``).

Sources: Bricken et al. 2023, Towards Monosemanticity; Cunningham et al. 2023 (arXiv:2309.08600). Transcoder: Dunefsky
et al. 2024 (arXiv:2406.11944). Skip: Paulo et al. 2025 (arXiv:2501.18823). GLU: OpenMOSS llamascopium,
``models/sae.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

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
from monoscope.dictionaries.initialize import Initialization, Sample, initialize_autoencoder_
from monoscope.dictionaries.normalizer import EPS, Frame, Normalizer, normalized


class Autoencoder(Dictionary):
    """Sparse autoencoder or transcoder.

    Shapes: W_enc [d_in, F], stored feature by feature so that a feature's encoder is one run of memory; b_enc [F];
    W_dec [F, d_out]; b_dec [d_out]; W_skip [d_in, d_out], W_glu [d_in, F] and b_glu [F] or None.
    """

    class Config(Wiring):
        """Settings of an autoencoder; None picks what suits an SAE or a transcoder, by its sites."""

        kind: Literal["autoencoder"] = "autoencoder"
        n_features: int = Field(default=4096, ge=1)
        skip: bool = False
        glu: bool = Field(default=False, description="pre-activations times sigmoids of their own, a gated linear unit")
        center: bool | None = Field(default=None, description="subtract b_dec before encoding; None: if an SAE")
        unit_norm: bool | None = Field(default=None, description="decoder rows of norm 1; None: if an SAE")
        scale_by_decoder_norm: bool = False
        normalizer: Normalizer = Field(default="none", description="of every token by itself; see normalizer.py")
        normalizer_eps: float = Field(default=EPS, gt=0, description="of layer_norm, in the units of what is read")

        @property
        def encodes_linearly(self) -> bool:
            """Not behind a gated linear unit, nor where tokens are divided by their own size."""
            return not self.glu and self.normalizer in ("none", "center")

        def build(
            self,
            function: ActivationFunction.Config,
            reads: tuple[Site, ...],
            writes: tuple[Site, ...],
            widths: Mapping[Site, int],
        ) -> Autoencoder:
            """An uninitialized autoencoder."""
            if len(reads) != 1 or len(writes) != 1:
                raise ConfigError(
                    f"an autoencoder reads one site and writes one, found {len(reads)} read and {len(writes)} written"
                )
            is_sae = reads == writes
            if self.center and not is_sae:
                raise ConfigError(
                    f"center subtracts b_dec, which belongs to {writes[0]}, from {reads[0]}: leave it out"
                )
            if self.normalizer != "none" and self.skip and is_sae:
                raise ConfigError(
                    f"a normalizer gives back what it took off {reads[0]}, which a skip would add again: leave one out"
                )
            config = self.model_copy(
                update={
                    "center": is_sae if self.center is None else self.center,
                    "unit_norm": is_sae if self.unit_norm is None else self.unit_norm,
                }
            )
            activation = function.build(self.n_features)
            if self.glu and activation.owns_bias:
                raise ConfigError(
                    f"glu multiplies pre-activations, and the biases of {function.to_dict()['kind']!r} could not be "
                    "moved behind it at inference: leave it out"
                )
            return Autoencoder(config, activation, reads, writes, widths)

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
        self.d_in, self.d_out, self.n_features = widths[reads[0]], widths[writes[0]], config.n_features
        self.feature_axes = {"W_enc": 1, "b_enc": 0, "W_dec": 0}
        self.acts_scale, self.provenance = None, {}
        self.encode_dtype = None
        self.unit_rows = ("W_dec",) if config.unit_norm else ()
        self.W_enc = nn.Parameter(torch.zeros(self.n_features, self.d_in).T)
        self.b_enc = nn.Parameter(torch.zeros(self.n_features))
        self.W_dec = nn.Parameter(torch.zeros(self.n_features, self.d_out))
        self.b_dec = nn.Parameter(torch.zeros(self.d_out))
        self.W_skip = nn.Parameter(torch.zeros(self.d_in, self.d_out)) if config.skip else None
        self.W_glu = nn.Parameter(torch.zeros(self.n_features, self.d_in).T) if config.glu else None
        self.b_glu = nn.Parameter(torch.zeros(self.n_features)) if config.glu else None
        if config.glu:
            self.feature_axes |= {"W_glu": 1, "b_glu": 0}
        if reads == writes and config.unit_norm and not config.glu:  # docs/decisions/0017-encoders-learn-more-slowly.md
            self.default_rates = {name: 0.5 if name == "W_enc" else 2.0 for name, _ in self.named_parameters()}

    def normalized(self, x: Float[Tensor, "*batch d"]) -> tuple[Float[Tensor, "*batch d"], Frame]:
        """Tokens as they are encoded, and what was taken off them."""
        return normalized(x, self.config.normalizer, self.config.normalizer_eps)

    def _frame(self, x: Float[Tensor, "*batch d"] | None) -> Frame:
        """What reconstructions are given back: of a transcoder nothing."""
        if self.config.normalizer == "none" or self.reads != self.writes:
            return Frame()
        if x is None:
            raise ValueError("a dictionary with a normalizer decodes from its activations and x; pass decode(acts, x)")
        return self.normalized(x)[1]

    def preacts(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch F"]:
        """Pre-activations: ``z @ W_enc + b_enc``, times ``sigmoid(z @ W_glu + b_glu)`` where there is a GLU."""
        z = self.normalized(x)[0]
        z = z - ops.spread(self.b_dec) if self.config.center else z
        pre = z @ self.W_enc + self.b_enc
        if self.W_glu is None or self.b_glu is None:
            return pre
        return pre * (z @ self.W_glu + self.b_glu).sigmoid()

    def initialize_(self, config: Initialization, sample: Sample, generator: torch.Generator) -> None:
        """Set every parameter, from scaled activations of one sample."""
        initialize_autoencoder_(self, config, sample, generator)

    def decoder_norm(self) -> Float[Tensor, " F"]:
        """Norm of each decoder row."""
        return self.W_dec.norm(dim=1)

    def score_norm(self) -> Float[Tensor, " F"] | None:
        """Decoder norms where the wiring scales scores by them."""
        return self.decoder_norm().detach() if self.config.scale_by_decoder_norm else None

    def preacts_of(self, x: Float[Tensor, "*batch d"], features: Int[Tensor, " n"]) -> Float[Tensor, "*batch n"]:
        """Pre-activations of chosen features; b_dec gets no gradient through the centering."""
        z = self.normalized(x)[0]
        z = z - self.b_dec.detach() if self.config.center else z
        pre = z @ ops.rows_of(self.W_enc, features, 1) + self.b_enc[features]
        if self.W_glu is None or self.b_glu is None:
            return pre
        return pre * (z @ ops.rows_of(self.W_glu, features, 1) + self.b_glu[features]).sigmoid()

    def largest_of(self, x: Float[Tensor, "*batch d"], features: Int[Tensor, " n"], k: int) -> Acts:
        """The k largest of ``preacts_of`` of each token, found as ``encode`` finds what fires."""
        if self.W_glu is not None:
            return super().largest_of(x, features, k)
        z, weights = self.normalized(x)[0], (ops.rows_of(self.W_enc, features, 1), self.b_enc[features])
        center = self.b_dec.detach() if self.config.center else None
        return ops.encode(z, *weights, ops.TopKPerToken(k), center=center, dtype=self.encode_dtype)

    def decode_of(
        self, acts: Acts, x: Float[Tensor, "*batch d"], features: Int[Tensor, " n"]
    ) -> Float[Tensor, "*batch d_out"]:
        """What chosen features reconstruct: ``acts @ W_dec[features]``, in the units of the site."""
        return self._frame(x).scaled(ops.decode(acts, ops.rows_of(self.W_dec, features)))

    def encode(self, x: Float[Tensor, "*batch d"]) -> Acts:
        """Feature activations."""
        selection, norm = self.activation.selection, self.score_norm()
        above = self.activation.fires_above
        if self.W_glu is not None or (selection is None and above is None):
            acts = self.activation(self.preacts(x), norm)
        else:
            z, weights = self.normalized(x)[0], (self.W_enc, self.b_enc)
            given = {"center": self.b_dec if self.config.center else None, "norm": norm, "dtype": self.encode_dtype}
            if selection is None:
                assert above is not None
                acts = ops.encode_above(z, *weights, *above, **given)
            else:
                acts = ops.encode(z, *weights, selection, **given)
        if self.training:
            self.activation.observe(acts.detach(), norm)
        return acts

    def decode(self, acts: Acts, x: Float[Tensor, "*batch d"] | None = None) -> Float[Tensor, "*batch d_out"]:
        """Reconstruction: ``acts @ W_dec + b_dec``, plus ``x @ W_skip`` where there is a skip."""
        recon = self._frame(x).restored(ops.decode(acts, self.W_dec) + self.b_dec)
        if self.W_skip is None:
            return recon
        if x is None:
            raise ValueError("a dictionary with a skip decodes from its activations and x; pass decode(acts, x)")
        return recon + x @ self.W_skip

    def decoder_rows(self, site: Site, features: Int[Tensor, " n"] | None = None) -> Float[Tensor, "n d_out"]:
        """Decoder rows of (chosen) features."""
        return self.W_dec if features is None else self.W_dec[features]

    def encoder_rows(self) -> Float[Tensor, "F d_in"]:
        """Encoder columns of all features."""
        return self.W_enc.T

    @torch.no_grad()
    def rescale_(self, scale_in: Float[Tensor, " reads"], scale_out: Float[Tensor, " writes"]) -> None:
        """W_enc, W_glu *= s_in; W_dec, b_dec /= s_out; W_skip *= s_in / s_out; thresholds follow scaled scores.

        Where tokens are divided by their own size the encoder sees no scale, and neither does what is given back.
        """
        s_in, s_out = scale_in.item(), scale_out.item()
        if self.W_skip is not None:
            self.W_skip.mul_(s_in / s_out)
        if self.config.normalizer in ("layer_norm", "token_norm"):
            self.config = self.config.model_copy(update={"normalizer_eps": self.config.normalizer_eps / s_in})
            s_in, s_out = 1.0, 1.0 if self.reads == self.writes else s_out
        self.W_enc.mul_(s_in)
        self.W_dec.div_(s_out)
        self.b_dec.div_(s_out)
        if self.W_glu is not None:
            self.W_glu.mul_(s_in)
        if self.config.scale_by_decoder_norm:
            self.activation.rescale_scores_(1 / s_out)
