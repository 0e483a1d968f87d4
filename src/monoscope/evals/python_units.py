"""Lexical units of Python source: a partition of the text into what the tokenizer sees and the blanks between.

Every character belongs to exactly one unit. A string literal is one unit whatever its prefix: where newer Pythons
split f-strings into parts, the parts are joined again, so that units do not depend on the Python that reads them.
"""

from __future__ import annotations

import io
import keyword
import token as python_token
import tokenize
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Int

from monoscope.core.errors import DataError

# Kinds of units. BLANK is what the tokenizer passes over (spaces, continuation backslashes), NEWLINE the end of a
# line, of code or not: these two are "blank", all others "significant".
BLANK, NEWLINE, NAME, KEYWORD, NUMBER, STRING, COMMENT, OPERATOR, PUNCTUATION, OPEN, CLOSE = range(11)

BRACKETS = ("", "(", "[", "{")
_OPENER = {")": "(", "]": "[", "}": "{"}
_PUNCTUATION = frozenset({",", ":", ".", ";", "->", "..."})
_KINDS = {tokenize.NUMBER: NUMBER, tokenize.STRING: STRING, tokenize.COMMENT: COMMENT}
_KINDS |= {tokenize.NEWLINE: NEWLINE, tokenize.NL: NEWLINE}
_FSTRING_STARTS = tuple(getattr(python_token, name, -1) for name in ("FSTRING_START", "TSTRING_START"))
_FSTRING_ENDS = tuple(getattr(python_token, name, -1) for name in ("FSTRING_END", "TSTRING_END"))
_TAB = 8  # columns, as the tokenizer counts them


@dataclass(frozen=True)
class Units:
    """Units of one text, in order; unit ``i`` is ``text[starts[i]:ends[i]]`` and ``ends[i] == starts[i + 1]``.

    kinds: one of the module's kinds
    indents: indentation levels in force on the unit's line; a comment on a line of its own counts those it stands under
    depths: brackets open once the unit has been read
    brackets: the innermost of them, an index into ``BRACKETS``
    partners: the unit of the other bracket of its pair; -1 for every other unit
    """

    text: str
    starts: Int[np.ndarray, " unit"]
    ends: Int[np.ndarray, " unit"]
    kinds: Int[np.ndarray, " unit"]
    indents: Int[np.ndarray, " unit"]
    depths: Int[np.ndarray, " unit"]
    brackets: Int[np.ndarray, " unit"]
    partners: Int[np.ndarray, " unit"]

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, unit: int) -> str:
        return self.text[self.starts[unit] : self.ends[unit]]

    @cached_property
    def is_blank(self) -> Bool[np.ndarray, " unit"]:
        """Units that hold no source: spaces and line ends."""
        return self.kinds <= NEWLINE

    @cached_property
    def _code(self) -> list[int]:
        return np.flatnonzero(~self.is_blank & (self.kinds != COMMENT)).tolist()

    def at(self, offset: int) -> int:
        """The unit that holds a character."""
        return int(np.searchsorted(self.starts, offset, side="right")) - 1

    def code_at(self, offset: int, steps: int = 0) -> int:
        """The unit of code at a character, or the one ``steps`` further on; comments and blanks are passed over."""
        return self._code[bisect_left(self._code, self.at(offset)) + steps]


def units_of(text: str) -> Units:
    """Units of Python source. Raises DataError, naming the line, where it cannot be cut into tokens."""
    lines = np.array(line_starts(text), dtype=np.int64)
    spans, line_indents = _tokens(text, lines.tolist())
    edges = _partition(text, spans)
    starts = np.array([start for start, _ in edges], dtype=np.int64)
    ends = np.append(starts[1:], len(text)) if edges else starts
    rows = np.searchsorted(lines, starts, side="right") - 1
    depths, brackets, partners = _match_brackets(text, edges)
    kinds = np.array([kind for _, kind in edges], dtype=np.int8)
    return Units(text, starts, ends, kinds, line_indents[rows], depths, brackets, partners)


def line_starts(text: str) -> list[int]:
    """Offset of every line; a line ends in ``\\n`` and nothing else."""
    starts, at = [0], text.find("\n")
    while at >= 0:
        starts.append(at + 1)
        at = text.find("\n", at + 1)
    return starts


Span = tuple[int, int, int]  # start, end, kind


def _tokens(text: str, lines: list[int]) -> tuple[list[Span], Int[np.ndarray, " line"]]:
    """Significant units and line ends in order, and the indentation levels of every line."""
    spans: list[Span] = []
    indents = _Indents(text, lines)
    fstrings: list[int] = []  # where the f-strings that are open began, outermost first
    for token in _tokenize(text):
        start, end = (min(lines[row - 1] + column, len(text)) for row, column in (token.start, token.end))
        indents.see(token)
        if token.type in _FSTRING_STARTS:
            fstrings.append(start)
        elif token.type in _FSTRING_ENDS:
            start = fstrings.pop()
            if not fstrings:
                spans.append((start, end, STRING))
        elif not fstrings and token.type not in (tokenize.INDENT, tokenize.DEDENT) and end > start:
            spans.append((start, end, _kind(token)))
    return spans, indents.finish()


def _tokenize(text: str) -> Iterator[tokenize.TokenInfo]:
    last = text.count("\n") + 1
    try:
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            # From Python 3.12 on, characters that mean nothing are operators too.
            if token.type == tokenize.ERRORTOKEN or (token.type == tokenize.OP and token.string in "$?"):
                found = token.line[token.start[1] :].strip()
                raise DataError(f"line {token.start[0]} is not Python: cannot read {found[:40]!r}")
            if token.start[0] <= last and token.end[0] <= last:  # the end marker stands on a line that is not there
                yield token
    except tokenize.TokenError as error:
        raise DataError(f"line {error.args[1][0]} is not Python: {error.args[0]}") from None
    except SyntaxError as error:
        raise DataError(f"line {error.lineno} is not Python: {error.msg}") from None


def _kind(token: tokenize.TokenInfo) -> int:
    if token.type == tokenize.NAME:
        return KEYWORD if keyword.iskeyword(token.string) else NAME
    if token.type != tokenize.OP:
        return _KINDS[token.type]
    if token.string in _OPENER:
        return CLOSE
    if token.string in BRACKETS:
        return OPEN
    return PUNCTUATION if token.string in _PUNCTUATION else OPERATOR


def _partition(text: str, spans: list[Span]) -> list[tuple[int, int]]:
    """Start and kind of every unit: the spans, with BLANK units where they leave gaps."""
    edges, at = [], 0
    for start, end, kind in spans:
        if start > at:
            edges.append((at, BLANK))
        edges.append((start, kind))
        at = end
    if at < len(text):
        edges.append((at, BLANK))
    return edges


class _Indents:
    """Indentation levels in force on each line, learned from the tokens in order."""

    def __init__(self, text: str, lines: list[int]) -> None:
        self.text, self.lines = text, lines
        self.levels = np.full(len(lines), -1, dtype=np.int16)
        self.stack: list[int] = []  # columns of the levels in force
        self.within = False  # a line of code that has begun and not ended
        self.waiting: list[tuple[int, int, list[int]]] = []  # comments' line, column, and the levels before them

    def see(self, token: tokenize.TokenInfo) -> None:
        """Follow one token."""
        row = token.start[0] - 1
        if token.type == tokenize.INDENT:
            self.stack.append(len(token.string.expandtabs(_TAB)))
        elif token.type == tokenize.DEDENT:
            self.stack.pop()
        elif token.type == tokenize.NEWLINE:
            self.within = False
        elif self.levels[row] >= 0 and token.end[0] == token.start[0]:
            return
        elif token.type == tokenize.COMMENT and not self.within:
            # Whether a comment stands in the block before it or in the one after shows only with the next line of code.
            before = self.text[self.lines[row] : self.lines[row] + token.start[1]]
            self.waiting.append((row, len(before.expandtabs(_TAB)), self.stack.copy()))
            self.levels[row] = len(self.stack)
        elif token.type in (tokenize.COMMENT, tokenize.NL):
            self.levels[row] = len(self.stack)
        else:
            self._settle()
            self.within = True
            self.levels[row : token.end[0]] = len(self.stack)

    def _settle(self) -> None:
        for row, column, before in self.waiting:
            longer = max(before, self.stack, key=len)
            self.levels[row] = sum(level <= column for level in longer)
        self.waiting.clear()

    def finish(self) -> Int[np.ndarray, " line"]:
        """Levels of all lines; the text has ended."""
        self.stack.clear()
        self._settle()
        return np.maximum(self.levels, 0)


def _match_brackets(text: str, edges: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Depth and innermost bracket after every unit, and partners; a closing bracket that fits none is passed over."""
    n = len(edges)
    change, innermost, partners = np.zeros(n, np.int16), np.full(n, -1, np.int8), np.full(n, -1, np.int64)
    stack: list[int] = []
    for unit, (start, kind) in enumerate(edges):
        if kind == OPEN:
            stack.append(unit)
            change[unit] = 1
        elif kind == CLOSE and stack and text[edges[stack[-1]][0]] == _OPENER[text[start]]:
            partner = stack.pop()
            partners[unit], partners[partner] = partner, unit
            change[unit] = -1
        else:
            continue
        innermost[unit] = BRACKETS.index(text[edges[stack[-1]][0]]) if stack else 0
    events = np.flatnonzero(innermost >= 0)
    before = np.searchsorted(events, np.arange(n), side="right") - 1
    filled = np.where(before >= 0, innermost[events[before]], 0) if len(events) else np.zeros(n)
    return np.cumsum(change, dtype=np.int16), filled.astype(np.int8), partners
