"""Exact labels for every token of Python source, from the language's own tokenizer and parser.

A text is cut into lexical units (``python_units``), units get roles from the syntax tree (``python_roles``), and a
language model's tokens, given as character spans, take the labels of the units they overlap:

- a flag is True if any significant unit the token overlaps has it, so that `` for`` is the keyword and ``):`` is both a
  closing bracket and punctuation; a token of blanks alone takes the flags of its blanks
- a number is the state once the token has been read: that of its last significant unit, or of its last blank
- ``newline``, ``indent`` and the flags of single characters (``line_start``, ``statement_start``, ``string_open``,
  ``string_close``) are True if any character of the token is such
- an empty span (a special token) has no flag, and -1 for every number

Labels are those of the whole text. To label windows, label their documents and then ``take`` the windows' tokens.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from jaxtyping import Bool, Int, Int16

from monoscope.core.errors import DataError, UserError, nearest
from monoscope.evals import python_units as kinds
from monoscope.evals.python_roles import STATEMENTS, Roles, parse, roles_of
from monoscope.evals.python_units import BRACKETS, Units, units_of

FLAGS: Mapping[str, str] = MappingProxyType(
    {
        "parsed": "the text parses, so that the labels below 'string_close' are known; where False they are all False",
        "whitespace": "nothing but blanks: spaces, line ends, continuation backslashes",
        "newline": "an end of line outside strings",
        "indent": "leading blanks of a line",
        "line_start": "the first character of a line that is not blank, in strings too",
        "name": "an identifier, not a keyword",
        "number": "a numeric literal",
        "operator": "an operator, assignments and '@' included",
        "punctuation": "one of , : . ; -> ...",
        "open_bracket": "one of ( [ {",
        "close_bracket": "one of ) ] }",
        "comment": "a comment, with its '#'",
        "string": "a string or bytes literal, with its prefix and quotes; an f-string with all it contains",
        "fstring": "an f-string, with all it contains",
        "bytes": "a bytes literal",
        "string_open": "the first character of a string literal",
        "string_close": "the last character of a string literal",
        "docstring": "the docstring of a module, class or function",
        "statement_start": "the first character of a statement; of a decorated definition, its first '@'",
        "function_name": "the name in a def",
        "class_name": "the name in a class statement",
        "parameter": "a parameter's name in a def or lambda",
        "argument": "between the brackets of a call",
        "keyword_argument": "a name before '=' in a call or a class statement",
        "called": "the name of what is called: f in f(x), g in a.g(x)",
        "attribute": "the name after a dot",
        "imported": "a name in an import statement: modules, what is taken from them, what it is renamed to",
        "assigned": "a name or attribute that is assigned: by =, for, with, as, :=, a comprehension or a case",
        "builtin": "a builtin's name, read; only if the file binds that name nowhere",
        "decorator": "a decorator, with its '@'",
        "annotation": "a type annotation",
        "condition": "the test of an if, elif, while or conditional expression",
        "in_function": "the body of a function, or of one around it",
        "in_async_function": "the body of an async def, or of one around it",
        "in_class": "the body of a class, methods included",
        "in_loop": "the body of a for or while",
        "in_try": "the body of a try",
        "in_except": "the body of an except",
        "in_lambda": "a lambda",
        "in_comprehension": "a comprehension or generator expression",
    }
)
NUMBERS: Mapping[str, str] = MappingProxyType(
    {
        "indent_depth": "indentation levels in force",
        "bracket_depth": "brackets open once the token has been read",
        "bracket": "the innermost of them",
        "keyword": "which keyword",
        "statement": "the innermost statement around the token",
    }
)
CATEGORIES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "bracket": BRACKETS[1:],
        "keyword": (*keyword.kwlist, "match", "case", "type"),
        "statement": tuple(dict.fromkeys(STATEMENTS.values())),
    }
)
_FLAG = {name: column for column, name in enumerate(FLAGS)}
_NUMBER = {name: column for column, name in enumerate(NUMBERS)}
_ANYWHERE = ("newline", "indent")  # flags of blanks that no significant unit beside them hides


@dataclass(frozen=True)
class PythonLabels:
    """Labels of tokens: ``flags`` in the order of ``FLAGS``, ``numbers`` in the order of ``NUMBERS``.

    Names in ``CATEGORIES`` are numbers that index a list of words; -1 is none of them. ``labels["comment"]`` is a flag,
    ``labels["indent_depth"]`` a number, ``labels["keyword=for"]`` whether a number is that word.
    """

    flags: Bool[np.ndarray, "*tokens flag"]
    numbers: Int16[np.ndarray, "*tokens number"]

    def __len__(self) -> int:
        return len(self.flags)

    def __getitem__(self, name: str) -> Bool[np.ndarray, "*tokens"] | Int16[np.ndarray, "*tokens"]:
        if name in _FLAG:
            return self.flags[..., _FLAG[name]]
        if name in _NUMBER:
            return self.numbers[..., _NUMBER[name]]
        number, _, word = name.partition("=")
        if word not in CATEGORIES.get(number, ()):
            raise UserError(f"no label {name!r}; {nearest(name, [*binary_names(), *NUMBERS])}")
        return self.numbers[..., _NUMBER[number]] == CATEGORIES[number].index(word)

    def take(self, index: Int[np.ndarray, "*tokens"]) -> PythonLabels:
        """Labels of chosen tokens, in the shape of ``index``; -1 stands for a token without text."""
        blank = np.asarray(index) < 0
        return PythonLabels(
            np.where(blank[..., None], False, self.flags[index]),
            np.where(blank[..., None], np.int16(-1), self.numbers[index]),
        )

    @staticmethod
    def concatenate(parts: Iterable[PythonLabels]) -> PythonLabels:
        """Labels of texts one after another."""
        parts = [unlabelled(0), *parts]
        return PythonLabels(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("flags", "numbers")))


def binary_names() -> list[str]:
    """Names of all labels that are True or False: the flags, and ``category=word`` for every word."""
    return [*FLAGS, *(f"{name}={word}" for name, words in CATEGORIES.items() for word in words)]


def unlabelled(n_tokens: int) -> PythonLabels:
    """Labels of tokens that have none: no flag, not even ``parsed``, and -1 for every number."""
    return PythonLabels(np.zeros((n_tokens, len(FLAGS)), bool), np.full((n_tokens, len(NUMBERS)), -1, np.int16))


def python_labels(text: str, spans: Int[np.ndarray, "token 2"] | Sequence[tuple[int, int]]) -> PythonLabels:
    """Labels of the tokens of one whole Python text, each given by its first character and the one after its last.

    Where the text can be cut into tokens and does not parse, only the lexical labels are set, and ``parsed`` is False
    throughout. Raises DataError where it cannot even be cut into tokens, naming the line; and for spans that leave the
    text. Source: the ``tokenize`` and ``ast`` modules of the Python that runs.
    """
    spans = np.asarray(spans, dtype=np.int64).reshape(-1, 2)
    if ((spans < 0) | (spans > len(text))).any() or (spans[:, 0] > spans[:, 1]).any():
        raise DataError(f"spans must lie in the text's {len(text):,} characters, each start before its end")
    units = units_of(re.sub(r"\r(?!\n)", "\n", text))  # one character for another; Python too ends a line there
    tree = parse(units.text)
    roles = Roles() if tree is None else roles_of(units, tree)
    flags, numbers = _unit_flags(units, roles), _unit_numbers(units, roles)
    flags[:, _FLAG["parsed"]] = tree is not None
    points = _points(units, roles)
    return _tokens(units, spans, flags, numbers, points)


def _points(units: Units, roles: Roles) -> dict[str, Int[np.ndarray, " point"]]:
    """Characters that carry a flag alone, in order."""
    strings = units.kinds == kinds.STRING
    lines = [found.start(1) for found in re.finditer(r"^[^\S\n]*(\S)", units.text, re.MULTILINE)]
    statements = sorted(units.starts[start] for start, _, _ in roles.statements)
    return {
        "line_start": np.array(lines, dtype=np.int64),
        "statement_start": np.array(statements, dtype=np.int64),
        "string_open": units.starts[strings],
        "string_close": units.ends[strings] - 1,
    }


def _unit_flags(units: Units, roles: Roles) -> Bool[np.ndarray, "unit flag"]:
    flags = np.zeros((len(units), len(FLAGS)), bool)
    named = {"name": kinds.NAME, "number": kinds.NUMBER, "operator": kinds.OPERATOR, "punctuation": kinds.PUNCTUATION}
    named |= {"open_bracket": kinds.OPEN, "close_bracket": kinds.CLOSE, "comment": kinds.COMMENT}
    named |= {"string": kinds.STRING, "newline": kinds.NEWLINE}
    for name, kind in named.items():
        flags[:, _FLAG[name]] = units.kinds == kind
    flags[roles.soft_keywords, _FLAG["name"]] = False
    flags[:, _FLAG["whitespace"]] = units.is_blank
    after_line_end = np.append(True, units.kinds[:-1] == kinds.NEWLINE)[: len(units)]
    flags[:, _FLAG["indent"]] = after_line_end & (units.kinds == kinds.BLANK)
    for unit in np.flatnonzero(units.kinds == kinds.STRING).tolist():
        prefix = re.split("['\"]", units[unit], maxsplit=1)[0].lower()
        flags[unit, _FLAG["fstring"]] = "f" in prefix or "t" in prefix
        flags[unit, _FLAG["bytes"]] = "b" in prefix
    for name, ranges in roles.regions.items():
        steps = np.zeros(len(units) + 1, np.int32)
        np.add.at(steps, [start for start, _ in ranges], 1)
        np.add.at(steps, [end for _, end in ranges], -1)
        flags[:, _FLAG[name]] = np.cumsum(steps[:-1]) > 0
    return flags


def _unit_numbers(units: Units, roles: Roles) -> Int16[np.ndarray, "unit number"]:
    numbers = np.full((len(units), len(NUMBERS)), -1, np.int16)
    numbers[:, _NUMBER["indent_depth"]] = units.indents
    numbers[:, _NUMBER["bracket_depth"]] = units.depths
    numbers[:, _NUMBER["bracket"]] = units.brackets - 1
    keywords = {word: number for number, word in enumerate(CATEGORIES["keyword"])}
    for unit in [*np.flatnonzero(units.kinds == kinds.KEYWORD).tolist(), *roles.soft_keywords]:
        numbers[unit, _NUMBER["keyword"]] = keywords[units[unit]]
    for start, end, word in roles.statements:
        numbers[start:end, _NUMBER["statement"]] = CATEGORIES["statement"].index(word)
    return numbers


def _tokens(
    units: Units,
    spans: Int[np.ndarray, "token 2"],
    flags: Bool[np.ndarray, "unit flag"],
    numbers: Int16[np.ndarray, "unit number"],
    points: Mapping[str, Int[np.ndarray, " point"]],
) -> PythonLabels:
    """Labels of tokens from those of the units they overlap."""
    out = unlabelled(len(spans))
    some = spans[:, 0] < spans[:, 1]
    starts, ends = spans[some].T
    first = np.searchsorted(units.starts, starts, side="right") - 1
    last = np.searchsorted(units.starts, ends - 1, side="right") - 1
    order = np.arange(len(units))
    last_significant = np.maximum.accumulate(np.where(units.is_blank, -1, order)) if len(units) else order
    blank = last_significant[last] < first

    def overlaps(of: Bool[np.ndarray, "unit flag"]) -> Bool[np.ndarray, "token flag"]:
        below = np.concatenate([np.zeros((1, of.shape[1]), np.int32), np.cumsum(of, axis=0, dtype=np.int32)])
        return below[last + 1] > below[first]

    found = np.where(blank[:, None], overlaps(flags), overlaps(flags & ~units.is_blank[:, None]))
    anywhere = [_FLAG[name] for name in _ANYWHERE]
    found[:, anywhere] = overlaps(flags[:, anywhere])
    for name, at in points.items():
        found[:, _FLAG[name]] = np.searchsorted(at, ends) > np.searchsorted(at, starts)
    out.flags[some] = found
    out.numbers[some] = numbers[np.where(blank, last, last_significant[last])]
    return out
