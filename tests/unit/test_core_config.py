"""Configs: tables in, tables out, and errors that offer what would be right."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, ValidationError

from monoscope.core.config import Config, assign, override, read_toml
from monoscope.core.errors import ConfigError


class Shape(Config, family="shape"):
    """A family."""


class Circle(Shape):
    kind: Literal["circle"] = "circle"
    radius: float = 1.0


class Square(Shape):
    kind: Literal["square"] = "square"
    side: int = Field(default=2, gt=0)
    label: str | None = None


class Drawing(Config):
    title: str
    shape: Shape = Circle()
    more: dict[str, Shape] = Field(default_factory=dict)
    sizes: tuple[int, ...] = ()


def test_kinds_choose_the_member() -> None:
    drawing = Drawing.from_dict({"title": "t", "shape": {"kind": "square", "side": 3}})
    assert drawing.shape == Square(side=3)
    assert Shape.from_dict({"kind": "circle"}) == Circle()
    assert list(Shape.kinds()) == ["circle", "square"]


def test_members_pass_through() -> None:
    square = Square(side=5)
    assert Drawing(title="t", shape=square).shape is square


def test_configs_are_frozen() -> None:
    with pytest.raises(ValidationError):
        Circle().radius = 2.0  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ({"title": "t", "shpae": {}}, "unknown key 'shpae'; did you mean 'shape'"),
        ({"title": "t", "shape": {"kind": "sqare"}}, "shape: unknown shape 'sqare'; did you mean 'square'"),
        ({"title": "t", "shape": {"kind": ["square"]}}, "unknown shape"),
        ({"title": "t", "shape": {"side": 3}}, "the shape needs a kind; known: circle, square"),
        ({"title": "t", "shape": {"kind": "square", "radius": 1}}, "unknown key 'radius'; known: kind, label, side"),
        ({"title": "t", "shape": {"kind": "square", "side": 0}}, "shape.side: .*greater than 0, found 0"),
        ({"title": "t", "more": {"first": {"kind": "oval"}}}, "more.first: unknown shape 'oval'"),
        ({"title": 3}, "title: .*string, found 3"),
        ({}, "title: Field required"),
        ({"title": "t", "shape": 7}, "shape: "),
    ],
)
def test_errors_name_the_key_and_what_would_be_right(table: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Drawing.from_dict(table)


def test_every_problem_is_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        Drawing.from_dict({"title": 3, "sizes": ["x"]})
    assert "title" in str(caught.value)
    assert "sizes.0" in str(caught.value)


def test_no_two_members_share_a_kind() -> None:
    with pytest.raises(TypeError, match="already names Circle"):

        class Disc(Shape):
            kind: Literal["circle"] = "circle"

    assert Shape.kinds()["circle"] is Circle


def test_none_must_be_the_default_where_it_is_allowed() -> None:
    with pytest.raises(TypeError, match="TOML has no way to say it"):

        class Clipped(Config):
            clip: float | None = 1.0


drawings = st.builds(
    Drawing,
    title=st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=20),
    shape=st.builds(Circle, radius=st.floats(allow_nan=False))
    | st.builds(Square, side=st.integers(1, 10**9), label=st.none() | st.text(max_size=9)),
    more=st.dictionaries(st.text(min_size=1, max_size=6), st.builds(Circle), max_size=3),
    sizes=st.lists(st.integers(-(2**62), 2**62), max_size=4).map(tuple),
)


@given(drawings)
def test_tables_and_toml_read_back(drawing: Drawing) -> None:
    assert Drawing.from_dict(drawing.to_dict()) == drawing
    assert Drawing.from_dict(tomllib.loads(drawing.to_toml())) == drawing


def test_load_applies_overrides(tmp_path: Path) -> None:
    path = tmp_path / "drawing.toml"
    path.write_text('title = "a"\nshape = {kind = "square", side = 3}\n')
    drawing = Drawing.load(path, ["shape.side=7", "title=plain words", "sizes=[1, 2]", "shape.label='quoted'"])
    assert drawing == Drawing(title="plain words", shape=Square(side=7, label="quoted"), sizes=(1, 2))


def test_a_changed_kind_must_fit_its_keys(tmp_path: Path) -> None:
    path = tmp_path / "drawing.toml"
    path.write_text('title = "a"\nshape = {kind = "square", side = 3}\n')
    with pytest.raises(ConfigError, match="unknown key 'side'"):
        Drawing.load(path, ["shape.kind=circle"])


def test_override_leaves_the_table_alone() -> None:
    table = {"a": {"b": {"c": 1}}, "d": 2}
    out = override(table, ["a.b.c=5", "a.x.y=true", "d="])
    assert out == {"a": {"b": {"c": 5}, "x": {"y": True}}, "d": ""}
    assert table == {"a": {"b": {"c": 1}}, "d": 2}


@pytest.mark.parametrize("assignment", ["novalue", "=3", ""])
def test_an_override_is_an_assignment(assignment: str) -> None:
    with pytest.raises(ConfigError, match="KEY=VALUE"):
        override({}, [assignment])


def test_a_value_is_no_table() -> None:
    with pytest.raises(ConfigError, match="'a' is 1, not a table"):
        assign({"a": 1}, "a.b", 2)


@pytest.mark.parametrize(
    ("content", "says"), [(None, "no configuration file at"), (b"a = = 1", "is not TOML"), (b"\xff\xfe", "is not TOML")]
)
def test_unreadable_files(tmp_path: Path, content: bytes | None, says: str) -> None:
    path = tmp_path / "config.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=says):
        read_toml(path)


def test_a_directory_is_no_configuration(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        read_toml(tmp_path)
