"""Matching-pursuit dictionary: no encoder; a token's activations are its pursuit into the dictionary's own directions.

    z = x - b_dec (center) or x        D = W_dec / ||W_dec||
    acts = pursuit(z, D, k) / ||W_dec||        recon = acts @ W_dec (+ b_dec, center)

Trained by gradient, through the unrolled choices, its rows are held at norm 1. Grown from data without a gradient it is
an ITDA (``dictionaries.itda``).

Source: Costa et al. 2025 (arXiv:2506.03093), who call it MP-SAE. Shapes: F features, d width.
"""

from __future__ import annotations

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
from monoscope.dictionaries.base import Dictionary, Wiring
from monoscope.dictionaries.function import ActivationFunction
from monoscope.dictionaries.initialize import Initialization, Sample, decoder_bias, unit_directions
from monoscope.dictionaries.variants.pursuit import Pursuit

ORIGIN = ("place", "token", "position")
"""What is remembered of the token whose activation became a feature: its number in the stream of training, its id, and
its position in its sequence."""


class MatchingPursuit(Dictionary):
    """Feature directions, and the pursuit that decomposes tokens into them.

    Shapes: W_dec [F, d]; b_dec [d] or None; origin [F, 3], columns ``ORIGIN``, -1 where unknown, of a dictionary whose
    features are activations; else None.
    """

    class Config(Wiring):
        """Settings of a dictionary that is trained by gradient."""

        accepts_functions = frozenset({"pursuit"})

        kind: Literal["matching_pursuit"] = "matching_pursuit"
        n_features: int = Field(default=4096, ge=1)
        center: bool = Field(default=False, description="pursue what b_dec leaves, and add it to reconstructions")

        @property
        def encodes_linearly(self) -> bool:
            """No: a choice depends on what the choices before it left."""
            return False

        @classmethod
        def defaults(cls) -> dict[str, Any]:
            """Squared error relative to variance, and revival of the dead."""
            terms = {"reconstruction": {"kind": "fvu"}, "revive": {"kind": "auxk"}}
            return {"function": {"kind": "pursuit"}, "terms": terms}

        def build(
            self,
            function: ActivationFunction.Config,
            reads: tuple[Site, ...],
            writes: tuple[Site, ...],
            widths: Mapping[Site, int],
        ) -> MatchingPursuit:
            """An uninitialized dictionary."""
            activation = function.build(self.n_features)
            return MatchingPursuit(self, self.n_features, activation, reads, writes, widths, center=self.center)

    def __init__(
        self,
        config: Wiring,
        n_features: int,
        activation: ActivationFunction,
        reads: tuple[Site, ...],
        writes: tuple[Site, ...],
        widths: Mapping[Site, int],
        *,
        center: bool = False,
        remembers_origins: bool = False,
    ) -> None:
        super().__init__()
        if reads != writes or len(reads) != 1:
            raise ConfigError(
                f"a pursuit decomposes the activations of one site, so it writes where it reads; "
                f"found reads {', '.join(map(str, reads))} and writes {', '.join(map(str, writes))}"
            )
        self.config, self.activation, self.reads, self.writes = config, activation, reads, writes
        self.widths, self.n_features = {reads[0]: widths[reads[0]]}, n_features
        self.acts_scale, self.provenance = None, {}
        self.encode_dtype = None
        self.W_dec = nn.Parameter(torch.zeros(n_features, widths[reads[0]]))
        self.b_dec = nn.Parameter(torch.zeros(widths[reads[0]])) if center else None
        self.origin = None
        self.feature_axes, self.unit_rows = {"W_dec": 0}, ("W_dec",)
        if remembers_origins:
            self.origin = nn.Parameter(torch.full((n_features, len(ORIGIN)), -1), requires_grad=False)
            self.feature_axes = {"W_dec": 0, "origin": 0}

    def initialize_(self, config: Initialization, sample: Sample, generator: torch.Generator) -> None:
        """Random directions, over all of space or the active subspace; none at all where data will give them."""
        if config.directions == "model":
            raise ConfigError(
                "initialize.directions = 'model' starts a transcoder; a pursuit has no model to start from"
            )
        if self.origin is not None:
            self.resize_(0)
        else:
            with torch.no_grad():
                self.W_dec.copy_(unit_directions(self.n_features, sample.x, config, generator))
                if self.b_dec is not None:
                    self.b_dec.copy_(decoder_bias(sample.x, config.decoder_bias))

    def share_(self, of: int) -> None:
        """Raise ConfigError: each choice depends on those before it, among all features."""
        raise ConfigError(
            "a matching pursuit chooses each feature by what those chosen before left of the token, so its features "
            "stay together; spread its data alone: features = 1"
        )

    def resize_(self, n_features: int) -> None:
        """Room for another number of features; those there stay, new ones are 0."""
        kept = min(n_features, self.n_features)
        for name, empty in (("W_dec", 0), ("origin", -1)):
            if (old := getattr(self, name)) is not None:
                new = old.new_full((n_features, old.shape[1]), empty)
                new[:kept] = old.detach()[:kept]
                setattr(self, name, nn.Parameter(new, requires_grad=old.requires_grad))
        self.n_features = n_features
        self.config = self.config.model_copy(update={"n_features": n_features})

    def decoder_norm(self) -> Float[Tensor, " F"]:
        """Norm of each feature's row: 1 in training, and the inverse of the activation scale once that is folded in."""
        return self.W_dec.norm(dim=1)

    def score_norm(self) -> None:
        """None: directions of norm 1 are what choices compare."""
        return None

    def preacts(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch F"]:
        """What each feature's activation would be if it were chosen first."""
        return self._centered(x) @ (self.W_dec / self.decoder_norm()[:, None] ** 2).T

    def preacts_of(self, x: Float[Tensor, "*batch d"], features: Int[Tensor, " n"]) -> Float[Tensor, "*batch n"]:
        """``preacts`` of chosen features; b_dec gets no gradient through the centering."""
        rows = ops.rows_of(self.W_dec, features)
        z = x if self.b_dec is None else x - self.b_dec.detach()
        return z @ (rows / rows.pow(2).sum(1, keepdim=True)).T

    def _centered(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
        return x if self.b_dec is None else x - self.b_dec

    def encode(self, x: Float[Tensor, "*batch d"]) -> Acts:
        """Feature activations, at most k of them."""
        norm, function = self.decoder_norm(), self.activation
        assert isinstance(function, Pursuit)
        acts = ops.pursue(
            self._centered(x),
            self.W_dec / norm[:, None],
            function.k,
            function.config.method,
            positive=function.config.positive,
            tolerance=function.config.tolerance,
            until_repeat=function.config.until_repeat,
        )
        return Acts(acts.values / (norm if acts.indices is None else norm[acts.indices]), acts.n_features, acts.indices)

    def decode(self, acts: Acts, x: Float[Tensor, "*batch d"] | None = None) -> Float[Tensor, "*batch d"]:
        """Reconstruction: ``acts @ W_dec``, plus ``b_dec`` where there is one."""
        recon = ops.decode(acts, self.W_dec)
        return recon if self.b_dec is None else recon + self.b_dec

    def decode_of(
        self, acts: Acts, x: Float[Tensor, "*batch d"], features: Int[Tensor, " n"]
    ) -> Float[Tensor, "*batch d"]:
        """What chosen features reconstruct: ``acts @ W_dec[features]``."""
        return ops.decode(acts, ops.rows_of(self.W_dec, features))

    def decoder_rows(self, site: Site, features: Int[Tensor, " n"] | None = None) -> Float[Tensor, "n d_out"]:
        """Decoder rows of (chosen) features."""
        return self.W_dec if features is None else self.W_dec[features]

    def encoder_rows(self) -> None:
        """None: features are pursued, not read."""
        return

    @torch.no_grad()
    def rescale_(self, scale_in: Float[Tensor, " reads"], scale_out: Float[Tensor, " writes"]) -> None:
        """W_dec, b_dec /= s_out, which multiplies the activations by s_in; a tolerance is in their units."""
        self.W_dec.div_(scale_out.item())
        if self.b_dec is not None:
            self.b_dec.div_(scale_out.item())
        assert isinstance(self.activation, Pursuit)
        self.activation.rescale_residuals_(1 / scale_out.item())
