"""Frozen configuration models: nested, read from TOML, told apart by ``kind``.

A family is a Config class declared with ``family="..."``; its members declare ``kind: Literal["name"] = "name"``.
A field typed as the family accepts a table with any member's kind. Unknown keys and kinds answer with the nearest
known one. Members in other packages are found through the entry-point group ``monoscope.variants``.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, ClassVar, Self, get_args

import tomli_w
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from monoscope.core.errors import ConfigError, nearest
from monoscope.core.stores.remote import Location, location


class Config(BaseModel):
    """A frozen table of settings; unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=False)

    _family: ClassVar[str | None] = None
    _members: ClassVar[dict[str, type[Config]]]

    def __init_subclass__(cls, family: str | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)

    @classmethod
    def __pydantic_init_subclass__(cls, family: str | None = None, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        for name, field in cls.model_fields.items():
            if type(None) in get_args(field.annotation) and field.get_default(call_default_factory=False) is not None:
                raise TypeError(
                    f"{cls.__qualname__}.{name} may be None but is not by default: TOML has no way to say it"
                )
        if family is not None:
            cls._family, cls._members = family, {}
        elif cls._family is not None and "kind" in cls.model_fields:
            kind = cls.model_fields["kind"].default
            if kind in cls._members and cls._members[kind].__qualname__ != cls.__qualname__:
                raise TypeError(f"{kind!r} already names {cls._members[kind].__qualname__}")
            cls._members[kind] = cls

    @model_validator(mode="wrap")
    @classmethod
    def _dispatch(cls, value: Any, handler: Any) -> Any:
        if not isinstance(value, Mapping):
            return handler(value)
        if cls._family is not None and "kind" not in cls.model_fields:
            return cls._member(value).model_validate(value)
        unknown = [key for key in value if key not in cls.model_fields]
        if unknown:
            raise ValueError(f"unknown key {unknown[0]!r}; {nearest(str(unknown[0]), cls.model_fields)}")
        return handler(value)

    @classmethod
    def _member(cls, value: Mapping[str, Any]) -> type[Config]:
        if "kind" not in value:
            raise ValueError(f"the {cls._family} needs a kind; known: {', '.join(sorted(cls._members))}")
        kind = str(value["kind"])
        if kind not in cls._members:
            _load_plugins()
        if kind not in cls._members:
            raise ValueError(f"unknown {cls._family} {kind!r}; {nearest(kind, cls._members)}")
        return cls._members[kind]

    @classmethod
    def kinds(cls) -> dict[str, type[Config]]:
        """Members of a family by their kind."""
        return dict(sorted(cls._members.items()))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Config of a plain table. Raises ConfigError naming the key, what was found, and what would be right."""
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise ConfigError(_describe(error)) from None

    @classmethod
    def load(cls, path: Path | str, overrides: Iterable[str] = ()) -> Self:
        """Config of a TOML file, after ``overrides`` such as ``recipe.function.k=32``."""
        return cls.from_dict(override(read_toml(path), overrides))

    def to_dict(self) -> dict[str, Any]:
        """The plain table that ``from_dict`` reads back; absent options are left out."""
        return {name: _plain(value) for name in type(self).model_fields if (value := getattr(self, name)) is not None}

    def to_toml(self) -> str:
        """The resolved table as TOML."""
        return tomli_w.dumps(self.to_dict())


def read_toml(path: Location | str) -> dict[str, Any]:
    """Plain table of a TOML file."""
    try:
        return parse_toml(location(path).read_text(encoding="utf-8"), path)
    except FileNotFoundError:
        raise ConfigError(f"no configuration file at {path}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not TOML: {error}") from None
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None


def parse_toml(text: str, where: Location | str) -> dict[str, Any]:
    """Plain table of a TOML text; ``where`` is what errors call it."""
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"{where} is not TOML: {error}") from None


def override(data: Mapping[str, Any], assignments: Iterable[str]) -> dict[str, Any]:
    """Copy of a table with ``a.b=value`` assignments applied; values are read as TOML, or else as text."""
    out = {key: dict(value) if isinstance(value, Mapping) else value for key, value in data.items()}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals or not name:
            raise ConfigError(f"an override reads KEY=VALUE, found {assignment!r}")
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            value = text
        assign(out, name, value)
    return out


def assign(table: dict[str, Any], name: str, value: Any) -> None:
    """Set a dotted key of a nested table, in place; the tables on the way are copied, so nothing else changes."""
    *parents, last = name.split(".")
    for parent in parents:
        child = table.get(parent, {})
        if not isinstance(child, Mapping):
            raise ConfigError(f"cannot set {name}: {parent!r} is {child!r}, not a table")
        table[parent] = table = dict(child)
    table[last] = value


def _plain(value: Any) -> Any:
    if isinstance(value, Config):
        return value.to_dict()
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    return value if isinstance(value, (bool, int, float, str)) else str(value)


@cache
def _load_plugins() -> None:
    for point in entry_points(group="monoscope.variants"):
        point.load()


def _describe(error: ValidationError) -> str:
    lines = []
    for problem in error.errors(include_url=False):
        where = ".".join(str(part) for part in problem["loc"])
        found = "" if problem["type"] in ("value_error", "missing") else f", found {problem['input']!r}"
        lines.append(f"{where}: {problem['msg'].removeprefix('Value error, ')}{found}".removeprefix(": "))
    return "; ".join(lines)
