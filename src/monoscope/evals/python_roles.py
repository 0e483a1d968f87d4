"""Roles that units of Python source play in its syntax tree: names by what they do, and the regions around them.

Regions run from the first unit of a node to its last, blanks and comments between them included. Nodes inside an
f-string are not visited: an f-string is one unit.
"""

from __future__ import annotations

import ast
import builtins
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from monoscope.evals.python_units import NAME, Units, line_starts

STATEMENTS = {
    "FunctionDef": "def",
    "AsyncFunctionDef": "async def",
    "ClassDef": "class",
    "Return": "return",
    "Delete": "del",
    "Assign": "assign",
    "TypeAlias": "type",
    "AugAssign": "augmented assign",
    "AnnAssign": "annotated assign",
    "For": "for",
    "AsyncFor": "async for",
    "While": "while",
    "If": "if",
    "With": "with",
    "AsyncWith": "async with",
    "Match": "match",
    "Raise": "raise",
    "Try": "try",
    "TryStar": "try",
    "Assert": "assert",
    "Import": "import",
    "ImportFrom": "import",
    "Global": "global",
    "Nonlocal": "nonlocal",
    "Expr": "expression",
    "Pass": "pass",
    "Break": "break",
    "Continue": "continue",
}
_BUILTINS = frozenset(name for name in dir(builtins) if not name.startswith("_"))
_OPAQUE = ("JoinedStr", "TemplateStr")
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_DEFINITIONS = (*_FUNCTIONS, ast.ClassDef)
_LOOPS = (ast.For, ast.AsyncFor, ast.While)
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)

Located = Any  # a node that has a place in the text; ast has no type for these


@dataclass
class Roles:
    """What the syntax tree says of the units.

    regions: per label, half-open ranges of units
    statements: ranges of units and their statement's word, enclosing statements first
    soft_keywords: units that are keywords where they stand (``match``, ``case``, ``type``)
    """

    regions: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    statements: list[tuple[int, int, str]] = field(default_factory=list)
    soft_keywords: list[int] = field(default_factory=list)

    def mark(self, label: str, start: int, end: int | None = None) -> None:
        """Label the units from ``start`` to before ``end``, or one unit."""
        self.regions.setdefault(label, []).append((start, start + 1 if end is None else end))


def parse(text: str) -> ast.Module | None:
    """Syntax tree of Python source; None where the running Python cannot parse it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes and the like are the source's business
        try:
            return ast.parse(text)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return None


def roles_of(units: Units, tree: ast.Module) -> Roles:
    """Roles of the units of a text that parses."""
    walk = _Walk(units)
    nodes = list(_visible(tree))
    bound = {name for node in nodes for name in _binds(node)}
    for node in nodes:
        walk.statement(node)
        walk.names(node, bound)
        walk.bodies(node)
        walk.expressions(node)
        walk.docstring(node)
    return walk.roles


def _visible(tree: ast.AST) -> Iterator[ast.AST]:
    """Nodes in reading order, parents first, nothing below an f-string."""
    stack = [tree]
    while stack:
        node = stack.pop()
        yield node
        if type(node).__name__ not in _OPAQUE:
            stack.extend(reversed(list(ast.iter_child_nodes(node))))


def _binds(node: ast.AST) -> Iterator[str]:
    """Names that a node binds in some scope of the file."""
    match node:
        case ast.Name(id=name, ctx=ast.Store() | ast.Del()) | ast.arg(arg=name):
            yield name
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            yield name
        case ast.alias(name=name, asname=renamed):
            yield renamed or name.partition(".")[0]
        case ast.Global(names=names) | ast.Nonlocal(names=names):
            yield from names
        case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
            yield name
        case ast.MatchMapping(rest=str(name)):
            yield name


class _Walk:
    """Marks the roles of one node at a time."""

    def __init__(self, units: Units) -> None:
        self.units, self.roles = units, Roles()
        self.lines = line_starts(units.text)
        self.ends = {int(end): unit for unit, end in enumerate(units.ends)}

    def offset(self, line: int, column: int) -> int:
        """Character of a line and a column in UTF-8 bytes, as the parser counts."""
        start = self.lines[line - 1]
        if self.units.text.isascii():
            return start + column
        return start + len(self.units.text[start : start + column].encode()[:column].decode())

    def span(self, *nodes: Located) -> tuple[int, int]:
        """Range of units from the first node to the last."""
        return self.first(nodes[0]), self.last(nodes[-1]) + 1

    def first(self, node: Located) -> int:
        """First unit of a node, decorators included."""
        decorators = getattr(node, "decorator_list", [])
        if decorators:
            return self.back_to("@", decorators[0])
        return self.units.at(self.offset(node.lineno, node.col_offset))

    def last(self, node: Located) -> int:
        """Last unit of a node."""
        return self.ends[self.offset(node.end_lineno, node.end_col_offset)]

    def back_to(self, text: str, node: Located) -> int:
        """The nearest unit of code before a node that reads ``text``."""
        offset, steps = self.offset(node.lineno, node.col_offset), -1
        while self.units[unit := self.units.code_at(offset, steps)] != text:
            steps -= 1
        return unit

    def statement(self, node: ast.AST) -> None:
        """The statement itself, and keywords that are keywords only there."""
        if isinstance(node, ast.match_case):
            self.roles.soft_keywords.append(self.back_to("case", node.pattern))
        if not isinstance(node, ast.stmt):
            return
        start, end = self.span(node)
        word = STATEMENTS[type(node).__name__]
        self.roles.statements.append((start, end, word))
        if word in ("match", "type"):
            self.roles.soft_keywords.append(start)

    def names(self, node: ast.AST, bound: set[str]) -> None:
        """Names by what they do."""
        mark, units = self.roles.mark, self.units
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                label = "class_name" if isinstance(node, ast.ClassDef) else "function_name"
                word = 2 if isinstance(node, ast.AsyncFunctionDef) else 1
                mark(label, units.code_at(self.offset(node.lineno, node.col_offset), word))
            case ast.arg():
                mark("parameter", self.first(node))
            case ast.keyword(arg=str()):
                mark("keyword_argument", self.first(node))
            case ast.Import() | ast.ImportFrom():
                start, end = self.span(node)
                for unit in range(start, end):
                    if units.kinds[unit] == NAME:
                        mark("imported", unit)
            case ast.Name(id=name, ctx=context):
                if isinstance(context, ast.Store):
                    mark("assigned", self.first(node))
                elif name in _BUILTINS and name not in bound:
                    mark("builtin", self.first(node))
            case ast.Attribute(ctx=context):
                mark("attribute", self.last(node))
                if isinstance(context, ast.Store):
                    mark("assigned", self.last(node))
            case ast.ExceptHandler(name=str(), type=ast.expr() as kind):
                mark("assigned", self._after_as(kind))
            case ast.MatchAs(name=str()) | ast.MatchStar(name=str()):
                mark("assigned", self.last(node))

    def _after_as(self, node: Located) -> int:
        """The name after the ``as`` that follows a node."""
        offset, steps = self.offset(node.end_lineno, node.end_col_offset) - 1, 1
        while self.units[self.units.code_at(offset, steps)] != "as":
            steps += 1
        return self.units.code_at(offset, steps + 1)

    def bodies(self, node: Located) -> None:
        """Regions that are bodies of statements."""
        labels: Sequence[str] = ()
        if isinstance(node, ast.AsyncFunctionDef):
            labels = ("in_function", "in_async_function")
        elif isinstance(node, ast.FunctionDef):
            labels = ("in_function",)
        elif isinstance(node, ast.ClassDef):
            labels = ("in_class",)
        elif isinstance(node, _LOOPS):
            labels = ("in_loop",)
        elif type(node).__name__ in ("Try", "TryStar"):
            labels = ("in_try",)
        elif isinstance(node, ast.ExceptHandler):
            labels = ("in_except",)
        if labels:
            start, end = self.span(*node.body)
            for label in labels:
                self.roles.mark(label, start, end)

    def expressions(self, node: ast.AST) -> None:
        """Regions that are parts of expressions."""
        mark = self.roles.mark
        match node:
            case ast.Call(func=function):
                close = self.last(node)
                mark("argument", int(self.units.partners[close]) + 1, close)
                if isinstance(function, (ast.Name, ast.Attribute)):
                    mark("called", self.last(function))
            case ast.Lambda():
                mark("in_lambda", *self.span(node))
            case ast.If(test=test) | ast.While(test=test) | ast.IfExp(test=test):
                mark("condition", *self.span(test))
            case ast.comprehension(ifs=tests):
                for test in tests:
                    mark("condition", *self.span(test))
            case ast.arg(annotation=ast.expr() as kind) | ast.AnnAssign(annotation=kind):
                mark("annotation", *self.span(kind))
        if isinstance(node, _COMPREHENSIONS):
            mark("in_comprehension", *self.span(node))
        if isinstance(node, _FUNCTIONS) and node.returns is not None:
            mark("annotation", *self.span(node.returns))
        if isinstance(node, _DEFINITIONS):
            for decorator in node.decorator_list:
                mark("decorator", self.back_to("@", decorator), self.last(decorator) + 1)

    def docstring(self, node: ast.AST) -> None:
        """The string that documents a module, class or function."""
        if isinstance(node, (ast.Module, *_DEFINITIONS)) and node.body:
            match node.body[0]:
                case ast.Expr(value=ast.Constant(value=str())) as statement:
                    self.roles.mark("docstring", *self.span(statement.value))
