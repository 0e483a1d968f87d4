"""Bundles in the formats of other tools, and back; files laid out by hand; files that nobody should trust."""

from __future__ import annotations

import gzip
import json
import re
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from feature_worlds import world
from hypothesis import given
from hypothesis import strategies as st

from monoscope.core.errors import ConfigError, DataError, OutputError
from monoscope.features import Feature, FeatureBundle
from monoscope.features.exchange import Said, adopt, export, read_explanations, recognize, told
from monoscope.features.exchange.feature_json import paired, unpaired
from monoscope.features.page import write_page

FORMATS = {"saedashboard": ".", "neuronpedia": "unknown/*", "feature_json": ".", "feature_binary": "."}


@pytest.fixture
def bundle(make: Callable[..., FeatureBundle]) -> FeatureBundle:
    tokens, table = world(n_features=40, sequences=60, length=32, density=0.1)
    table[:, 7] = 0
    return make(tokens, table, window=16, top=5)


def fires(feature: Feature) -> list[tuple[tuple[str, ...], list[float]]]:
    """Windows of the strongest contexts, with what fires in them, to four decimals."""
    return [(c.tokens, np.round(c.acts.astype(float), 3).tolist()) for c in feature.interval(0) if c.dup_of is None]


@pytest.mark.parametrize("name", FORMATS)
def test_what_is_written_is_read_back(bundle: FeatureBundle, tmp_path: Path, name: str) -> None:
    said = {3: [Said("opening brackets", "oai_token-act-pair", "judge", (("fuzz", 0.75),))]}
    lost = export(bundle, tmp_path / "out", name, said=said)
    assert lost
    (written,) = (tmp_path / "out").glob(FORMATS[name]) if FORMATS[name] != "." else [tmp_path / "out"]
    again = adopt(written, tmp_path / "again.mono")
    again.verify()
    assert again.manifest["analysis"]["config"]["imported"] in (name, "feature_json")
    alive = [i for i in range(40) if i != 7]
    for index in alive:
        one, other = bundle.feature(index), again.feature(index)
        assert other.density == pytest.approx(one.density, rel=1e-6)
        assert other.max_act == pytest.approx(one.max_act, rel=2e-3)
        assert [token.text for token in other.promoted] == [token.text for token in one.promoted]
        np.testing.assert_array_equal(other.acts.counts, one.acts.counts)
        np.testing.assert_allclose(other.acts.edges, one.acts.edges, rtol=1e-4, atol=1e-5)
        assert sorted(fires(other)) == sorted(fires(one))
        windows = {c.tokens for c in one.contexts}
        assert {c.tokens for c in other.contexts} == windows
        for context in other.contexts:
            if context.interval > 0:
                band = other.intervals[context.interval - 1]
                assert band.low - 1e-3 <= context.max_act <= band.high * 1.001 + 1e-3
            assert (context.interval == -2) == (context.max_act == 0)
    assert again.feature(7).is_dead
    if name == "neuronpedia":
        assert list(read_explanations(written)) == [(3, said[3][0])]
        (own,) = again.explanations(3)
        assert (own.text, own.method, own.judge, own.scores) == (
            "opening brackets", "oai_token-act-pair", "judge", (("fuzz", 0.75),)
        )  # fmt: skip
        assert told(again) == {3: (said[3][0],)}
        assert again.explanations(4) == ()


def test_of_chosen_features_the_others_are_absent(bundle: FeatureBundle, tmp_path: Path) -> None:
    export(bundle, tmp_path / "out", "saedashboard", [5, 2])
    rows = json.loads((tmp_path / "out" / "batch-0.json").read_text())["features"]
    assert [row["feature_index"] for row in rows] == [5, 2]
    with pytest.raises(DataError, match="there is no feature 40; this bundle has 0 to 39"):
        export(bundle, tmp_path / "other", "saedashboard", [40])
    with pytest.raises(ConfigError, match="not written as 'sae_dashboard'; did you mean 'saedashboard'"):
        export(bundle, tmp_path / "other", "sae_dashboard")
    with pytest.raises(OutputError):
        export(bundle, tmp_path / "out", "saedashboard")
    assert not (tmp_path / "other").exists()


def test_uploads_keep_to_their_limits(make: Callable[..., FeatureBundle], tmp_path: Path) -> None:
    tokens, table = world(n_features=150, sequences=60, length=32, density=0.1)
    table[:, 7] = 0
    said = {0: [Said("x" * 600, "Detection", "JUDGE")]}
    export(make(tokens, table), tmp_path / "out", "neuronpedia_upload", said=said)
    bodies = [json.loads(file.read_text()) for file in sorted((tmp_path / "out").iterdir())]
    assert [len(body["features"]) for body in bodies] == [128, 21]
    rows = [row for body in bodies for row in body["features"]]
    assert 7 not in {row["index"] for row in rows}
    for row in rows:
        assert row["activations"]
        assert 0 <= row["density"] <= 1
        assert len(row["topLogits"]) <= 20
        for shown in row["activations"]:
            assert 1 <= len(shown["tokens"]) == len(shown["values"]) <= 1024
            assert 0 <= shown.get("quantileFraction", 0) <= 1
    assert rows[0]["explanations"] == [{"text": "x" * 512, "methodName": "detection", "modelName": "judge"}]


def dashboard(path: Path, *activations: tuple[float, list[str], list[float]], **other: Any) -> Path:
    """A SAEDashboard directory with one feature; each activation with its ``bin_min``."""
    shown = [
        {"bin_min": low, "bin_max": low, "bin_contains": 0.1, "tokens": tokens, "values": values}
        for low, tokens, values in activations
    ]
    row = {
        "feature_index": 4,
        "frac_nonzero": 0.01,
        "pos_str": ["a"],
        "pos_values": [1.5],
        "activations": shown,
    } | other
    path.mkdir()
    (path / "batch-0.json").write_text(json.dumps({"model_id": "gpt2", "layer": 6, "features": [row]}))
    return path


def test_bins_and_duplicates_of_a_file_are_settled_anew(tmp_path: Path) -> None:
    twin = ["the", " cat"], [0.0, 10.0]
    path = dashboard(
        tmp_path / "in",
        (-1, *twin),
        (-1, *twin),
        (7.0, ["a", " b"], [1.0, 0.0]),  # in the bin of the strongest, though it is weak
        (0.0, [" c", "d"], [9.5, 0.5]),
        (0.0, ["e", "f"], [0.0, 0.0]),
    )
    bundle = adopt(path, tmp_path / "out.mono")
    assert len(bundle) == 5
    assert bundle.manifest["model"]["id"] == "gpt2"
    assert bundle.manifest["dictionary"]["writes"] == ["6.resid_post"]
    feature = bundle.feature(4)
    found = {(c.interval, c.rank): (c.tokens, c.dup_of) for c in feature.contexts}
    assert found == {
        (-2, 0): (("e", "f"), None),
        (0, 0): (("the", " cat"), None),
        (0, 1): (("the", " cat"), 0),
        (1, 0): ((" c", "d"), None),
        (5, 0): (("a", " b"), None),
    }
    assert (feature.density, feature.max_act) == (pytest.approx(0.01), 10.0)
    assert [(t.text, t.value) for t in feature.promoted] == [("a", 1.5)]
    assert [bundle.feature(i).is_dead for i in range(5)] == [True] * 4 + [False]
    # Of the five activations in the examples two stand on " cat", since the twin counts.
    assert feature.n_sequences == 3
    assert (feature.tokens[0].text, feature.tokens[0].value) == (" cat", pytest.approx(0.4))
    assert feature.token_means[0] == pytest.approx(10.0)
    assert bundle.vocabulary[bundle.column("top_token")[4]] == " cat"


HOSTILE: dict[str, tuple[Callable[[Path], object], str]] = {
    "not JSON": (lambda path: (path / "batch-0.json").write_text("{"), "is not JSON"),
    "NaN": (lambda path: (path / "batch-0.json").write_text('{"features": [NaN]}'), "NaN is no number"),
    "deep": (lambda path: (path / "batch-0.json").write_text("[" * 200 + "]" * 200), "nested deeper"),
    "very deep": (lambda path: (path / "batch-0.json").write_text("[" * 100_000), "is not JSON"),
    "no object": (lambda path: (path / "batch-0.json").write_text("[]"), "not an object"),
    "no features": (lambda path: (path / "batch-0.json").write_text("{}"), "no list of features"),
    "twice": (lambda path: (path / "batch-1.json").write_text((path / "batch-0.json").read_text()), "comes twice"),
    "no feature": (
        lambda path: (path / "batch-0.json").write_text('{"features": [{"activations": []}]}'),
        "cannot be read: KeyError",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_files_that_cannot_be_trusted_are_named(tmp_path: Path, name: str) -> None:
    path = dashboard(tmp_path / "in", (-1, ["a"], [1.0]))
    spoil, message = HOSTILE[name]
    spoil(path)
    with pytest.raises(DataError, match=message):
        adopt(path, tmp_path / "out.mono")
    assert not (tmp_path / "out.mono").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"activations": [{"tokens": ["a", "b"], "values": [1.0]}]}, "2 tokens and 1 values"),
        ({"activations": [{"tokens": [3], "values": [1.0]}]}, "a token that is no text"),
        ({"pos_values": []}, "cannot be read: ValueError"),
        ({"feature_index": -1}, "-1 is no number of a feature"),
        ({"feature_index": 10**12}, "is no number of a feature"),
        ({"freq_hist_data_bar_values": [1.0], "freq_hist_data_bar_heights": []}, "1 places and 0 heights"),
    ],
)
def test_contradictions_in_a_feature_are_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        adopt(dashboard(tmp_path / "in", (-1, ["a"], [1.0]), **change), tmp_path / "out.mono")


def test_html_in_tokens_is_text(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>"
    bundle = adopt(dashboard(tmp_path / "in", (-1, [evil], [1.0]), pos_str=[evil]), tmp_path / "out.mono")
    assert bundle.feature(4).contexts[0].tokens == (evil,)
    page = write_page(tmp_path / "page.html", bundle, features=[4], labels={4: evil}).read_text()
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)" in page


def test_the_best_of_an_adopted_bundle_are_shown_on_its_page(tmp_path: Path) -> None:
    words = np.array(["a", " cat", " dog", "(", ")"])
    rng = np.random.default_rng(0)
    rows = []
    for index in range(6):
        on = [str(words[index % 5]) if rng.random() < 0.9 else str(rng.choice(words)) for _ in range(20)]
        shown = [
            {
                "bin_min": -1 if i < 12 else 0.0,
                "tokens": [f"w{index}.{i}", token, "x"],
                "values": [0.0, 5.0 - i / 5, 0.0],
            }
            for i, token in enumerate(on)
        ]
        bars = {"freq_hist_data_bar_values": [1.0, 2.0], "freq_hist_data_bar_heights": [3.0, 4.0]}
        rows.append({"feature_index": index, "frac_nonzero": 0.01, "activations": shown, **bars})
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "batch-0.json").write_text(json.dumps({"features": rows}))
    page = write_page(tmp_path / "page.html", adopt(tmp_path / "in", tmp_path / "out.mono")).read_text()
    assert page.count("<article") >= 4
    assert "of firings" not in page  # the files do not say
    assert "nan" not in re.sub(r"<style>.*?</style>|<script>.*?</script>", "", page, flags=re.DOTALL).lower()


def test_a_page_of_chosen_features_shows_them_in_order_with_their_labels(bundle: FeatureBundle, tmp_path: Path) -> None:
    page = write_page(tmp_path / "page.html", bundle, features=[9, 7, 3], labels={3: "closing brackets"}).read_text()
    places = [page.index(f'id="f{i}"') for i in (9, 7, 3)]
    assert places == sorted(places)
    assert page.count("<article") == 3
    assert "closing brackets" in page


@given(st.integers(0, 2**10), st.integers(0, 2**22))
def test_paired_numbers_come_apart_exactly(layer: int, feature: int) -> None:
    assert unpaired(paired(layer, feature)) == (layer, feature)


def test_a_record_of_the_binary_is_one_range(bundle: FeatureBundle, tmp_path: Path) -> None:
    export(bundle, tmp_path / "out", "feature_binary")
    folder = tmp_path / "out" / "features"
    index = json.loads(gzip.decompress((folder / "index.json.gz").read_bytes()))
    (layer,) = index
    offsets = index[layer]["offsets"]
    assert len(offsets) == 41
    data = (folder / index[layer]["filename"]).read_bytes()[offsets[3] : offsets[4]]
    (length,) = struct.unpack("<I", data[:4])
    assert json.loads(zlib.decompress(data[4 : 4 + length]))["index"] == 3


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda index, data: (index, data[:-3]), "would be at"),
        (lambda index, data: (index, bytes(4) + data[4:]), r"the record of feature 0 has \d+ bytes, not 0"),
        (lambda index, data: (index, data[:4] + b"\0" * (len(data) - 4)), "not a zlib stream"),
        (lambda index, data: ({"1": {**index["1"], "filename": "../secret"}}, data), "secret"),
    ],
)
def test_a_broken_binary_is_named(
    bundle: FeatureBundle, tmp_path: Path, spoil: Callable[..., tuple[Any, bytes]], message: str
) -> None:
    export(bundle, tmp_path / "out", "feature_binary", [0])
    (tmp_path / "out" / "secret").write_text("not to be read")
    folder = tmp_path / "out" / "features"
    index = json.loads(gzip.decompress((folder / "index.json.gz").read_bytes()))
    file = folder / "layer_1.bin"
    index, data = spoil(index, file.read_bytes())
    file.write_bytes(data)
    (folder / "index.json.gz").write_bytes(gzip.compress(json.dumps(index).encode()))
    with pytest.raises(DataError, match=message):
        adopt(tmp_path / "out", tmp_path / "again.mono")


def test_what_is_not_known_is_said(tmp_path: Path) -> None:
    assert recognize(tmp_path) is None
    with pytest.raises(DataError, match="known: saedashboard, neuronpedia, feature_json"):
        adopt(tmp_path, tmp_path / "out.mono")
    dashboard(tmp_path / "in", (-1, ["a"], [1.0]))
    (tmp_path / "in" / "features").mkdir()
    (tmp_path / "in" / "features" / "3.json").write_text("{}")
    with pytest.raises(DataError, match="like saedashboard and like feature_json"):
        recognize(tmp_path / "in")


def delphi(path: Path) -> Path:
    """What delphi writes of two features at one place, laid out by hand."""
    (path / "explanations").mkdir(parents=True)
    for index, text in ((3, "opening brackets"), (12, 'a "quote"')):
        (path / "explanations" / f"layers.2_latent{index}.txt").write_text(json.dumps(text))
    (path / "scores" / "detection").mkdir(parents=True)
    (path / "scores" / "embedding").mkdir()
    answers = [(True, True), (True, False), (False, False), (True, None)]
    rows = [{"activating": truth, "prediction": said, "str_tokens": []} for truth, said in answers]
    (path / "scores" / "detection" / "layers.2_latent3.txt").write_text(json.dumps(rows))
    near = [(3, 0.9), (1, 0.4), (0, 0.4), (-1, 0.1)]
    rows = [{"text": "", "distance": distance, "similarity": value} for distance, value in near]
    (path / "scores" / "embedding" / "layers.2_latent3.txt").write_text(json.dumps(rows))
    return path


def test_explanations_of_delphi_come_with_their_scores(tmp_path: Path) -> None:
    found = dict(read_explanations(delphi(tmp_path)))
    assert found[3].text == "opening brackets"
    # Of four answers two are right, and one could not be read. Of four pairs, three and a half are in order.
    assert dict(found[3].scores) == {"delphi detection": 0.5, "delphi embedding": 0.875}
    assert found[12] == Said('a "quote"', "delphi")
    with pytest.raises(DataError, match=r"nothing of layers\.9; it has layers\.2"):
        list(read_explanations(tmp_path, "layers.9"))
    (tmp_path / "explanations" / "layers.3_latent0.txt").write_text('"x"')
    with pytest.raises(DataError, match=r"of layers\.2, layers\.3; name one"):
        list(read_explanations(tmp_path))
    assert [index for index, _ in read_explanations(tmp_path, "layers.3")] == [0]


def test_explanations_as_lines(tmp_path: Path) -> None:
    file = tmp_path / "said.jsonl"
    file.write_text(
        '{"index": "5", "description": "cats", "typeName": "m", "explanationModelName": "j", "scoreV1": 0.5}\n\n'
        '{"feature": 6, "explanation": "dogs", "scores": {"fuzz": 0.25}}\n'
    )
    assert list(read_explanations(file)) == [
        (5, Said("cats", "m", "j", (("scoreV1", 0.5),))),
        (6, Said("dogs", "", "", (("fuzz", 0.25),))),
    ]
    file.write_text('{"feature": "six", "text": "dogs"}\n')
    with pytest.raises(DataError, match="line 1 names no feature and text"):
        list(read_explanations(file))
    with pytest.raises(DataError, match="holds no explanations"):
        list(read_explanations(tmp_path))
