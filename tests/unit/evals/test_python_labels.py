from __future__ import annotations

import ast
import symtable
import sysconfig
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from monoscope.core.errors import DataError, UserError
from monoscope.evals.python_labels import FLAGS, NUMBERS, PythonLabels, binary_names, python_labels, unlabelled

LIBRARY = Path(sysconfig.get_path("stdlib"))
MODULES = [
    "textwrap.py",
    "dataclasses.py",
    "contextlib.py",
    "json/decoder.py",
    "asyncio/queues.py",
    "heapq.py",
    "ast.py",
]


def spans_of(text: str, *tokens: str) -> list[tuple[int, int]]:
    """Spans of consecutive tokens; they must add up to the text."""
    assert "".join(tokens) == text
    ends = np.cumsum([len(token) for token in tokens]).tolist()
    return list(zip([0, *ends[:-1]], ends, strict=True))


def by_character(text: str) -> PythonLabels:
    return python_labels(text, [(i, i + 1) for i in range(len(text))])


def runs(text: str, flag: np.ndarray) -> list[str]:
    """The maximal stretches of text where a flag holds."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flag.astype(int), [0]])))
    return [text[start:end] for start, end in zip(edges[::2], edges[1::2], strict=True)]


@pytest.fixture(scope="module", params=MODULES)
def module(request) -> tuple[str, PythonLabels, list[ast.AST]]:
    text = (LIBRARY / request.param).read_text(encoding="utf-8")
    nodes, stack = [], [ast.parse(text)]
    while stack:
        node = stack.pop()
        nodes.append(node)
        stack += [] if isinstance(node, ast.JoinedStr) else ast.iter_child_nodes(node)
    return text, by_character(text), nodes


def test_every_character_is_of_exactly_one_kind(module):
    text, labels, _ = module
    exclusive = ["whitespace", "name", "number", "operator", "punctuation", "open_bracket", "close_bracket", "comment"]
    of_kinds = np.stack([labels[name] for name in [*exclusive, "string"]]).sum(0) + (labels["keyword"] >= 0)
    assert (of_kinds == 1).all()
    assert labels["parsed"].all()
    assert all(character.isspace() or character == "\\" for character in np.array(list(text))[labels["whitespace"]])


def test_strings_are_literals_and_comments_can_be_erased(module):
    text, labels, nodes = module
    literals = [ast.literal_eval(run) for run in runs(text, labels["string"] & ~labels["fstring"])]
    assert literals
    erased = "".join(" " if comment else c for c, comment in zip(text, labels["comment"], strict=True))
    assert ast.dump(ast.parse(erased)) == ast.dump(nodes[0])
    assert all(run.startswith("#") and "\n" not in run for run in runs(text, labels["comment"]))


def test_docstrings_are_those_the_parser_finds(module):
    text, labels, nodes = module
    documented = [n for n in nodes if isinstance(n, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))]
    expected = Counter(ast.get_docstring(node, clean=False) for node in documented)
    del expected[None]
    assert Counter(ast.literal_eval(run) for run in runs(text, labels["docstring"])) == expected


def test_names_play_the_roles_the_parser_gives_them(module):
    text, labels, nodes = module
    expected = {
        "function_name": [n.name for n in nodes if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))],
        "class_name": [n.name for n in nodes if isinstance(n, ast.ClassDef)],
        "parameter": [n.arg for n in nodes if isinstance(n, ast.arg)],
        "keyword_argument": [n.arg for n in nodes if isinstance(n, ast.keyword) and n.arg],
        "attribute": [n.attr for n in nodes if isinstance(n, ast.Attribute)],
        "assigned": [n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)]
        + [n.attr for n in nodes if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Store)]
        + [n.name for n in nodes if isinstance(n, (ast.ExceptHandler, ast.MatchAs, ast.MatchStar)) and n.name],
        "called": [
            n.func.id if isinstance(n.func, ast.Name) else n.func.attr
            for n in nodes
            if isinstance(n, ast.Call) and isinstance(n.func, (ast.Name, ast.Attribute))
        ],
    }
    for role, names in expected.items():
        assert Counter(runs(text, labels[role])) == Counter(names), role
        assert labels["name"][labels[role]].all()


def test_keywords_are_as_many_as_their_nodes(module):
    text, labels, nodes = module
    loops = sum(isinstance(node, (ast.For, ast.AsyncFor, ast.comprehension)) for node in nodes)
    assert runs(text, labels["keyword=for"]) == ["for"] * loops
    returns = sum(isinstance(node, ast.Return) for node in nodes)
    assert runs(text, labels["keyword=return"]) == ["return"] * returns
    assert sum(run.startswith("return") for run in runs(text, labels["statement=return"])) == returns


def test_brackets_close_and_indentation_is_the_nesting_of_blocks(module):
    text, labels, nodes = module
    depth = labels["bracket_depth"]
    assert depth[-1] == 0
    assert depth.min() == 0
    assert ((labels["bracket"] >= 0) == (depth > 0)).all()
    assert labels["open_bracket"].sum() == labels["close_bracket"].sum()
    assert (np.diff(depth, prepend=0) == labels["open_bracket"].astype(int) - labels["close_bracket"]).all()
    lines = np.cumsum([0, *(len(line) for line in text.split("\n"))]) + np.arange(text.count("\n") + 2)

    def check(body: list[ast.stmt], level: int) -> None:
        for statement in body:
            at = lines[statement.lineno - 1] + statement.col_offset
            assert labels["indent_depth"][at] == level or not labels["line_start"][at]
            assert labels["statement_start"][at] or getattr(statement, "decorator_list", [])
            for name in ("body", "orelse", "finalbody"):
                inner = getattr(statement, name, [])
                is_elif = name == "orelse" and text[at:].startswith(("if", "elif")) and len(inner) == 1
                is_elif = is_elif and text[lines[inner[0].lineno - 1] + inner[0].col_offset :].startswith("elif")
                check(inner, level if is_elif else level + 1)
            for handler in getattr(statement, "handlers", []):
                check(handler.body, level + 1)

    check(nodes[0].body, 0)


def test_builtins_are_global_and_bound_nowhere(module):
    text, labels, _ = module
    tables, found = [symtable.symtable(text, "module", "exec")], {}
    for table in tables:
        tables += table.get_children()
        for symbol in table.get_symbols():
            found.setdefault(symbol.get_name(), []).append(symbol)
    flagged = set(runs(text, labels["builtin"]))
    assert flagged & {"len", "isinstance", "ValueError", "str", "range", "object"}
    assert all(symbol.is_global() and not symbol.is_assigned() for name in flagged for symbol in found[name])


def test_a_token_takes_the_flags_of_all_it_overlaps_and_the_state_after_it():
    text = "if f(x):\n    y = 1\n"
    tokens = ["if", " f", "(x", "):", "\n   ", " y", " =", " 1", "\n"]
    labels = python_labels(text, spans_of(text, *tokens))
    by_token = {token: i for i, token in enumerate(tokens)}

    def holds(token: str) -> set[str]:
        return {name for name in binary_names() if labels[name][by_token[token]]} - {"parsed"}

    assert holds(" f") == {"name", "called", "condition", "statement=if"}, "the blank before it says nothing"
    assert holds("(x") == {"open_bracket", "name", "argument", "condition", "bracket=(", "statement=if"}
    assert holds("):") == {"close_bracket", "punctuation", "condition", "statement=if"}
    assert holds("\n   ") == {"whitespace", "newline", "indent", "statement=if"}
    assert {"indent", "line_start", "statement_start", "assigned"} <= holds(" y")
    assert labels["bracket_depth"].tolist() == [0, 0, 1, 0, 0, 0, 0, 0, 0]
    assert labels["indent_depth"].tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 1]


def test_a_token_that_only_ends_in_blanks_keeps_its_own_labels():
    text = "x = (1, )\ny = 2"
    labels = python_labels(text, spans_of(text, "x ", "= ", "(1", ", )", "\ny", " = 2"))
    assert labels["whitespace"].tolist() == [False] * 6
    assert labels["newline"].tolist() == [False, False, False, False, True, False]
    assert labels["name"].tolist() == [True, False, False, False, True, False]
    assert labels["close_bracket"].tolist() == [False, False, False, True, False, False]
    assert labels["bracket_depth"].tolist() == [0, 0, 1, 0, 0, 0]


def test_strings_by_kind_and_their_ends():
    text = 'a = f"{b}c" + b"d" + "e"'
    labels = by_character(text)
    assert runs(text, labels["fstring"]) == ['f"{b}c"'], "an f-string is one unit"
    assert runs(text, labels["bytes"]) == ['b"d"']
    assert runs(text, labels["string"]) == ['f"{b}c"', 'b"d"', '"e"']
    assert runs(text, labels["string_open"]) == ["f", "b", '"']
    assert runs(text, labels["string_close"]) == ['"', '"', '"']
    assert labels["bracket_depth"].max() == 0


def test_regions():
    text = (
        "@cache\nasync def f(a: int, *b) -> str:\n    while a: await g(k=[i for i in b if i])\n"
        "class C:\n    try: x = lambda q: q\n    except E as e: pass\n"
    )
    labels = by_character(text)
    expected = {
        "decorator": ["@cache"],
        "annotation": ["int", "str"],
        "builtin": ["int", "str"],
        "parameter": ["a", "b", "q"],
        "in_async_function": ["while a: await g(k=[i for i in b if i])"],
        "in_function": ["while a: await g(k=[i for i in b if i])"],
        "in_loop": ["await g(k=[i for i in b if i])"],
        "condition": ["a", "i"],
        "argument": ["k=[i for i in b if i]"],
        "in_comprehension": ["[i for i in b if i]"],
        "in_class": ["try: x = lambda q: q\n    except E as e: pass"],
        "in_try": ["x = lambda q: q"],
        "in_except": ["pass"],
        "in_lambda": ["lambda q: q"],
        "assigned": ["i", "x", "e"],
        "keyword=await": ["await"],
        "statement=class": ["class C:\n    "],
    }
    assert {name: runs(text, labels[name]) for name in expected} == expected


def test_words_that_are_keywords_only_in_places():
    text = "match = 1\nmatch (x):\n    case (1, *rest): y\n    case {'a': case, **more} as all: y\ncase = match\n"
    labels = by_character(text)
    assert runs(text, labels["keyword=match"]) == ["match"]
    assert runs(text, labels["keyword=case"]) == ["case", "case"]
    assert runs(text, labels["assigned"]) == ["match", "rest", "case", "all", "case"]


def test_comments_are_indented_like_the_block_they_stand_under():
    text = "if a:\n    # one\n    b(1,\n# inside\n      2)\n    # one still\n# none\nc\n"
    labels = by_character(text)
    depths = {run: labels["indent_depth"][text.index(run)] for run in runs(text, labels["comment"])}
    assert depths == {"# one": 1, "# inside": 1, "# one still": 1, "# none": 0}


def test_imported_names():
    text = "import os.path as p, sys\nfrom .a import (b, c as d)\n"
    assert runs(text, by_character(text)["imported"]) == ["os", "path", "p", "sys", "a", "b", "c", "d"]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_characters_beyond_ascii_and_any_end_of_line(end):
    text = end.join(["def fé(ü='ß'):", "    '''Übung", "    zwei'''", "    größe.länge(ü, 'ß')  # Schluß", ""])
    labels = by_character(text)
    assert labels["parsed"].all()
    assert runs(text, labels["function_name"]) == ["fé"]
    assert runs(text, labels["parameter"]) == ["ü"]
    assert runs(text, labels["called"]) == ["länge"]
    assert runs(text, labels["comment"]) == ["# Schluß"]
    assert runs(text, labels["string"]) == ["'ß'", end.join(["'''Übung", "    zwei'''"]), "'ß'"]
    assert labels["indent_depth"][text.index("größe")] == 1


def test_source_that_does_not_parse_has_lexical_labels_alone():
    text = "print 'a', f(1)\n"
    labels = by_character(text)
    assert not labels["parsed"].any()
    assert runs(text, labels["string"]) == ["'a'"]
    assert labels["bracket_depth"].max() == 1
    assert not labels["called"].any()
    assert (labels["statement"] == -1).all()


@pytest.mark.parametrize(
    ("text", "line"), [("x = (\n", "[12]"), ("if a:\n  b\n c\n", 3), ("ok\n'open\n", 2), ("a ? b", 1), ("a\n\x00", 2)]
)
def test_source_that_does_not_tokenize_is_an_error_that_names_the_line(text, line):
    with pytest.raises(DataError, match=f"line {line} is not Python"):
        python_labels(text, [(0, 1)])


def test_spans_outside_the_text_are_an_error():
    with pytest.raises(DataError, match="the text's 3 characters"):
        python_labels("a=1", [(0, 4)])


def test_an_empty_text_and_an_empty_span():
    assert len(python_labels("", [])) == 0
    labels = python_labels("a", [(0, 0), (0, 1)])
    assert not labels.flags[0].any()
    assert (labels.numbers[0] == -1).all()
    assert labels["name"].tolist() == [False, True]


def test_windows_are_slices_of_whole_documents():
    text = 'x = """one\ntwo"""\ny = (1,\n2)\n'
    tokens = ["x", " =", ' """', "one", "\n", "two", '"""', "\n", "y", " =", " (", "1", ",", "\n", "2", ")", "\n"]
    whole = PythonLabels.concatenate([python_labels(text, spans_of(text, *tokens)), python_labels("z", [(0, 1)])])
    index = np.array([[-1, 3, 4, 5], [-1, 13, 14, 17]])
    windows = whole.take(index)
    assert windows["string"].tolist() == [[False, True, True, True], [False] * 4]
    assert windows["bracket_depth"].tolist() == [[-1, 0, 0, 0], [-1, 1, 1, 0]]
    assert windows.flags.shape == (2, 4, len(FLAGS))
    assert windows.numbers.shape == (2, 4, len(NUMBERS))


def test_unknown_labels_offer_the_nearest():
    with pytest.raises(UserError, match="'docstring'"):
        unlabelled(3)["doc_string"]
    with pytest.raises(UserError, match="'keyword=for'"):
        unlabelled(3)["keyword=fro"]
