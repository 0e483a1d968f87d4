"""Views: what a context answers when asked one thing, as codes that are equal where the answers are.

on, after, before   the token where the feature is strongest, the one before it, the one after it
line                the word that opens its line
repeats             whether its last two tokens repeat a pair seen earlier in the sequence
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Int64

NOTHING = -1
VIEWS = ("on", "after", "before", "line", "repeats")


def views(
    tokens: np.ndarray,
    classes: Int64[np.ndarray, " vocab"],
    vocabulary: list[str],
    sequence: Int64[np.ndarray, " n"],
    position: Int64[np.ndarray, " n"],
) -> dict[str, Int64[np.ndarray, " n"]]:
    """The answers of contexts whose strongest tokens stand at ``position`` of ``sequence``, by view."""
    code = classes[tokens]

    def at(offset: int) -> Int64[np.ndarray, " n"]:
        place = position + offset
        inside = (place >= 0) & (place < tokens.shape[1])
        return np.where(inside, code[sequence, np.clip(place, 0, tokens.shape[1] - 1)], NOTHING)

    opener = _line_openers(tokens, vocabulary)[sequence, position]
    line = np.where(opener >= 0, code[sequence, np.maximum(opener, 0)], NOTHING)
    return {
        "on": at(0),
        "after": at(-1),
        "before": at(1),
        "line": line,
        "repeats": _repeats(tokens, sequence, position),
    }


def _line_openers(tokens: np.ndarray, vocabulary: list[str]) -> Int64[np.ndarray, "S T"]:
    """Position of the first word of the line that each token stands in; -1 before any line has begun."""
    newline = np.array(["\n" in text for text in vocabulary])[tokens]
    word = np.array([bool(text.strip()) for text in vocabulary])[tokens]
    place = np.broadcast_to(np.arange(tokens.shape[1]), tokens.shape)

    def last(flag: Bool[np.ndarray, "S T"]) -> Int64[np.ndarray, "S T"]:
        """Last position before each token where the flag holds; -2 if there is none."""
        seen = np.maximum.accumulate(np.where(flag, place, -2), axis=1)
        return np.concatenate([np.full((len(tokens), 1), -2), seen[:, :-1]], axis=1)

    last_newline = last(newline)
    opens = word & (last_newline >= 0) & (last(word) <= last_newline)
    opener = np.maximum.accumulate(np.where(opens, place, -2), axis=1)
    return np.where(opener > last_newline, opener, -1)


def _repeats(
    tokens: np.ndarray, sequence: Int64[np.ndarray, " n"], position: Int64[np.ndarray, " n"]
) -> Int64[np.ndarray, " n"]:
    """0 where the token and the one before it occurred side by side earlier in the sequence, else nothing."""
    pair = tokens[:, :-1].astype(np.int64) << 32 | tokens[:, 1:].astype(np.int64)
    pair = np.concatenate([np.full((len(tokens), 1), -1), pair], axis=1)
    row = np.repeat(np.arange(len(tokens)), tokens.shape[1])
    order = np.lexsort((pair.reshape(-1), row))  # stable: the first of equal pairs keeps its place
    ordered, rows = pair.reshape(-1)[order], row[order]
    again = np.zeros(len(order), bool)
    again[order[1:]] = (ordered[1:] == ordered[:-1]) & (rows[1:] == rows[:-1])
    return np.where(again.reshape(tokens.shape)[sequence, position], 0, NOTHING)
