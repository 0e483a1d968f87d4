"""Features whose direction is like another's: the cosine of their rows of the decoder.

    cos(i, j) = <W_i, W_j> / (|W_i| |W_j|)

Exact, block by block, over half-precision directions mapped from the bundle.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float16, Float32

from monoscope.features.search.derived import blocks
from monoscope.features.search.records import Match
from monoscope.features.search.tokens import strongest


def alike(
    directions: Float16[np.ndarray, "F d"],
    norm: Float32[np.ndarray, " F"],
    wanted: Float32[np.ndarray, " d"],
    limit: int,
    *,
    but: int | None = None,
) -> list[Match]:
    """Features by the cosine of their direction with another, those that point elsewhere left out.

    ``but``: leave one out. Empty where the directions are of another width.
    """
    if directions.shape[1] != len(wanted):
        return []
    product = np.concatenate([block @ wanted for _, block in blocks(directions)])
    cosine = product / np.maximum(norm * np.linalg.norm(wanted), 1e-12)
    if but is not None:
        cosine[but] = 0.0
    return [
        Match(feature, "direction", min(float(cosine[feature]), 1.0), f"cosine {cosine[feature]:.3f}")
        for feature in strongest(cosine, limit).tolist()
    ]
