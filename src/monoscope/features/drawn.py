"""A feature as pages, notebooks and other programs draw it: plain JSON, with the keys that the server's records have.

Texts of tokens cross as they are and become text nodes. Measured numbers have six significant digits, about what single
precision holds; what is not finite is null.
"""

from __future__ import annotations

import math
from collections.abc import Set
from typing import Any

import numpy as np

from monoscope.features.records import Context, Feature, Histogram, Token

SAME = (
    "index n_fired density n_sequences max_act p999_act mean_act std_act is_dead dec_norm enc_norm enc_dec_cos "
    "first_pos_share logit_kurtosis"
)


def digits(values: np.ndarray) -> list[Any]:
    """Numbers to six significant digits; what is not finite as None."""
    if values.dtype.kind != "f":
        return values.tolist()
    wide = values.astype(np.float64)
    finite = np.isfinite(wide)
    size = np.where(finite & (wide != 0), np.abs(wide), 1.0)
    scale = 10.0 ** (5 - np.floor(np.log10(size)))
    rounded = np.where(finite & np.isfinite(scale), np.round(wide * scale) / scale, wide)
    out: list[Any] = rounded.tolist()
    if not finite.all():
        for i in np.flatnonzero(~finite).tolist():
            out[i] = None
    return out


def short(value: float | None) -> float | None:
    """A number to six significant digits; None for what is not finite."""
    return float(f"{value:.6g}") if value is not None and math.isfinite(value) else None


def drawn(feature: Feature, special: Set[int] = frozenset()) -> dict[str, Any]:
    """A feature and all its contexts; ``special`` are ids of special tokens."""
    return {"feature": feature_record(feature), "contexts": contexts_record(feature, special)}


def feature_record(feature: Feature) -> dict[str, Any]:
    """Numbers, histograms and tokens of a feature."""
    low = float(feature.acts.edges[0]) if len(feature.acts.edges) else 0.0
    return {
        **{name: _finite(getattr(feature, name)) for name in SAME.split()},
        "signed": low < 0,
        "min_act": min(low, 0.0),
        "act_histogram": _bins(feature.acts),
        "logit_histogram": _bins(feature.logits),
        "quantiles": digits(feature.quantiles),
        "bands": [
            {"interval": band.number, "low": short(band.low), "high": short(band.high), "share": short(band.share)}
            for band in feature.intervals
        ],
        "tokens": [
            {"id": token.id, "text": token.text, "share": short(token.value), "mean": mean}
            for token, mean in zip(feature.tokens, digits(feature.token_means), strict=True)
        ],
        "promoted": tokens_record(feature.promoted),
        "suppressed": tokens_record(feature.suppressed),
    }


def contexts_record(
    feature: Feature,
    special: Set[int] = frozenset(),
    *,
    interval: int | None = None,
    limit: int | None = None,
    window: int | None = None,
) -> dict[str, Any]:
    """Contexts by interval: the strongest, the bands, random firings, look-alikes. Every text is there once.

    interval: of one alone; limit: so many of each; window: so many tokens around the peak
    """
    texts: dict[int, str] = {}
    places: dict[int, int] = {}
    groups: dict[int, list[Context]] = {}
    bands = {band.number: band for band in feature.intervals}
    for context in feature.contexts:
        if interval is None or context.interval == interval:
            groups.setdefault(context.interval, []).append(context)
    records = []
    for number in sorted(groups, key=lambda number: (number < 0, abs(number))):
        band = bands.get(number)
        records.append(
            {
                "interval": number,
                **{key: None if band is None else short(getattr(band, key)) for key in ("low", "high", "share")},
                "contexts": [_context(context, texts, places, window) for context in groups[number][:limit]],
            }
        )
    return {
        "strings": [texts[token] for token in places],
        "special": [place for token, place in places.items() if token in special],
        "max_act": short(max((abs(context.max_act) for context in feature.contexts), default=None)),
        "groups": records,
    }


def tokens_record(tokens: tuple[Token, ...]) -> list[dict[str, Any]]:
    """Tokens with a value each."""
    return [{"id": token.id, "text": token.text, "value": short(token.value)} for token in tokens]


def _context(context: Context, texts: dict[int, str], places: dict[int, int], window: int | None) -> dict[str, Any]:
    first, last = 0, context.stop - context.start
    if window is not None and last > window:
        first = min(max(context.peak - window // 2, 0), last - window)
        last = first + window
    acts, ids = context.acts[first:last], context.token_ids[first:last]
    texts.update(zip(ids, context.tokens[first:last], strict=True))
    fires = np.flatnonzero(acts)
    return {
        "rank": context.rank,
        "seq": context.sequence,
        "doc": context.document,
        "start": context.start + first,
        "stop": context.start + last,
        "peak": context.peak - first,
        "max_act": short(context.max_act),
        "dup_of": context.dup_of,
        "tokens": [places.setdefault(token, len(places)) for token in ids],
        "pos": fires.tolist(),
        "val": digits(acts[fires]),
        "src_pos": [position - context.start - first for position, _ in context.sources],
        "src_val": [short(value) for _, value in context.sources],
    }


def _bins(histogram: Histogram) -> dict[str, Any]:
    return {"edges": digits(histogram.edges), "counts": histogram.counts.tolist(), "scale": "linear"}


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
