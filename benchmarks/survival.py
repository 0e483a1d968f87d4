"""What becomes of features when a language model runs in bf16: the same text in both precisions, the same dictionary.

kept: share of the active (token, feature) entries in fp32 that are active in bf16 too
kept_weight: the same, each entry counted by its activation
error: sum |x_bf16 - x|^2 / sum |x - mean(x)|^2, of the activations themselves
fvu, fvu_bf16: variance of the fp32 activations that is unexplained by the dictionary's reading of x, and of x_bf16
"""

from __future__ import annotations

import torch

from monoscope.core.site import Site
from monoscope.dictionaries import Dictionary
from monoscope.harvest import ActivationSource, TokenWindows, live
from monoscope.models import LanguageModel


def survival(dictionary: Dictionary, lm: LanguageModel, bf16: LanguageModel, windows: TokenWindows) -> dict[str, float]:
    """Features of the same windows, as a model computes them in fp32 and in bf16."""
    (site,) = dictionary.reads
    sums = dict.fromkeys(("entries", "both", "weight", "both weight", "error", "left", "left bf16", "total"), 0.0)
    pairs = zip(_rows(live(lm, windows, [site]), site), _rows(live(bf16, windows, [site]), site), strict=True)
    for x, near in pairs:
        acts, acts_near = dictionary.encode(x), dictionary.encode(near)
        value, active = acts.dense(), acts_near.dense() != 0
        both = (value != 0) & active
        sums["entries"] += int((value != 0).sum())
        sums["both"] += int(both.sum())
        sums["weight"] += float(value.abs().sum())
        sums["both weight"] += float(value[both].abs().sum())
        sums["error"] += _squares(near - x)
        sums["left"] += _squares(dictionary.decode(acts, x) - x)
        sums["left bf16"] += _squares(dictionary.decode(acts_near, near) - x)
        sums["total"] += _squares(x - x.mean(0))
    return {
        "kept": sums["both"] / sums["entries"],
        "kept_weight": sums["both weight"] / sums["weight"],
        "error": sums["error"] / sums["total"],
        "fvu": sums["left"] / sums["total"],
        "fvu_bf16": sums["left bf16"] / sums["total"],
    }


def _rows(source: ActivationSource, site: Site) -> list[torch.Tensor]:
    with torch.inference_mode():
        return [batch.flat().activations[site] for batch in source]


def _squares(x: torch.Tensor) -> float:
    return float(x.double().pow(2).sum())
