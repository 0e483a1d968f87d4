"""Filters and sort orders as SQL: names from a list, values bound, no text of a request among the code."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError

from monoscope.core.errors import nearest
from monoscope.server.problems import ProblemError, shown
from monoscope.server.table.columns import ADDED, OPERATORS, TOKENS, Kind
from monoscope.server.wire.table import Condition

MAX_CONDITIONS, MAX_KEYS = 20, 6
SQL = {"=": "=", "!=": "IS DISTINCT FROM", "<": "<", "<=": "<=", ">": ">", ">=": ">="}
_CONDITIONS = TypeAdapter(list[Condition])


@dataclass(frozen=True)
class Question:
    """Which features, in which order. ``key`` is equal for equal questions.

    where, order: SQL over the bundle's columns ``t`` and the added ones ``x``; values: what its question marks are
    tokens: conditions on lists of tokens, as (name of the list, texts)
    """

    key: str
    where: str
    order: str
    values: tuple[Any, ...]
    tokens: tuple[tuple[str, tuple[str, ...]], ...]
    joined: bool

    @staticmethod
    def of(kinds: Mapping[str, Kind], filter: str, sort: str) -> Question:
        """The question of a request. Raises ProblemError for unknown columns, operators, and values that do not fit."""
        known: dict[str, Kind] = {**kinds, **ADDED}
        conditions = _parse(filter)
        keys = _sort_keys(sort, known)
        parts, values, tokens = [], [], []
        for condition in conditions:
            if condition.column in TOKENS:
                tokens.append((condition.column, _token_texts(condition)))
                continue
            sql, bound = _condition(condition, _known(condition.column, known, [*known, *TOKENS]))
            parts.append(sql)
            values += bound
        order = [f"{_sql(name)} {'DESC' if down else 'ASC'} NULLS LAST" for name, down in keys]
        if not any(name == "feature" for name, _ in keys):
            order.append("t.feature ASC")
        used = {condition.column for condition in conditions} | {name for name, _ in keys}
        key = json.dumps([[c.model_dump() for c in conditions], keys])
        return Question(
            key,
            " AND ".join(parts) or "TRUE",
            ", ".join(order),
            tuple(values),
            tuple(tokens),
            bool(used & ADDED.keys()),
        )


def _parse(filter: str) -> list[Condition]:
    if not filter:
        return []
    try:
        conditions = _CONDITIONS.validate_json(filter)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        where = ".".join(map(str, fault["loc"]))
        raise ProblemError(
            422,
            f"filter{'.' if where else ''}{where}: {fault['msg']}",
            found=shown(fault["input"]),
            expected='a JSON list such as [{"column": "density", "op": "<", "value": 0.001}]',
        ) from None
    if len(conditions) > MAX_CONDITIONS:
        raise ProblemError(422, f"a filter has {MAX_CONDITIONS} conditions at most", found=len(conditions))
    return conditions


def _sort_keys(sort: str, known: Mapping[str, Kind]) -> list[tuple[str, bool]]:
    keys = []
    for part in filter(None, sort.split(",")):
        name, down = part.removeprefix("-"), part.startswith("-")
        if _known(name, known, known) == "texts":
            raise ProblemError(422, f"{name} is a list, which has no order", found=part)
        keys.append((name, down))
    if len(keys) > MAX_KEYS:
        raise ProblemError(422, f"a table is sorted by {MAX_KEYS} columns at most", found=len(keys))
    return keys


def _known(name: str, known: Mapping[str, Kind], all_names: Sequence[str] | Mapping[str, Kind]) -> Kind:
    if name not in known:
        raise ProblemError(422, f"there is no column {shown(name)!r}", found=shown(name), hint=nearest(name, all_names))
    return known[name]


def _sql(name: str) -> str:
    return f'x."{name}"' if name in ADDED else f't."{name}"'


def _condition(condition: Condition, kind: Kind) -> tuple[str, list[Any]]:
    column, op = _sql(condition.column), condition.op
    if op not in OPERATORS[kind]:
        raise ProblemError(
            422, f"{condition.column} cannot be asked with {op!r}", found=op, expected=list(OPERATORS[kind])
        )
    if op in ("is_null", "not_null"):
        absent = f"coalesce(len({column}), 0) = 0" if kind == "texts" else f"{column} IS NULL"
        return (absent if op == "is_null" else f"NOT ({absent})"), []
    items = condition.value if isinstance(condition.value, list) else [condition.value]
    if op != "in" and isinstance(condition.value, list):
        raise ProblemError(422, f"{op!r} takes one value, not a list", found=shown(condition.value))
    values = [_fits(condition, item, kind) for item in items]
    marks = ", ".join("?" * len(values))
    if kind == "texts":
        return f"list_has_any({column}, CAST([{marks}] AS VARCHAR[]))", values
    if op == "in":
        return (f"{column} IN ({marks})" if values else "FALSE"), values
    if op == "contains":
        return f"contains(lower({column}), lower(?))", values
    if op == "prefix":
        return f"starts_with(lower({column}), lower(?))", values
    if op == "matches":
        return f"regexp_matches({column}, ?)", values
    if condition.column == "bookmarked":
        column = f"coalesce({column}, FALSE)"
    return f"{column} {SQL[op]} ?", values


def _fits(condition: Condition, value: Any, kind: Kind) -> Any:
    wanted: tuple[type, ...] = {
        "number": (int, float),
        "integer": (int, float),
        "boolean": (bool,),
        "text": (str,),
        "texts": (str,),
    }[kind]
    wrong = not isinstance(value, wanted) or (kind != "boolean" and isinstance(value, bool))
    if wrong or (isinstance(value, float) and not math.isfinite(value)):
        raise ProblemError(422, f"{condition.column} is compared with a {kind}", found=shown(value), expected=kind)
    if kind not in ("number", "integer"):
        return value
    try:
        return float(value)
    except OverflowError:
        raise ProblemError(422, f"{condition.column} is compared with a number too large for it", found="...") from None


def _token_texts(condition: Condition) -> tuple[str, ...]:
    items = condition.value if isinstance(condition.value, list) else [condition.value]
    if condition.op not in ("=", "in") or not items or not all(isinstance(item, str) for item in items):
        raise ProblemError(
            422,
            f"{condition.column} is asked for a token, or for several",
            found=shown(condition.value),
            expected='{"column": "promotes", "op": "=", "value": " cat"}',
        )
    return tuple(str(item) for item in items)
