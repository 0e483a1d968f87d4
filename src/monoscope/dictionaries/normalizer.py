"""Normalizers: what is taken off every token before it is encoded, and given back to its reconstruction.

    none          z = x
    layer_norm    z = (x - m) / (s + eps)       recon = s recon_z + m       m, s: mean and unbiased deviation over d
    token_norm    z = x sqrt(d) / ||x||         recon = recon_z ||x|| / sqrt(d)
    center        z = x - m                     recon = recon_z + m

The first is all that can be folded into weights (``dictionaries.normalize``); the others depend on the token. Of a
transcoder only what is read is normalized: what a target's mean and norm are is not known where it is predicted.

Sources: OpenAI's sparse autoencoders, Gao et al. 2024 (arXiv:2406.04093); SAELens, ``layer_norm`` and
``constant_norm_rescale``; TransformerLens, which centers what is written to the residual stream.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

Normalizer = Literal["none", "layer_norm", "token_norm", "center"]

EPS = 1e-5
"""Of a layer norm, outside the root, in the units of activations."""


@dataclass(frozen=True, slots=True)
class Frame:
    """What was taken off tokens: ``mean`` and ``scale``, ``[*batch, 1]``; None where there is none."""

    mean: Float[Tensor, "*batch 1"] | None = None
    scale: Float[Tensor, "*batch 1"] | None = None

    def scaled(self, recon: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
        """A part of a reconstruction in the units of the site."""
        return recon if self.scale is None else recon * self.scale

    def restored(self, recon: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
        """A whole reconstruction where the tokens are."""
        recon = self.scaled(recon)
        return recon if self.mean is None else recon + self.mean


def normalized(x: Float[Tensor, "*batch d"], kind: Normalizer, eps: float) -> tuple[Float[Tensor, "*batch d"], Frame]:
    """Tokens as they are encoded, and what was taken off them. A token of zeros stays one."""
    match kind:
        case "none":
            return x, Frame()
        case "token_norm":
            scale = x.norm(dim=-1, keepdim=True) / x.shape[-1] ** 0.5
            return x / scale.clamp_min(torch.finfo(x.dtype).tiny), Frame(scale=scale)
        case "center":
            mean = x.mean(-1, keepdim=True)
            return x - mean, Frame(mean)
        case "layer_norm":
            mean = x.mean(-1, keepdim=True)
            scale = (x - mean).std(-1, keepdim=True)
            return (x - mean) / (scale + eps), Frame(mean, scale)
