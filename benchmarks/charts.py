"""Two kinds of charts as SVG: bars, and lines on logarithmic axes. Black on white, so that they show on any page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

COLORS = ("#1f6feb", "#d1242f", "#1a7f37", "#9a6700")
GREY = "#8c959f"


def bars(title: str, rows: Sequence[tuple[str, float, bool]], width: int = 720) -> str:
    """Horizontal bars: label, value, and whether it is one of ours."""
    left, row, top = 210, 26, 40
    most = max(value for _, value, _ in rows)
    parts = [_text(12, 24, title, weight="bold")]
    for i, (label, value, is_ours) in enumerate(rows):
        y = top + i * row
        length = (width - left - 90) * value / most
        parts.append(_text(left - 8, y + 15, label, anchor="end"))
        color = COLORS[0] if is_ours else GREY
        parts.append(f'<rect x="{left}" y="{y}" width="{length:.1f}" height="{row - 8}" fill="{color}"/>')
        parts.append(_text(left + length + 6, y + 15, f"{value:,.0f}"))
    return _svg(width, top + len(rows) * row + 8, parts)


def lines(
    title: str, x_label: str, y_label: str, series: Mapping[str, Sequence[tuple[float, float]]], width: int = 720
) -> str:
    """Points joined by lines, both axes logarithmic; the first series in grey is what is compared with."""
    height, left, right, top, bottom = 320, 80, 190, 44, 48
    points = [point for line in series.values() for point in line]
    spans = [(min(p[axis] for p in points), max(p[axis] for p in points)) for axis in (0, 1)]

    def place(x: float, y: float) -> tuple[float, float]:
        across, up = (
            (math.log(v) - math.log(low)) / ((math.log(high) - math.log(low)) or 1)
            for v, (low, high) in zip((x, y), spans, strict=True)
        )
        return left + across * (width - left - right), height - bottom - up * (height - top - bottom)

    parts = [_text(12, 24, title, weight="bold"), _text(width - right, height - 10, x_label, anchor="end")]
    parts.append(_text(12, top - 4, y_label))
    for x in sorted({x for x, _ in points}):
        at, base = place(x, spans[1][0])
        parts.append(f'<line x1="{at:.1f}" y1="{top}" x2="{at:.1f}" y2="{base:.1f}" stroke="#d0d7de"/>')
        parts.append(_text(at, base + 18, f"{x:,.0f}", anchor="middle"))
    for y in sorted(spans[1]):
        start, at = place(spans[0][0], y)
        parts.append(f'<line x1="{start:.1f}" y1="{at:.1f}" x2="{width - right}" y2="{at:.1f}" stroke="#d0d7de"/>')
        parts.append(_text(left - 6, at + 4, f"{y:,.0f}" if y >= 10 else f"{y:.2g}", anchor="end"))
    for i, (name, line) in enumerate(series.items()):
        color, dash = (GREY, ' stroke-dasharray="5 4"') if i == 0 else (COLORS[i - 1], "")
        placed = [place(*point) for point in line]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in placed)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="2"{dash}/>')
        if i:
            parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{color}"/>' for x, y in placed]
        parts.append(_text(width - right + 14, top + 14 + 20 * i, name, color=color))
    return _svg(width, height, parts)


def _text(x: float, y: float, text: str, anchor: str = "start", weight: str = "normal", color: str = "#1f2328") -> str:
    style = f'font-weight="{weight}" text-anchor="{anchor}" fill="{color}"'
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{escape(text)}</text>'


def _svg(width: int, height: int, parts: Sequence[str]) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    body = "\n".join(["", '<rect width="100%" height="100%" fill="white"/>', *parts, "</svg>", ""])
    return f'{head} font-family="sans-serif" font-size="13">{body}'
