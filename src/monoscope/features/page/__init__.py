"""One self-contained HTML page of a bundle: the run's numbers and curves, and the features best worth a look.

Everything is in the file: styles, script, figures, tokens. Its content policy refuses any request, and any script but
its own; every token is escaped.
"""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path

from monoscope.core.io import write_text
from monoscope.core.progress import progress
from monoscope.features.bundle import FeatureBundle
from monoscope.features.interesting import interest_of, interesting
from monoscope.features.page.cards import card, entry
from monoscope.features.page.figures import Series, curve, densities, number, percent

__all__ = ["Series", "render_page", "write_page"]

NOWHERE = "base-uri 'none'; form-action 'none'"
CURVES = {"fvu": "FVU", "l0": "L0", "dead": "Dead share", "loss": "Loss"}
SHARES = frozenset({"dead"})
LENS = (
    '<svg viewBox="0 0 24 24" aria-hidden="true" fill="none" stroke="currentColor" stroke-width="2.2">'
    '<circle cx="10.5" cy="10.5" r="7"/><circle cx="10.5" cy="10.5" r="2.2" fill="currentColor" stroke="none"/>'
    '<path d="m16 16 5.5 5.5" stroke-linecap="round"/></svg>'
)


def write_page(
    path: Path | str,
    bundle: FeatureBundle,
    *,
    series: Sequence[Series] = (),
    facts: Mapping[str, str | float] | None = None,
    features: Sequence[int] | None = None,
    labels: Mapping[int, str] | None = None,
    title: str | None = None,
    notes: Mapping[int, str] | None = None,
    n: int = 60,
) -> Path:
    """Write the page of a bundle and return its path; what stood there is replaced.

    series: curves of the training run, drawn in their order
    facts: further numbers to show beside the bundle's own, such as ``{"tokens/s": 7000}``
    features: which to show, in that order; without it, the ``n`` best worth a look
    labels: what people call them, in place of what their contexts have in common
    title: the page's heading, such as the name of a list; notes: what is said of single features
    """
    path = Path(path)
    given = {"features": features, "labels": labels, "title": title, "notes": notes}
    write_text(path, render_page(bundle, series=series, facts=facts, **given, n=n))
    return path


def render_page(
    bundle: FeatureBundle,
    *,
    series: Sequence[Series] = (),
    facts: Mapping[str, str | float] | None = None,
    features: Sequence[int] | None = None,
    labels: Mapping[int, str] | None = None,
    title: str | None = None,
    notes: Mapping[int, str] | None = None,
    n: int = 60,
) -> str:
    """The page as text. See ``write_page``."""
    chosen = interesting(bundle, n) if features is None else interest_of(bundle, features)
    labels, notes = labels or {}, notes or {}
    on_page = frozenset(interest.feature for interest in chosen)
    cards, entries = [], []
    with progress("draw features", len(chosen), "features") as bar:
        for interest in chosen:
            feature = bundle.feature(interest.feature)
            label = labels.get(feature.index)
            cards.append(card(feature, interest, on_page, label, notes.get(feature.index, "")))
            entries.append(entry(feature, interest, label))
            bar.advance(1)
    figures = [
        curve(item, CURVES.get(item.name, item.name), percent if item.name in SHARES else number) for item in series
    ]
    figures.append(densities(bundle.column("density"), [interest.feature for interest in chosen]))
    model, site = _names(bundle)
    heading = f"What <em>{model}</em> computes at <em>{site}</em>" if title is None else html.escape(title)
    named = f"{model} at {site}: features" if title is None else f"{html.escape(title)}: {model} at {site}"
    of = "" if title is None else f" of {model} at {site}"
    which = f"These {len(chosen)} are best worth a look" if features is None else f"Here are {len(chosen)} of them"
    lead = (
        f"A dictionary splits the model's activations into {len(bundle):,} features{of}, each a direction that is "
        f"active on few tokens. {which}: the text where each fires, and the tokens it makes likelier."
    )
    top = f'<h1>{heading}</h1>\n<p class="lead">{lead}</p>\n{_tiles(bundle, facts or {})}'
    return _document(bundle, named, f'{top}\n<div class="charts">{"".join(figures)}</div>', cards, entries)


def _tiles(bundle: FeatureBundle, facts: Mapping[str, str | float]) -> str:
    stats, dictionary, data = (bundle.manifest[key] for key in ("stats", "dictionary", "data"))
    rows: list[tuple[str, str | None, str]] = [
        ("Features", f"{len(bundle):,}", _wiring(dictionary)),
        ("Active per token", _number(stats.get("l0")), "L0"),
        ("Variance unexplained", _number(stats.get("fvu")), "FVU, as evaluated"),
        ("CE recovered", _percent(stats.get("ce_recovered")), "of the model's loss, when spliced in"),
        ("Dead", _percent(stats.get("dead_share")), "features that never fired here"),
        ("Tokens read", number(data["n_tokens"]) if data["n_tokens"] else None, f"{data['n_sequences']:,} sequences"),
    ]
    rows += [(name, value if isinstance(value, str) else number(value), "") for name, value in facts.items()]
    cells = (
        f"<div><dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd><small>{html.escape(note)}</small></div>"
        for name, value, note in rows
        if value is not None
    )
    return f'<dl class="tiles">{"".join(cells)}</dl>'


def _wiring(dictionary: Mapping[str, object]) -> str:
    sizes = (("k", dictionary.get("k")), ("d", dictionary.get("d_model")))
    known = ", ".join(f"{name} = {size}" for name, size in sizes if size is not None)
    return ", ".join(filter(None, (str(dictionary["function"]), known)))


def _number(value: float | None) -> str | None:
    return None if value is None else number(value)


def _percent(value: float | None) -> str | None:
    return None if value is None else f"{100 * value:.1f}%"


def _document(bundle: FeatureBundle, title: str, top: str, cards: Sequence[str], entries: Sequence[str]) -> str:
    assets = files("monoscope.features.page")
    style, script = (assets.joinpath(name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; {NOWHERE}"
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="referrer" content="no-referrer">
<title>{title}</title>
<style>
{style}</style>
</head>
<body>
<a class="skip" href="#features">Skip to the features</a>
<header class="top wrap">
<div class="brand">{LENS}<span>monoscope</span></div>
{top}
</header>
<main>
<div class="tools" role="search"><div class="wrap">
<h2>Features</h2>
<input id="filter" type="search" placeholder="Token or number" aria-label="Token or number" spellcheck="false">
<output id="count" for="filter" aria-live="polite">{len(cards)} shown</output>
<span class="keys"><kbd>j</kbd> <kbd>k</kbd> next, previous &ensp;<kbd>/</kbd> filter &ensp;<kbd>l</kbd> lines</span>
<button id="keys" type="button" aria-pressed="true" title="Single-letter keys on or off">Keys</button>
<button id="lines" type="button" aria-pressed="false" title="Unfold every context into its lines">Lines</button>
<button id="theme" type="button" title="Light, dark, or the system's choice">Auto</button>
</div></div>
<div class="layout wrap">
<nav aria-label="Features on this page"><ol>{"".join(entries)}</ol></nav>
<div id="features">{"".join(cards)}
<p class="none" id="none" hidden>No feature on this page has that token or number.</p></div>
</div>
</main>
<footer><div class="wrap">{_footer(bundle)}</div></footer>
<div id="tip" role="tooltip" hidden></div>
<script>{script}</script>
</body>
</html>
"""


def _names(bundle: FeatureBundle) -> tuple[str, str]:
    model = str(bundle.manifest["model"]["id"] or "a model").rstrip("/").rsplit("/", 1)[-1]
    return html.escape(model), html.escape(", ".join(bundle.manifest["dictionary"]["writes"]))


def _footer(bundle: FeatureBundle) -> str:
    analysis = bundle.manifest["intervals"]
    return (
        "<p>Color shows how strongly a feature is active on a token, on one scale for all its contexts; the outlined "
        "token is the strongest of its sequence. Click a context to unfold it. Promoted and suppressed tokens follow "
        "the direct path from the feature to the logits, at the final norm's gain.</p>"
        f"<p>Contexts below the strongest are samples of {analysis['n']} equal bands of its activations. "
        f"Bundle <code>{html.escape(bundle.manifest['fingerprint'][:16])}</code>, "
        f"written {html.escape(str(bundle.manifest.get('created', '')))}.</p>"
    )
