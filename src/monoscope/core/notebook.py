"""What objects look like in a notebook: static HTML without scripts or style sheets, all text escaped.

It survives wherever notebooks are shown: GitHub, nbconvert, a page that was saved. Colors come from the page around it,
so that it is readable on light and dark.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Mapping
from typing import Any

CELL = "padding:1px 12px 1px 0;text-align:left;vertical-align:top;border:none;background:none"


def described(title: str, facts: Mapping[str, Any]) -> str:
    """A title, and a line for each fact that is known."""
    known = {name: written(value) for name, value in facts.items() if value is not None and value != ""}
    rows = "".join(
        f'<tr><td style="{CELL};opacity:.7">{html.escape(name)}</td><td style="{CELL}">{html.escape(text)}</td></tr>'
        for name, text in known.items()
    )
    return f'<div><strong>{html.escape(title)}</strong><table style="border:none;margin:4px 0">{rows}</table></div>'


def written(value: Any) -> str:
    """A fact as text: numbers short, several with commas between them."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, (list, tuple)):
        shown = ", ".join(map(written, value[:6]))
        return shown + (f", and {len(value) - 6} more" if len(value) > 6 else "")
    return str(value)


def bars(counts: Iterable[float], *, width: int = 160, height: int = 28) -> str:
    """Counts as a row of bars; heights are relative to the largest, square roots so that small ones are seen."""
    values = [max(0.0, float(count)) ** 0.5 for count in counts]
    largest = max(values, default=0.0)
    if largest == 0:
        return ""
    step = width / len(values)
    drawn = "".join(
        f'<rect x="{i * step:.1f}" y="{height * (1 - value / largest):.1f}" width="{max(step - 0.5, 0.5):.1f}" '
        f'height="{height * value / largest:.1f}"/>'
        for i, value in enumerate(values)
        if value
    )
    label = f'role="img" aria-label="histogram of {len(values)} bins"'
    return f'<svg width="{width}" height="{height}" fill="rgb(16,185,129)" {label}>{drawn}</svg>'


def curve(x: Iterable[float], y: Iterable[float], name: str, *, width: int = 160, height: int = 48) -> str:
    """A line through the points that are finite, from the lowest to the highest of them."""
    points = [(float(a), float(b)) for a, b in zip(x, y, strict=True) if math.isfinite(a) and math.isfinite(b)]
    if not points:
        return ""
    (left, right), (low, high) = ((min(values), max(values)) for values in zip(*points, strict=True))
    across, up = width / ((right - left) or 1.0), (height - 2) / ((high - low) or 1.0)
    line = " ".join(f"{(a - left) * across:.1f},{height - 1 - (b - low) * up:.1f}" for a, b in points)
    label = f'role="img" aria-label="{html.escape(name)} from {points[0][1]:.4g} to {points[-1][1]:.4g}"'
    return (
        f'<svg width="{width}" height="{height}" fill="none" stroke="rgb(16,185,129)" stroke-width="1.5" {label}>'
        f'<polyline points="{line}"/></svg>'
    )
