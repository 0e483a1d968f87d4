"""Tokens as HTML: glyphs for what cannot be seen, escaping of everything else, and colors by activation."""

from __future__ import annotations

import html
import math
import re
import unicodedata

from monoscope.features.records import Context

NEWLINE, TAB, RETURN, SPACE = "\u21b5", "\u2192", "\u240d", "\u2423"
GLYPHS = {"\n": NEWLINE, "\t": TAB, "\r": RETURN}
HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp"})  # controls, marks that reorder text, what no font has
HOT, HOT_NEGATIVE = 0.58, 0.7  # opacities from which on black text reads better than white text on a dark page
MAX_CHARACTERS = 200


def visible(text: str) -> str:
    """Text with newlines, tabs and returns as glyphs, and other invisible characters as escapes."""
    if text.isprintable():
        return text
    return "".join(_visible(character) for character in text)


def _visible(character: str) -> str:
    if character in GLYPHS:
        return GLYPHS[character]
    if unicodedata.category(character) in HIDDEN:
        code = ord(character)
        return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"
    return character


def escaped(text: str) -> str:
    """Visible text, safe inside elements and quoted attributes."""
    return html.escape(visible(text), quote=True)


def chip(text: str, kind: str = "tok") -> str:
    """A token standing alone; runs of spaces are counted, and a single one shows as the width of the chip."""
    shown = SPACE if text == " " else re.sub("  +", lambda run: f"{SPACE}{len(run[0])}", text[:MAX_CHARACTERS])
    return f'<code class="{kind}">{escaped(shown)}</code>'


def opacity(value: float, largest: float) -> float:
    """Opacity of a token's color: 0.05 + 0.95 log10(1 + 9 a / max)."""
    return 0.05 + 0.95 * math.log10(1 + 9 * min(abs(value) / largest, 1.0)) if largest > 0 else 0.05


def strip(context: Context, largest: float) -> tuple[str, str]:
    """A context's tokens as HTML, up to its strongest token and from it on. Color is relative to ``largest``."""
    parts = [_token(context, i, largest) for i in range(len(context.tokens))]
    left, right = "".join(parts[: context.peak]), "".join(parts[context.peak :])
    return left, right


def _token(context: Context, i: int, largest: float) -> str:
    text, value = context.tokens[i], float(context.acts[i])
    shown = escaped(text)
    if "\n" in text:
        # The glyph stands for the break; with lines unfolded a real one follows it.
        shown = shown.replace(NEWLINE, f'<span class="nl">{NEWLINE}</span><br>')
    peak = " pk" if i == context.peak and context.interval > -2 else ""
    if not value:
        return f'<b class="t{peak}">{shown}</b>' if peak else shown
    alpha = opacity(value, largest)
    classes = (
        "t" + peak + (" hot" if alpha >= (HOT if value > 0 else HOT_NEGATIVE) else "") + (" neg" if value < 0 else "")
    )
    place = context.start + i
    return f'<b class="{classes}" style="--a:{alpha:.2f}" data-v="{value:.3g}" data-p="{place}">{shown}</b>'
