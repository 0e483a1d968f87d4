"""Live views, without a browser: what goes to it, what comes back, and what is said where something is missing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from served import HOSTILE, hostile_bundle

from monoscope.core.errors import DataError, UserError
from monoscope.features import FeatureBundle
from monoscope.features.drawn import drawn
from monoscope.features.widgets import built as place


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> FeatureBundle:
    return hostile_bundle(tmp_path_factory.mktemp("widgets") / "features.mono")


@pytest.fixture
def built() -> None:
    if not (Path(str(place.files("monoscope"))) / "_ui" / "elements.js").is_file():
        pytest.skip("the interface is not built: python ui/build.py")


def sent(widget: Any, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    messages: list[Any] = []
    monkeypatch.setattr(widget, "send", lambda content, buffers=None: messages.append(content))
    return messages


def test_texts_cross_as_they_are(bundle: FeatureBundle) -> None:
    strings = {text for i in range(40) for text in drawn(bundle.feature(i))["contexts"]["strings"]}
    assert HOSTILE[0] in strings


@pytest.mark.usefixtures("built")
def test_a_view_of_one_feature_holds_it_and_takes_choices(bundle: FeatureBundle) -> None:
    view = bundle.feature(7).show()
    assert (view.feature, view.n_features, view.selected) == (7, 1, None)
    assert view.get_state()["data"]["feature"]["index"] == 7
    heard = []
    view.observe(lambda change: heard.append(change["new"]), "selected")
    spot = {"sequence": 3, "position": 5, "token": HOSTILE[0], "value": 1.5}
    view.set_state({"selected": spot, "hovered": spot})
    assert view.selected == view.hovered == spot
    view.set_state({"selected": None})
    assert heard == [spot, None]


@pytest.mark.usefixtures("built")
def test_an_explorer_goes_where_the_browser_goes(bundle: FeatureBundle) -> None:
    view = bundle.show(2)
    assert (view.n_features, view.data["feature"]["index"]) == (len(bundle), 2)
    view.set_state({"selected": {"sequence": 0, "position": 0, "token": "a", "value": 1.0}})
    view.set_state({"feature": 9})
    assert view.data == drawn(bundle.feature(9), bundle.special)
    assert view.selected is None


@pytest.mark.usefixtures("built")
def test_a_feature_that_is_not_there_is_refused(bundle: FeatureBundle) -> None:
    import traitlets

    with pytest.raises(DataError, match="no feature 300"):
        bundle.show(300)
    view = bundle.show()
    for index in (300, -1):
        with pytest.raises(traitlets.TraitError, match="0 to 299"):
            view.feature = index
    assert view.feature == 0


@pytest.mark.usefixtures("built")
def test_what_comes_next_is_given_when_asked_for(bundle: FeatureBundle, monkeypatch: pytest.MonkeyPatch) -> None:
    view = bundle.show()
    messages = sent(view, monkeypatch)
    view._handle_custom_msg({"kind": "ask", "features": [1, 2, 3]}, [])
    assert [record["feature"]["index"] for record in messages[0]["features"]] == [1, 2, 3]
    view._handle_custom_msg({"kind": "ask", "features": [299, 300, -1, "1", None, True]}, [])
    assert [record["feature"]["index"] for record in messages[1]["features"]] == [299]
    view._handle_custom_msg({"kind": "ask", "features": [0] * 1000}, [])
    assert len(messages[2]["features"]) == 16
    for nonsense in ("ask", {"kind": "ask"}, {"kind": "other", "features": [1]}, {"kind": "ask", "features": 1}):
        view._handle_custom_msg(nonsense, [])
    assert len(messages) == 3


def test_without_anywidget_it_says_what_to_install(bundle: FeatureBundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("monoscope.features.widgets.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"monoscope\[notebook\]"):
        bundle.feature(0).show()


def test_without_the_built_interface_it_says_how_to_build(
    bundle: FeatureBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(place, "files", lambda package: tmp_path)
    with pytest.raises(UserError, match=r"elements\.js is missing.*ui/build\.py"):
        bundle.show()


def test_anywidget_is_imported_only_for_a_view() -> None:
    code = "import sys, monoscope.features.records, monoscope.features.bundle, monoscope.features.widgets\n"
    code += "sys.exit('anywidget' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
