"""A feature as a card: what its contexts have in common, its numbers, and its contexts, strongest tokens aligned."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence

from monoscope.features.interesting import Finding, Interest
from monoscope.features.page.figures import activations, fixed, number, percent
from monoscope.features.page.tokens import chip, escaped, strip
from monoscope.features.records import Context, Feature, Neighbor, Token

SHOWN_TOP, MORE_TOP, PER_BAND, OTHERS = 8, 12, 3, 5
SHOWN_TOKENS, SHOWN_NEIGHBORS = 6, 4
ORDER = ("on", "after", "before", "line", "repeats")
WORDS = {"on": "on", "after": "after", "before": "before", "line": "in lines opening with"}


def card(
    feature: Feature, interest: Interest, on_page: frozenset[int], label: str | None = None, note: str = ""
) -> str:
    """One feature, and what is said of it; its neighbors are links where they are on the page too."""
    largest = max((abs(context.max_act) for context in feature.contexts), default=0.0)
    i, find = feature.index, _search(feature, interest)
    title = headline(feature, interest) if label is None else f'<span class="what">{html.escape(label)}</span>'
    find = find if label is None else f"{html.escape(label.lower(), quote=True)} {find}"
    said = f'<p class="note" dir="auto">{html.escape(note)}</p>' if note.strip() else ""
    return (
        f'<article class="card" id="f{i}" tabindex="-1" aria-labelledby="h{i}" data-find="{find}">'
        f'<header><h3 id="h{i}"><a href="#f{i}">#{i}</a> {title}</h3>{_numbers(feature)}{said}</header>'
        f'<div class="body"><div class="side">{_activations(feature)}{_logits(feature)}{_fires_on(feature)}'
        f'{_related(feature, on_page)}</div><div class="contexts">{_contexts(feature, largest)}</div></div></article>'
    )


def entry(feature: Feature, interest: Interest, label: str | None = None) -> str:
    """The feature's line in the list of features."""
    words = _short(feature, interest) if label is None else html.escape(label)
    return f'<li><a href="#f{feature.index}"><i>{feature.index}</i>{words}</a></li>'


def headline(feature: Feature, interest: Interest) -> str:
    """What the contexts have in common, in words; the most frequent tokens where they have nothing."""
    found = {finding.view: finding for finding in interest.findings}
    parts = [_finding(found[view]) for view in ORDER if view in found]
    if parts:
        verb = "is negative" if interest.is_negative else "fires"
        return f'<span class="what">{verb} ' + " ".join(parts) + "</span>"
    often = "".join(chip(token.text) for token in feature.tokens[:4])
    return f'<span class="what">fires most often on {often}</span>'


def _finding(finding: Finding) -> str:
    share = f'title="{percent(finding.share)} of its contexts"'
    if finding.view == "repeats":
        return f"<span {share}>where a pair of tokens comes again</span>"
    return (
        f"<span {share}>{WORDS[finding.view]} {chip(finding.text, 'tok on' if finding.view == 'on' else 'tok')}</span>"
    )


def _short(feature: Feature, interest: Interest) -> str:
    found = {finding.view: finding.text for finding in interest.findings}
    tokens = [chip(found["after"])] if "after" in found else []
    if "on" in found or not tokens:
        tokens.append(chip(found.get("on", feature.tokens[0].text if feature.tokens else ""), "tok on"))
    if "before" in found and len(tokens) < 2:
        tokens.append(chip(found["before"]))
    return "".join(tokens)


def _numbers(feature: Feature) -> str:
    least = float(feature.quantiles[0]) if len(feature.quantiles) else 0.0
    facts = [
        ("density", percent(feature.density), "share of tokens on which it fires"),
        *([("min", number(least), "most negative activation")] if least < 0 else []),
        ("max", number(feature.max_act), "largest activation"),
        ("sequences", number(feature.n_sequences), "in which it fires"),
    ]
    cells = "".join(f'<div title="{note}"><dt>{name}</dt><dd>{value}</dd></div>' for name, value, note in facts)
    return f'<dl class="facts">{cells}</dl>'


def _activations(feature: Feature) -> str:
    return f"<section><h4>Activations <small>log counts</small></h4>{activations(feature, 'activation')}</section>"


def _logits(feature: Feature) -> str:
    if not feature.promoted:
        return ""
    largest = max((abs(token.value) for token in (*feature.promoted[:1], *feature.suppressed[:1])), default=1.0)
    columns = (
        f"<div><h4>{title}</h4>{_bars(tokens[:SHOWN_TOKENS], largest, kind)}</div>"
        for title, tokens, kind in (("Promotes", feature.promoted, "pos"), ("Suppresses", feature.suppressed, "neg"))
    )
    return f'<section class="two">{"".join(columns)}</section>'


def _bars(tokens: Sequence[Token], largest: float, kind: str) -> str:
    rows = (
        f'<li style="--w:{100 * min(abs(token.value) / (largest or 1.0), 1):.0f}%">{chip(token.text)}'
        f"<span>{_signed(token.value)}</span></li>"
        for token in tokens
    )
    return f'<ol class="bars {kind}">{"".join(rows)}</ol>'


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "\u2212")


def _fires_on(feature: Feature) -> str:
    rows = (
        f'<li style="--w:{100 * token.value:.0f}%">{chip(token.text)}<span>{percent(token.value)}</span></li>'
        for token in feature.tokens[:SHOWN_TOKENS]
        if token.value == token.value
    )
    return f'<section><h4>Fires on</h4><ol class="bars share">{"".join(rows)}</ol></section>'


def _related(feature: Feature, on_page: frozenset[int]) -> str:
    rows = []
    for title, neighbors, form in (
        ("Nearest directions", feature.decoder_neighbors, "cosine {:.2f}"),
        ("Fires together with", feature.together, "{:.1f} nats of mutual information"),
    ):
        links = " ".join(_neighbor(neighbor, form, on_page) for neighbor in neighbors[:SHOWN_NEIGHBORS])
        if links:
            rows.append(f"<dt>{title}</dt><dd>{links}</dd>")
    return f'<section><dl class="related">{"".join(rows)}</dl></section>' if rows else ""


def _neighbor(neighbor: Neighbor, form: str, on_page: frozenset[int]) -> str:
    title = html.escape(form.format(neighbor.value), quote=True)
    if neighbor.feature in on_page:
        return f'<a href="#f{neighbor.feature}" title="{title}">{neighbor.feature}</a>'
    return f'<span title="{title}">{neighbor.feature}</span>'


def _contexts(feature: Feature, largest: float) -> str:
    top = feature.interval(0)
    kept = [context for context in top if context.dup_of is None]
    more = kept[SHOWN_TOP : SHOWN_TOP + MORE_TOP]
    out = [_group("Strongest", "", kept[:SHOWN_TOP], largest)]
    folded = [context for context in top if context.dup_of is not None][:OTHERS]
    out.append(_fold(f"{len(more)} more", more, largest))
    out.append(_fold(f"{len(folded)} near-identical", folded, largest))
    for band in feature.intervals:
        shown = feature.interval(band.number)[:PER_BAND]
        if shown:
            limits = f"{fixed(band.low, largest)}\u2013{fixed(band.high, largest)}"
            share = "" if math.isnan(band.share) else f"{percent(band.share)} of firings"  # which an import may lack
            out.append(_group(limits, share, shown, largest))
    random, silent = feature.interval(-1)[:OTHERS], feature.interval(-2)[:OTHERS]
    out.append(_fold(f"{len(random)} at random", random, largest))
    out.append(_fold(f"{len(silent)} where it stays silent", silent, largest))
    return "".join(out)


def _group(title: str, note: str, contexts: Sequence[Context], largest: float) -> str:
    small = f" <small>{note}</small>" if note else ""
    return f"<section><h4>{title}{small}</h4>{_rows(contexts, largest)}</section>" if contexts else ""


def _fold(title: str, contexts: Sequence[Context], largest: float) -> str:
    return f"<details><summary>{title}</summary>{_rows(contexts, largest)}</details>" if contexts else ""


def _rows(contexts: Sequence[Context], largest: float) -> str:
    return f'<ol class="rows">{"".join(_row(context, largest) for context in contexts)}</ol>'


def _row(context: Context, largest: float) -> str:
    left, right = strip(context, largest)
    value = fixed(context.max_act, largest) if context.interval > -2 else "\u2013"
    return (
        f'<li><span class="v">{value}</span><span class="l"><span dir="ltr">{left}</span></span>'
        f'<span class="r" dir="ltr">{right}</span></li>'
    )


def _search(feature: Feature, interest: Interest) -> str:
    texts = [token.text for token in (*feature.tokens[:8], *feature.promoted[:8])]
    texts += [finding.text for finding in interest.findings]
    return escaped(
        " ".join([f"#{feature.index}", *dict.fromkeys(text.strip().lower() for text in texts if text.strip())])
    )
