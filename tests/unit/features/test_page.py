from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from feature_worlds import Text, lookup
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from monoscope.features import Analysis, Context, FeatureBundle, analyze
from monoscope.features.page import Series, render_page, write_page
from monoscope.features.page.figures import curve, fixed, number, percent
from monoscope.features.page.tokens import chip, opacity, strip, visible

HOSTILE = [
    "<script>alert(1)</script>",
    '" onload="x',
    "</code>",
    "&amp;",
    "'",
    "\u202eabc",
    "\x07",
    "\n",
    "\t",
    "\r\n",
    " ",
    "    ",
]
WORDS = [f"word{i}" for i in range(40)]
VOID = {"meta", "br", "input", "link", "circle", "path", "rect"}


class Page(HTMLParser):
    """Elements of a page; fails on tags that do not match."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        assert len(dict(attrs)) == len(attrs), f"an attribute twice in {attrs}"
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.text.append(data)

    def all(self, tag: str, css_class: str = "") -> list[dict[str, str | None]]:
        return [a for t, a in self.elements if t == tag and css_class in f"{a.get('class')} ".split(" ")]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> FeatureBundle:
    """Six features, each on one token, hostile ones among them; a passage that repeats; a signed feature."""
    rng = np.random.default_rng(0)
    vocabulary = [*HOSTILE, *WORDS]
    tokens = rng.integers(0, len(vocabulary), (100, 24))
    tokens[:30, 4:20] = tokens[0, 4:20]
    tokens[:30, 15] = 20
    flat = tokens.reshape(-1)
    table = np.stack([flat == i for i in (0, 1, 5, 20, 21, 22)], axis=1)
    table = table * np.exp(0.5 * rng.standard_normal(table.shape))
    table[:, 4] *= np.where(rng.random(flat.size) < 0.5, -1, 1)
    tokenizer = Tokenizer(models.WordLevel({token: i for i, token in enumerate(vocabulary)}, unk_token=vocabulary[-1]))
    return analyze(
        lookup(table),
        Text(torch.from_numpy(tokens), at_once=50),
        tmp_path_factory.mktemp("page") / "b.mono",
        tokenizer=PreTrainedTokenizerFast(tokenizer_object=tokenizer),
        config=Analysis(window=16),
        stats={"fvu": 0.25, "ce_recovered": 0.9731},
    )


@pytest.fixture(scope="module")
def page(bundle: FeatureBundle) -> str:
    series = [Series("fvu", [0, 1e5, 2e5], [0.9, 0.4, 0.25]), Series("<b>", [0, 1], [1, float("nan")])]
    return render_page(bundle, series=series, facts={"tokens/s": 7123.0, "<i>": "&"})


def test_the_page_is_whole_and_shows_each_feature(page: str, bundle: FeatureBundle) -> None:
    parsed = Page(page)
    cards = parsed.all("article", "card")
    assert sorted(card["id"] for card in cards) == [f"f{i}" for i in range(6)]
    ids = [attributes["id"] for _, attributes in parsed.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    linked = {a["href"] for a in parsed.all("a") if a["href"] != "#features"}
    assert linked <= {f"#{card['id']}" for card in cards}
    text = " ".join(parsed.text)
    for shown in ("0.25", "97.3%", "7,123", "200k tokens", "2,400"):
        assert shown in text
    labelled = [a for t, a in parsed.elements if t in ("svg", "nav", "input") and not a.get("aria-hidden")]
    assert all(a.get("aria-label") for a in labelled)


def test_nothing_is_requested_and_only_its_own_script_runs(page: str) -> None:
    parsed = Page(page)
    policy = next(a["content"] for a in parsed.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.S)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy is not None
    assert f"script-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'")
    for _, attributes in parsed.elements:
        assert not {"src", "srcset", "data", "action", "onload"} & attributes.keys()
        assert (attributes.get("href") or "#").startswith("#")
    assert "url(" not in page
    assert "@import" not in page
    assert "://" not in page


def test_tokens_are_escaped_and_the_invisible_is_visible(page: str) -> None:
    assert page.count("<script>") == 1
    text = "".join(Page(page).text)
    assert "<script>alert(1)</script>" in text
    assert '" onload="x' in text
    assert "\\u202eabc" in text
    assert "\u202e" not in page
    assert visible("a\n\tb\r \x07\u200d\u2028\ud800") == "a\u21b5\u2192b\u240d \\x07\\u200d\\u2028\\ud800"
    assert visible("\u00e9\u4e2d \U0001f600") == "\u00e9\u4e2d \U0001f600"
    assert chip("<\n   ") == '<code class="tok">&lt;\u21b5\u24233</code>'


def test_color_follows_the_convention_over_all_contexts(page: str, bundle: FeatureBundle) -> None:
    assert [opacity(a, 2.0) for a in (0, 1, 2, -2)] == pytest.approx([0.05, 0.05 + 0.95 * np.log10(5.5), 1, 1])
    feature = bundle.feature(3)
    largest = max(abs(c.max_act) for c in feature.contexts)
    weak = min((c for c in feature.contexts if c.interval > -2), key=lambda c: c.max_act)
    _, right = strip(weak, largest)
    assert f'style="--a:{opacity(weak.max_act, largest):.2f}"' in right
    assert f'data-v="{weak.acts[weak.peak]:.3g}" data-p="{weak.max_pos}"' in right
    assert right.startswith('<b class="t pk')
    negative = next(c for c in bundle.feature(4).contexts if c.max_act < 0)
    assert "neg" in strip(negative, largest)[1]


def test_a_window_keeps_its_text(bundle: FeatureBundle) -> None:
    for context in bundle.feature(3).contexts:
        left, right = strip(context, 1.0)
        shown = "".join(Page(f"<p>{left}{right}</p>").text)
        assert shown == "".join(visible(token) for token in context.tokens)


def test_a_break_is_a_glyph_and_a_line() -> None:
    context = Context(0, 0, 1.0, 1, 0, 0, 0, 3, None, (0, 1, 2), ("a", "\n  ", "b"), np.float32([0, 1, 0]))
    left, right = strip(context, 1.0)
    assert left == "a"
    assert '<span class="nl">\u21b5</span><br>  </b>b' in right


def test_near_identical_contexts_are_folded(bundle: FeatureBundle, page: str) -> None:
    twins = sum(c.dup_of is not None for f in range(6) for c in bundle.feature(f).interval(0))
    assert twins > 0
    assert "near-identical</summary>" in page


def test_a_bundle_without_model_or_candidates_has_a_page(tmp_path: Path) -> None:
    tokens = torch.zeros(2, 8, dtype=torch.long)
    bundle = analyze(lookup(np.zeros((16, 2))), Text(tokens), tmp_path / "b.mono")
    path = write_page(tmp_path / "index.html", bundle)
    parsed = Page(path.read_text(encoding="utf-8"))
    assert not parsed.all("article")


def test_curves() -> None:
    drawn = curve(Series("loss", [0, 1, 2, 3], [8.0, float("nan"), 2.0, 1.0]), "Loss")
    assert "log scale" in drawn
    assert "from 8 to 1" in drawn
    assert curve(Series("one", [1], [1]), "One") == ""
    assert "NaN" not in curve(Series("flat", [0, 1], [0, 0]), "Flat").replace("nan", "NaN")


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.12345, "0.123"), (99.95, "100"), (1234, "1,234"), (51234, "51.2k"), (3.2e6, "3.2M")],
)
def test_numbers_are_short(value: float, text: str) -> None:
    assert number(value) == text


def test_shares_and_columns() -> None:
    assert [percent(x) for x in (0, 0.5, 0.0123, 1e-7)] == ["0%", "50%", "1.2%", "<0.001%"]
    assert [fixed(x, 12.3) for x in (12.3, 0.456)] == ["12.3", "0.5"]
    assert fixed(1.0, 3.32) == "1.00"
