"""The public names: sorted, loaded only when asked for, and known to type checkers."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import monoscope


def test_names_are_sorted_and_each_leads_somewhere() -> None:
    assert monoscope.__all__ == sorted(monoscope.__all__)
    assert len(set(monoscope.__all__)) == len(monoscope.__all__)
    for name in monoscope.__all__:
        assert getattr(monoscope, name).__name__ == name
    assert list(monoscope._HOMES) == monoscope.__all__  # pyright: ignore[reportAttributeAccessIssue]
    assert set(dir(monoscope)) == {*monoscope.__all__, "__version__"}


def test_type_checkers_see_the_same_names() -> None:
    stub = Path(monoscope.__file__).with_suffix(".pyi").read_text()
    imports = [node for node in ast.parse(stub).body if isinstance(node, ast.ImportFrom)]
    found = {alias.name: node.module for node in imports for alias in node.names}
    assert found == {name: f"monoscope.{home}" for name, home in monoscope._HOMES.items()}  # pyright: ignore[reportAttributeAccessIssue]


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'SparseAutoencoder'"):
        monoscope.SparseAutoencoder  # pyright: ignore[reportAttributeAccessIssue]  # noqa: B018


def test_importing_loads_nothing() -> None:
    script = "import sys, monoscope; print(*[name for name in sys.modules if name.startswith('monoscope')])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["monoscope"]


def test_star_import_gives_the_public_names() -> None:
    names: dict[str, object] = {}
    exec("from monoscope import *", names)
    assert set(monoscope.__all__) <= names.keys()
