"""Activation scale: what activations are multiplied by in training, folded into the weights at the end.

    s = sqrt(d) / mean_tokens ||x||

so that learning rates, thresholds and penalties mean the same for every model and layer. The fold is exact
(``Dictionary.rescale_``): the finished dictionary reads and writes raw activations.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from monoscope.core.errors import DataError
from monoscope.core.site import Site

BLOCK = 4096  # tokens that are looked at together


@dataclass(frozen=True, slots=True)
class Scale:
    """A site's scale and its standard error, relative to the scale."""

    value: float
    relative_error: float = 0.0


def estimate_scale(x: Float[Tensor, "n d"], site: Site) -> Scale:
    """Dataset-wise scale of a sample of activations. Raises DataError where they are all zero."""
    norms = torch.empty(len(x), dtype=torch.float64, device=x.device)
    for some, out in zip(x.split(BLOCK), norms.split(BLOCK), strict=True):
        torch.linalg.vector_norm(some, dim=1, dtype=torch.float64, out=out)
    mean = norms.mean().item()
    if mean <= 0:
        raise DataError(f"all {len(x):,} sampled activations at {site} are zero; there is nothing to learn from them")
    relative = norms.std(correction=0).item() / len(norms) ** 0.5 / mean
    return Scale(x.shape[1] ** 0.5 / mean, relative)


def estimate_scales(sample: Mapping[Site, Float[Tensor, "n d"]], kind: str) -> dict[Site, Scale]:
    """Scales of every site: ``dataset`` estimates them, ``none`` leaves activations as they are."""
    if kind == "none":
        return {site: Scale(1.0) for site in sample}
    with torch.no_grad():
        return {site: estimate_scale(x, site) for site, x in sample.items()}
