"""A feature and a bundle as notebooks show them: static HTML, every token and name escaped."""

from __future__ import annotations

from typing import TYPE_CHECKING

from monoscope.core.notebook import bars, described
from monoscope.features.page.figures import number, percent
from monoscope.features.page.tokens import escaped, opacity

if TYPE_CHECKING:
    from monoscope.features.bundle import FeatureBundle
    from monoscope.features.records import Context, Feature, Token

CONTEXTS, TOKENS, BEFORE, AFTER = 5, 8, 24, 10


def feature_html(feature: Feature) -> str:
    """Numbers, histogram of activations, tokens at both ends of its logit effects, and the five strongest contexts."""
    if feature.is_dead:
        return described(f"feature {feature.index}", {"fires": "never, in this bundle's text"})
    facts = described(
        f"feature {feature.index}",
        {
            "fires on": f"{percent(feature.density)} of tokens",
            "largest activation": number(feature.max_act),
            "promotes": _listed(feature.promoted),
            "suppresses": _listed(feature.suppressed),
        },
    )
    strongest = [context for context in feature.contexts if context.interval == 0 and context.dup_of is None]
    largest = max((abs(context.max_act) for context in strongest), default=0.0)
    rows = "".join(_context(context, largest) for context in strongest[:CONTEXTS])
    return f"<div>{facts}{bars(feature.acts.counts.tolist())}{rows}</div>"


def bundle_html(bundle: FeatureBundle) -> str:
    """What the bundle is of, and how good its dictionary is."""
    manifest = bundle.manifest
    about, stats = manifest["dictionary"], manifest["stats"]
    measured = {"FVU": "fvu", "L0": "l0", "CE recovered": "ce_recovered", "dead share": "dead_share"}
    return described(
        f"{len(bundle):,} features of {manifest['model'].get('id') or 'a model'}",
        {
            "reads": about["reads"],
            "writes": about["writes"] if about["writes"] != about["reads"] else None,
            "dictionary": f"{about['wiring']}, {about['function']}",
            **{name: "not measured" if stats.get(key) is None else stats[key] for name, key in measured.items()},
            "text": f"{manifest['data']['n_tokens']:,} tokens",
            "directory": str(bundle.path),
        },
    )


def _listed(tokens: tuple[Token, ...]) -> str:
    return "  ".join(repr(token.text) for token in tokens[:TOKENS])


def _context(context: Context, largest: float) -> str:
    first, last = max(0, context.peak - BEFORE), min(len(context.tokens), context.peak + AFTER)
    tokens = "".join(_token(context, i, largest) for i in range(first, last))
    style = "font-family:monospace;font-size:12px;white-space:pre-wrap;line-height:1.7"
    return f'<div dir="auto" style="{style}"><span style="opacity:.7">{number(context.max_act)} </span>{tokens}</div>'


def _token(context: Context, i: int, largest: float) -> str:
    value = float(context.acts[i])
    if not value:
        return f"<span>{escaped(context.tokens[i])}</span>"
    color = "52,211,153" if value > 0 else "251,113,133"
    style = f"background:rgba({color},{opacity(value, largest):.2f})"
    return f'<span style="{style}" title="{value:.3g}">{escaped(context.tokens[i])}</span>'
