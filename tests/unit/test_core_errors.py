"""The exceptions, and the names they offer."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monoscope.core import errors


@pytest.mark.parametrize(
    "name", ["ConfigError", "SiteError", "ModelError", "DataError", "MismatchError", "OutputError"]
)
def test_every_user_error_is_a_value_error(name: str) -> None:
    error = getattr(errors, name)
    assert issubclass(error, errors.UserError)
    assert issubclass(error, ValueError)
    assert issubclass(error, errors.MonoscopeError)
    assert name in (errors.__doc__ or "")


def test_close_names_are_offered() -> None:
    assert errors.nearest("batchtopk", ["batch_topk", "relu", "topk"]).startswith("did you mean 'batch_topk'")
    assert errors.nearest("zzz", ["relu", "topk"]) == "known: relu, topk"


def test_long_lists_are_cut() -> None:
    text = errors.nearest("zzz", [f"name{i:03}" for i in range(40)])
    assert "name029" in text
    assert "name030" not in text
    assert text.endswith("and 10 more")


@given(st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=20), st.data())
def test_a_known_name_is_offered_back(known: list[str], data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(known))
    assert repr(name) in errors.nearest(name, known)
