"""Bundles converted for other tools, and back, from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import Call
from feature_worlds import Text, lookup, world

from monoscope.features import FeatureBundle, analyze
from monoscope.features.workspace import Workspace
from monoscope.features.workspace.records import FeatureRef, ListDraft


@pytest.fixture
def bundle(call: Call, tmp_path: Path) -> FeatureBundle:
    tokens, table = world(n_features=8, density=0.1)
    return analyze(lookup(table), Text(tokens), tmp_path / "features.mono")


def test_a_bundle_goes_to_another_tool_and_comes_back(call: Call, bundle: FeatureBundle) -> None:
    done = call("convert", "features.mono", "out", "--to", "saedashboard", "--choose", "features=5,2", "--json")
    assert done.code == 0, done.err
    assert (done.result["features"], done.result["explanations"]) == (2, 0)
    assert done.result["lost"]
    done = call("convert", "out", "again.mono", "--to", "monoscope", "--json")
    assert done.code == 0, done.err
    assert (done.result["features"], done.result["from"]) == (6, "saedashboard")
    again = FeatureBundle.open("again.mono")
    assert again.feature(5).density == pytest.approx(bundle.feature(5).density)
    assert call("info", "again.mono", "--verify", "--json").result["verified"] is True


def test_a_page_of_a_list_with_the_labels_of_a_workspace(call: Call, bundle: FeatureBundle, tmp_path: Path) -> None:
    fingerprint = bundle.manifest["dictionary"]["fingerprint"]
    with Workspace.open("notes.db") as workspace:
        workspace.labels.write(fingerprint, 3, "the third of them")
        favorites = workspace.lists.create(ListDraft(name="favorites"))
        for feature, note in ((6, "<first>"), (3, "")):
            workspace.items.add(favorites.id, [FeatureRef(dictionary_fp=fingerprint, feature=feature)], note=note)
    chosen = ("--choose", "list=favorites", "--choose", "workspace=notes.db")
    done = call("convert", "features.mono", "page.html", "--to", "html", *chosen, "--json")
    assert done.code == 0, done.err
    page = (tmp_path / "page.html").read_text()
    assert page.index('id="f6"') < page.index('id="f3"')
    assert "the third of them" in page
    assert "<h1>favorites</h1>" in page
    assert page.count('class="note"') == page.count("&lt;first&gt;") == 1
    done = call("convert", "features.mono", "other.html", "--to", "html", "--choose", "list=best", *chosen[2:])
    assert done.code == 2
    assert "no list 'best'" in done.err


def test_explanations_are_taken_into_a_workspace_once(call: Call, bundle: FeatureBundle, tmp_path: Path) -> None:
    (tmp_path / "said.jsonl").write_text(
        '{"index": 2, "description": "cats", "method": "m", "scores": {"fuzz": 0.5}}\n{"index": 4, "text": "dogs"}\n'
    )
    for expected in (2, 0):
        done = call("db", "explain", "notes.db", "said.jsonl", "--bundle", "features.mono", "--json")
        assert done.code == 0, done.err
        assert done.result["explanations"] == expected
    with Workspace.open("notes.db") as workspace:
        best = workspace.labels.best(bundle.manifest["dictionary"]["fingerprint"], 2)
        assert best is not None
        assert (best.text, best.source, best.score) == ("cats", "explanation", 0.5)
    done = call("convert", "features.mono", "out", "--to", "neuronpedia_upload", "--choose", "workspace=notes.db")
    assert done.code == 0, done.err
    (row,) = [row for row in json.loads((tmp_path / "out/upload-0.json").read_text())["features"] if row["index"] == 2]
    assert row["explanations"] == [{"text": "cats", "methodName": "m"}]
    (tmp_path / "said.jsonl").write_text('{"index": 99, "description": "cats"}\n')
    done = call("db", "explain", "notes.db", "said.jsonl", "--bundle", "features.mono")
    assert (done.code, "feature 99 is explained" in done.err) == (1, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--to", "htm"), "did you mean 'html'"),
        (("--to", "html", "--choose", "featurs=1"), "did you mean 'features'"),
        (("--to", "html", "--choose", "features=one"), "features are numbers"),
        (("--to", "html", "--choose", "list=x"), "a list is in a workspace"),
    ],
)
def test_choices_that_cannot_be_meant(
    call: Call, bundle: FeatureBundle, arguments: tuple[str, ...], message: str
) -> None:
    done = call("convert", "features.mono", "out", *arguments)
    assert done.code == 2
    assert message in done.err
