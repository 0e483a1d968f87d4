from __future__ import annotations

import dataclasses
from html.parser import HTMLParser

import pytest
from feature_worlds import Text, lookup, world
from small_autoencoder import autoencoder

from monoscope.core.notebook import bars, curve, described
from monoscope.features import Analysis, analyze
from monoscope.features.bundle import FeatureBundle


class Read(HTMLParser):
    """Tags and text of HTML; fails for tags that were not closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.text = ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.open.append(tag)
        assert not [name for name, _ in attrs if name.startswith("on") or name in ("href", "src")]

    def handle_startendtag(self, tag, attrs):
        self.tags.add(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> FeatureBundle:
    tokens, table = world(20, 40, 32, 50, seed=0, density=0.1)
    table[:, 19] = 0
    return analyze(lookup(table), Text(tokens), tmp_path_factory.mktemp("x") / "f.mono", config=Analysis(window=16))


def test_a_feature_shows_its_strongest_contexts(bundle):
    feature = bundle.feature(3)
    seen = Read(feature._repr_html_())
    assert "feature 3" in seen.text
    assert {"svg", "rect", "span"} <= seen.tags
    strongest = [context for context in feature.contexts if context.interval == 0 and context.dup_of is None][:5]
    for context in strongest:
        assert context.tokens[context.peak] in seen.text
    assert feature._repr_html_().count('dir="auto"') == len(strongest)
    assert "never" in Read(bundle.feature(19)._repr_html_()).text


def test_what_texts_say_is_never_markup(bundle):
    feature = bundle.feature(3)
    hostile = dataclasses.replace(
        feature,
        contexts=tuple(
            dataclasses.replace(context, tokens=("<script>alert(1)</script>\u202e\"'>",) * len(context.tokens))
            for context in feature.contexts
        ),
        promoted=tuple(dataclasses.replace(token, text="<img src=x onerror=alert(1)>") for token in feature.tokens[:2]),
    )
    seen = Read(hostile._repr_html_())
    assert seen.tags <= {"div", "strong", "table", "tr", "td", "svg", "rect", "span"}
    assert "<script>" in seen.text
    assert "\u202e" not in seen.text
    assert Read(described("<b>", {"<i>": "<u>&"})).tags == {"div", "strong", "table", "tr", "td"}


def test_a_bundle_says_what_was_not_measured(bundle):
    text = Read(bundle._repr_html_()).text
    assert "20 features" in text
    assert "FVUnot measured" in text
    assert f"{bundle.manifest['data']['n_tokens']:,} tokens" in text


def test_a_dictionary_says_what_it_is():
    dictionary = autoencoder({"kind": "topk", "k": 4})
    dictionary.provenance = {"source": {"model": {"name": "<m>"}}, "training": {"tokens": 12_000}}
    text = Read(dictionary._repr_html_()).text
    assert "Autoencoder of 32 features" in text
    assert "kind topk, k 4" in text
    assert "trained on<m>" in text
    assert "tokens12,000" in text


def test_bars_are_as_high_as_roots_of_counts():
    seen = bars([0, 4, 1], width=30, height=20)
    assert 'height="20.0"' in seen
    assert 'height="10.0"' in seen
    assert seen.count("<rect") == 2
    assert bars([]) == bars([0, 0]) == ""


def test_long_lists_are_cut():
    assert "0, 1, 2, 3, 4, 5, and 4 more" in described("x", {"n": list(range(10)), "none": None, "is": True})


def test_curves_go_from_their_lowest_to_their_highest():
    seen = curve([0, 10, 20], [3, 1, 2], "<loss>", width=40, height=22)
    assert 'points="0.0,1.0 20.0,21.0 40.0,11.0"' in seen
    assert "&lt;loss&gt; from 3 to 2" in seen
    assert 'points="0.0,21.0 40.0,21.0"' in curve([1, 2, 3], [5, float("nan"), 5], "level", width=40, height=22)
    assert curve([1], [float("nan")], "nothing") == ""
