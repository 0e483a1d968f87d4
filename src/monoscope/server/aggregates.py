"""What the page of a dictionary shows of all features at once: histograms, training curves, features worth a look."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from monoscope.features.bundle import FeatureBundle
from monoscope.server.wire.dictionary import Bins, Curves

BINS, POINTS = 60, 300
LOG_BYTES = 64_000_000
CURVES = ("fvu", "l0", "dead", "loss")
SHOWN = 60
MIN_SEQUENCES, MAX_DENSITY, MAX_FIRST = 12, 0.05, 0.5


def density_histogram(bundle: FeatureBundle) -> Bins:
    """Features by firing rate, on a logarithmic scale; those that never fire are left out."""
    density = bundle.column("density").astype(np.float64)
    density = density[np.isfinite(density) & (density > 0)]
    if not len(density):
        return Bins(edges=[], counts=[], scale="log")
    low, high = np.log10(density.min()), np.log10(density.max())
    counts, edges = np.histogram(np.log10(density), BINS, (low, max(high, low + 1e-6)))
    return Bins(edges=_short(10**edges), counts=counts.tolist(), scale="log")


def norm_histogram(bundle: FeatureBundle) -> Bins | None:
    """Features by norm of their direction; None where it is not known."""
    norm = bundle.column("dec_norm").astype(np.float64)
    norm = norm[np.isfinite(norm)]
    if not len(norm):
        return None
    counts, edges = np.histogram(norm, BINS, (norm.min(), max(norm.max(), norm.min() + 1e-6)))
    return Bins(edges=_short(edges), counts=counts.tolist(), scale="linear")


def n_dead(bundle: FeatureBundle) -> int:
    """Features that never fired."""
    return int(np.count_nonzero(bundle.column("is_dead")))


def notable(bundle: FeatureBundle) -> list[int]:
    """Features to begin with, by their scalars alone: selective, peaked in activation and in logits, of many tokens.

    score = rank of the kurtosis of logit effects * (1 - mean / max activation) * (1 + share of the top token)
    """
    table = {name: bundle.column(name) for name in ("density", "max_act", "mean_act", "n_sequences", "first_pos_share")}
    candidate: Bool[np.ndarray, " F"] = (table["n_sequences"] >= MIN_SEQUENCES) & (table["density"] <= MAX_DENSITY)
    candidate &= np.nan_to_num(table["first_pos_share"]) < MAX_FIRST
    kurtosis = np.nan_to_num(bundle.column("logit_kurtosis").astype(np.float64))
    rank = np.argsort(np.argsort(kurtosis, kind="stable"), kind="stable") / max(len(bundle) - 1, 1)
    largest = np.maximum(np.abs(table["max_act"].astype(np.float64)), 1e-12)
    contrast = np.clip(1 - np.abs(table["mean_act"]) / largest, 0, 1)
    share = np.nan_to_num(bundle.column("top_token_share").astype(np.float64))
    score = np.where(candidate, rank * contrast * (1 + share), 0)
    chosen: list[int] = []
    seen: set[str] = set()
    top = bundle.column("top_token")
    for feature in np.argsort(-score, kind="stable")[: SHOWN * 20].tolist():
        token = bundle.vocabulary[int(top[feature])] if int(top[feature]) < len(bundle.vocabulary) else ""
        word = token.strip().lower()
        if score[feature] > 0 and word not in seen:
            seen.add(word)
            chosen.append(feature)
            if len(chosen) == SHOWN:
                break
    return chosen


def curves(log: Path) -> Curves | None:
    """Training curves of a log, thinned to a few hundred points."""
    try:
        with log.open("rb") as file:
            lines = file.read(LOG_BYTES).splitlines()
    except OSError:
        return None
    step = max(1, len(lines) // POINTS)
    rows = [row for line in lines[::step] if isinstance(row := _row(line), dict) and isinstance(row.get("tokens"), int)]
    if not rows:
        return None
    names = [name for name in CURVES if any(isinstance(row.get(name), (int, float)) for row in rows)]
    return Curves(
        tokens=[row["tokens"] for row in rows],
        series={name: [_number(row.get(name)) for row in rows] for name in names},
    )


def _row(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _short(values: np.ndarray) -> list[float]:
    return [float(f"{value:.6g}") for value in values.tolist()]
