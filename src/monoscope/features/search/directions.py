"""Features whose direction is like another's: the cosine of their rows of the decoder.

    cos(i, j) = <W_i, W_j> / (|W_i| |W_j|)

Exact, block by block, over half-precision directions mapped from the bundle.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32

from monoscope.features.bundle import FeatureBundle
from monoscope.features.search.derived import Arrays, blocks
from monoscope.features.search.records import Match
from monoscope.features.search.tokens import strongest


def direction(bundle: FeatureBundle, feature: int) -> Float32[np.ndarray, " d"] | None:
    """A feature's direction; None where the bundle carries none."""
    directions = bundle.directions()
    return None if directions is None else np.asarray(directions[feature], np.float32)


def alike(
    bundle: FeatureBundle, arrays: Arrays, wanted: Float32[np.ndarray, " d"], limit: int, *, but: int | None = None
) -> list[Match]:
    """Features of a bundle by the cosine of their direction with another, its opposite excluded.

    ``but``: leave one out. Empty where the bundle has no directions, or directions of another width.
    """
    directions = bundle.directions()
    if directions is None or directions.shape[1] != len(wanted):
        return []
    product = np.concatenate([block @ wanted for _, block in blocks(directions)])
    cosine = product / np.maximum(arrays["norm"] * np.linalg.norm(wanted), 1e-12)
    if but is not None:
        cosine[but] = 0.0
    return [
        Match(feature, "direction", float(cosine[feature]), f"cosine {cosine[feature]:.3f}")
        for feature in strongest(cosine, limit).tolist()
    ]
