"""Inline SVG figures: training curves, the spread of densities, and a feature's activations."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from monoscope.features.records import Feature

W, H = 300, 120
LEFT, RIGHT, TOP, BOTTOM = 38, 6, 8, 20
LOG_RATIO = 5  # a curve whose values span more than this is drawn on a logarithmic axis


@dataclass(frozen=True, slots=True)
class Series:
    """A named curve of a run: ``y`` over ``x``, tokens as a rule."""

    name: str
    x: Sequence[float]
    y: Sequence[float]


@dataclass(frozen=True, slots=True)
class _Axis:
    low: float
    high: float
    log: bool

    def share(self, value: float) -> float:
        """Place of a value along the axis, from 0 to 1."""
        if self.log:
            return (math.log(value) - math.log(self.low)) / (math.log(self.high) - math.log(self.low))
        return (value - self.low) / (self.high - self.low)


def number(value: float) -> str:
    """A number as short as it can be read: 3 significant digits, thousands as k, millions as M."""
    size = abs(value)
    if size >= 999_500:
        return f"{value / 1e6:.3g}M"
    if size >= 9_995:
        return f"{value / 1e3:.3g}k"
    if size >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def fixed(value: float, largest: float) -> str:
    """A number with as many decimals as give the largest of its column 3 digits, so that columns align."""
    decimals = max(0, 2 - math.floor(math.log10(largest))) if largest > 0 else 2
    return f"{value:.{min(decimals, 6)}f}" if largest < 9_995 else number(value)


def percent(share: float) -> str:
    """A share in percent, with 2 significant digits below 10 %."""
    value = 100 * share
    return f"{value:.0f}%" if value >= 10 or value == 0 else f"{value:.2g}%" if value >= 0.001 else "<0.001%"


def curve(series: Series, title: str, form: Callable[[float], str] = number) -> str:
    """A training curve with its last value, written by ``form``; values that are not finite are left out."""
    points = [(x, y) for x, y in zip(series.x, series.y, strict=True) if math.isfinite(x) and math.isfinite(y)]
    if len(points) < 2:
        return ""
    xs, ys = [x for x, _ in points], [y for _, y in points]
    low, high = min(ys), max(ys)
    log = low > 0 and high / low > LOG_RATIO
    if not log:
        low, high = min(low, 0.0), high if high > low else low + 1.0
    y_axis, x_axis = _Axis(low, high if high > low else low * 2 + 1, log), _Axis(min(xs), max(xs) or 1.0, False)
    if x_axis.high == x_axis.low:
        return ""
    line = " ".join(
        f"{'L' if i else 'M'}{_x(x_axis.share(x)):.1f} {_y(y_axis.share(y)):.1f}" for i, (x, y) in enumerate(points)
    )
    area = f"{line} L{_x(1):.1f} {_y(0):.1f} L{_x(0):.1f} {_y(0):.1f}Z"
    body = (
        f'{_y_ticks(y_axis, form)}{_x_label(f"{number(xs[-1])} tokens")}<path class="area" d="{area}"/>'
        f'<path class="curve" d="{line}"/>'
        f'<circle class="dot" cx="{_x(1):.1f}" cy="{_y(y_axis.share(ys[-1])):.1f}" r="3"/>'
    )
    words = f"{title} from {form(ys[0])} to {form(ys[-1])} over {number(xs[-1])} tokens"
    return _figure(title, form(ys[-1]), body, words, "training, log scale" if log else "training")


def densities(density: np.ndarray, shown: Sequence[int]) -> str:
    """Histogram of how often features fire, on a logarithmic axis, with a tick for each feature on the page."""
    alive = density[density > 0]
    if not len(alive):
        return ""
    low, high = math.floor(np.log10(alive.min())), max(math.ceil(np.log10(alive.max())), -1)
    low = min(low, high - 1)
    counts, _ = np.histogram(np.log10(alive), bins=40, range=(low, high))
    width = (W - LEFT - RIGHT) / 40
    bars = "".join(
        f'<rect class="bar" x="{LEFT + i * width + 0.5:.1f}" y="{_y(n / counts.max()):.1f}" width="{width - 1:.1f}" '
        f'height="{_y(0) - _y(n / counts.max()):.1f}"/>'
        for i, n in enumerate(counts)
        if n
    )
    ticks = "".join(
        f'<path class="rug" d="M{_x((math.log10(density[f]) - low) / (high - low)):.1f} {_y(0):.0f}v-5"/>'
        for f in shown
        if density[f] > 0
    )
    labels = "".join(
        f'<text x="{_x((e - low) / (high - low)):.1f}" y="{H - 6}" text-anchor="{"end" if e == high else "middle"}">'
        f"{percent(10.0**e)}</text>"
        for e in range(low, high + 1)
    )
    body = _y_ticks(_Axis(0, float(counts.max()), False)) + bars + ticks + labels
    median = float(np.median(alive))
    words = f"Firing density of {len(alive)} living features, median {percent(median)} of tokens"
    return _figure("Firing density", f"median {percent(median)}", body, words, "")


def activations(feature: Feature, unit: str) -> str:
    """Histogram of a feature's activations where it fires; heights are logarithmic; bands are the intervals."""
    counts, edges = feature.acts.counts.astype(float), feature.acts.edges.astype(float)
    if not counts.any():
        return ""
    w, h = 280, 64
    low, high = float(edges[0]), float(edges[-1])
    heights = np.log1p(counts) / np.log1p(counts.max())

    def x(value: float) -> float:
        return w * (value - low) / (high - low)

    bands = "".join(
        f'<rect class="band" x="{x(band.low):.1f}" width="{x(band.high) - x(band.low):.1f}" y="0" height="{h}"/>'
        for band in feature.intervals
        if band.number % 2 and low >= 0
    )
    step = w / len(counts)
    bars = "".join(
        f'<rect class="bar" x="{i * step + 0.4:.1f}" y="{h - h * top:.1f}" width="{step - 0.8:.1f}" '
        f'height="{h * top:.1f}"/>'
        for i, top in enumerate(heights)
        if top
    )
    words = f"Activations of feature {feature.index} from {number(low)} to {number(high)}"
    if len(feature.quantiles):  # not known in bundles of other tools' files
        words += f", median {number(float(feature.quantiles[len(feature.quantiles) // 2]))}"
    return (
        f'<svg class="hist" viewBox="0 0 {w} {h + 16}" role="img" aria-label="{words}" data-low="{low:.6g}" '
        f'data-high="{high:.6g}">{bands}{bars}<path class="axis" d="M0 {h}H{w}"/>'
        f'<path class="mark" d="M0 0V{h}" hidden/>'
        f'<text x="0" y="{h + 14}">{number(low)}</text>'
        f'<text x="{w / 2}" y="{h + 14}" text-anchor="middle">{html.escape(unit)}</text>'
        f'<text x="{w}" y="{h + 14}" text-anchor="end">{number(high)}</text></svg>'
    )


def _x(share: float) -> float:
    return LEFT + share * (W - LEFT - RIGHT)


def _y(share: float) -> float:
    return H - BOTTOM - share * (H - TOP - BOTTOM)


def _y_ticks(axis: _Axis, form: Callable[[float], str] = number) -> str:
    middle = math.sqrt(axis.low * axis.high) if axis.log else (axis.low + axis.high) / 2
    return "".join(
        f'<path class="grid" d="M{LEFT} {_y(axis.share(value)):.1f}H{W - RIGHT}"/>'
        f'<text x="{LEFT - 5}" y="{_y(axis.share(value)) + 3:.1f}" text-anchor="end">{form(value)}</text>'
        for value in (axis.low, middle, axis.high)
    )


def _x_label(text: str) -> str:
    return f'<text x="{LEFT}" y="{H - 6}">0</text><text x="{W - RIGHT}" y="{H - 6}" text-anchor="end">{text}</text>'


def _figure(title: str, value: str, body: str, words: str, note: str) -> str:
    return (
        f'<figure class="chart"><figcaption><span>{html.escape(title)}</span><small>{html.escape(note)}</small>'
        f"<b>{html.escape(value)}</b></figcaption>"
        f'<svg viewBox="0 0 {W} {H}" role="img" aria-label="{html.escape(words, quote=True)}">{body}</svg></figure>'
    )
