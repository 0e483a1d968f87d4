"""Dictionaries in the files of other libraries: the features of one are read from new text where those files stand."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from live_world import SITE, dictionary, directions, serving

from monoscope.dictionaries import load
from monoscope.features import Analysis, analyze
from monoscope.formats import convert
from monoscope.formats import load as load_any
from monoscope.harvest import StandardLibrary, live

pytestmark = pytest.mark.slow  # a server and its worker process are started

TEXT = "import os\nfor name in os.listdir('.'):\n    print(name)\n"


@pytest.fixture(scope="module")
def foreign(lm, tmp_path_factory) -> Path:
    """A dictionary in SAELens' files beside a bundle of its features; the dictionary of ours is elsewhere."""
    here, there = tmp_path_factory.mktemp("ours"), tmp_path_factory.mktemp("theirs")
    windows = StandardLibrary().windows(lm, context=64, tokens=1024)
    made = dictionary({"kind": "jumprelu", "threshold": 2.0}, directions()[0])
    made.provenance = {"source": live(lm, windows, [SITE]).info}
    made.save(here / "dictionary")
    convert(here / "dictionary", there / "sae", to="saelens")
    opened = load_any(there / "sae")
    analyze(opened, live(lm, windows, [SITE]), there / "features.mono", lm=lm, config=Analysis(window=16))
    return there


def served(path: Path, tmp_path: Path):
    return serving([path], db=str(tmp_path / "workspace.db"))


def test_new_text_is_read_from_their_files(foreign, lm, tmp_path) -> None:
    with served(foreign, tmp_path) as client:
        (card,) = client.get("/library").json()["dictionaries"]
        assert card["live"]
        answer = client.post("/activate", json={"dicts": [card["id"]], "text": TEXT, "top": 5}).raise_for_status()
    ids = lm.tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    tokens = torch.tensor([[lm.bos_token_id, *ids]])
    expected = load_any(foreign / "sae").encode(lm.read(tokens, [SITE])[SITE]).dense()[0, 1:].amax(0)
    found = answer.json()["whole"]
    assert [hit["value"] for hit in found] == pytest.approx(expected.topk(5).values.tolist(), rel=1e-4)


def test_other_weights_in_their_place_are_refused(foreign, tmp_path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(foreign / "sae", tmp_path / "kept")
    other = load_any(foreign / "sae")
    with torch.no_grad():
        other.b_dec.add_(1.0)
    other.save(tmp_path / "other")
    assert load(tmp_path / "other").fingerprint() != load_any(foreign / "sae").fingerprint()
    try:
        shutil.rmtree(foreign / "sae")
        convert(tmp_path / "other", foreign / "sae", to="saelens")
        with served(foreign, copy.with_suffix(".d")) as client:
            (card,) = client.get("/library").json()["dictionaries"]
            answer = client.post("/activate", json={"dicts": [card["id"]], "text": TEXT})
    finally:
        shutil.rmtree(foreign / "sae")
        shutil.copytree(tmp_path / "kept", foreign / "sae")
    assert answer.status_code == 422, answer.text
    assert "holds another dictionary" in answer.text


def test_files_outside_of_what_is_served_are_left_alone(foreign, tmp_path) -> None:
    shutil.copytree(foreign / "features.mono", tmp_path / "alone" / "features.mono")
    with served(tmp_path / "alone", tmp_path) as client:
        (card,) = client.get("/library").json()["dictionaries"]
    assert not card["live"]
