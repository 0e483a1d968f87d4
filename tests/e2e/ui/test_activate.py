"""Activate: features of one's own text are those the library gives, and everything shown is in the address."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import psutil
import pytest
from playwright.sync_api import Page, expect
from ui_pages import copied, settle

from monoscope.features import FeatureBundle

TEXT = "def area(radius):\n    return radius ** 2"
LONG = 120_000  # milliseconds: the first text loads the model
HOSTILE = '<img src=x onerror="document.title=1">{{7*7}}\u202e\x00'


@pytest.fixture
def page(visit: Callable[..., Any], library: Any) -> Page:
    page = visit("/activate?dicts=demo", at=library)
    page.get_by_role("textbox", name="Text").fill(TEXT)
    ready(page)
    return page


def ready(page: Page) -> None:
    expect(page.get_by_role("list", name="Features, strongest first")).to_be_visible(timeout=LONG)
    settle(page)


def state(page: Page) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlsplit(page.url).query).items()}


def features(page: Page) -> list[int]:
    ranked = page.get_by_role("list", name="Features, strongest first")
    return [int(text) for text in ranked.locator(".index").all_inner_texts()]


@pytest.fixture(scope="module")
def acts(demo: Path) -> Any:
    """Activations of the text [pos, F], by the library."""
    import torch

    import monoscope
    from monoscope.demo import MODEL

    lm = monoscope.LanguageModel.from_pretrained(MODEL)
    tokenizer: Any = lm.tokenizer
    ids = tokenizer(TEXT, add_special_tokens=False).input_ids
    tokens = torch.tensor([[lm.bos_token_id, *ids] if lm.bos_token_id is not None else ids])
    (x,) = lm.read(tokens, ["2.resid_post"]).values()
    return monoscope.load(demo / "dictionary").encode(x).dense()[0].detach()


def test_features_of_a_text_are_those_of_the_library_strongest_first(page: Page, acts: Any) -> None:
    largest = acts[1:].amax(0)
    assert features(page) == largest.argsort(descending=True)[:10].tolist()
    assert page.locator(".strip .t").count() == len(acts)


def test_picking_a_token_ranks_by_it_and_is_in_the_address(page: Page, acts: Any) -> None:
    page.locator(".strip .t").nth(3).click()
    settle(page)
    assert features(page) == acts[3].argsort(descending=True)[: min(10, int((acts[3] > 0).sum()))].tolist()
    assert state(page)["pos"] == "3"
    page.keyboard.press("]")
    assert state(page)["pos"] == "4"
    page.keyboard.press("[")
    page.reload()
    ready(page)
    assert features(page)[:3] == acts[3].argsort(descending=True)[:3].tolist()
    page.keyboard.press("Escape")
    expect(page.get_by_role("heading", name="Whole text")).to_be_visible()
    page.get_by_role("img", name="Largest share").click(position={"x": 2, "y": 5})
    expect(page.get_by_text("This token is hidden from rankings")).to_be_visible()


def test_first_token_and_common_features_can_be_hidden_or_not(page: Page, acts: Any, demo: Path) -> None:
    page.get_by_role("checkbox", name="Hide the first token").uncheck()
    settle(page)
    assert features(page) == acts.amax(0).argsort(descending=True)[:10].tolist()
    page.get_by_role("checkbox", name="Hide the first token").check()
    page.get_by_role("checkbox", name="Hide features that fire on over 1%").check()
    settle(page)
    density = FeatureBundle.open(demo / "features.mono").column("density")
    assert all(density[feature] <= 0.01 for feature in features(page))
    assert state(page)["rare"] == "1"
    page.get_by_role("checkbox", name="Hide features that fire on over 1%").uncheck()
    page.get_by_role("combobox", name="Top").select_option("20")
    settle(page)
    assert len(features(page)) == 20


def in_python(page: Page, panel: str) -> dict[str, Any]:
    """What the code that a panel gives computes."""
    made: dict[str, Any] = {}
    exec(copied(page, "Copy as Python", f"{panel}: more"), made)
    return made


def test_python_and_a_table_hold_the_features_shown(page: Page, acts: Any, tmp_path: Path) -> None:
    shown = features(page)
    made = in_python(page, "Strongest features")
    assert made["features"][:10].tolist() == shown
    assert made["acts"] == pytest.approx(acts, abs=1e-4)
    page.get_by_role("button", name="Strongest features: more").click()
    with page.expect_download() as download:
        page.get_by_role("button", name="Save as JSON").click()
    download.value.save_as(tmp_path / "features.json")
    rows = json.loads((tmp_path / "features.json").read_text())
    assert [row["feature"] for row in rows] == shown
    page.locator(".strip .t").nth(3).click()
    settle(page)
    page.get_by_role("button", name="Layers and tokens: more").click()
    page.get_by_role("button", name="Copy as Python").click()
    page.wait_for_function("async () => (await navigator.clipboard.readText()).includes('acts[3]')")
    exec(page.evaluate("navigator.clipboard.readText()"), made)
    assert made["features"][: len(features(page))].tolist() == features(page)


def test_all_layers_at_once(page: Page) -> None:
    page.get_by_role("button", name="All layers").click()
    settle(page)
    assert len(state(page)["dicts"].split(",")) == 3
    map_ = page.get_by_role("region", name="Layers and tokens")
    for measure in ("Value", "L0", "Error", "Of max"):
        map_.get_by_role("button", name=measure, exact=True).click()
        expect(map_.get_by_role("button", name=measure, exact=True)).to_have_attribute("aria-pressed", "true")
    map_.get_by_text("In numbers").click()
    expect(map_.get_by_role("row")).to_have_count(4)
    map_.get_by_role("row").nth(2).get_by_role("button").click()
    assert "pos" in state(page)
    page.get_by_role("button", name="Dictionaries").click()
    page.get_by_role("checkbox", name="early").uncheck()
    settle(page)
    assert "early" not in state(page)["dicts"]


def test_a_feature_colors_the_text_is_pinned_and_opened_with_it(page: Page, acts: Any) -> None:
    first = features(page)[0]
    page.get_by_role("button", name=f"Color the text by feature {first}").click()
    settle(page)
    expect(page.locator(".strip .lv")).to_have_count(int((acts[:, first] != 0).sum()))
    page.get_by_role("button", name="By the strongest").click()
    page.get_by_role("button", name=f"Pin feature {first}").click()
    tray = page.get_by_role("complementary", name="Pinned features")
    expect(tray.get_by_role("listitem")).to_have_count(1)
    page.get_by_role("button", name=f"Unpin feature {first}").first.click()
    page.get_by_role("link", name=f"Test this text on feature {first}").click()
    expect(page.get_by_role("heading", name=f"Feature {first}", exact=True)).to_be_visible()
    assert page.get_by_role("textbox", name="Test your own text").input_value() == TEXT
    expect(page.locator(".answer .strip")).to_be_visible(timeout=LONG)
    page.go_back()
    ready(page)
    page.get_by_role("list", name="Features").get_by_role("link").first.click()
    expect(page.get_by_role("heading", name=f"Feature {first}", exact=True)).to_be_visible()


def test_two_texts_are_compared_token_by_token(page: Page) -> None:
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Two texts").click()
    page.get_by_role("textbox", name="Second text").fill(TEXT.replace("def", "class"))
    pairs = page.get_by_role("list", name="Both texts, token by token").get_by_role("button")
    expect(page.get_by_text("1 of")).to_be_visible(timeout=LONG)
    settle(page)
    assert page.locator(".pair.other").count() == 1
    page.locator(".pair.other").click()
    settle(page)
    assert "pos" in state(page)
    there = features(page)
    assert there
    assert in_python(page, "Strongest features")["features"][: len(there)].tolist() == there
    page.reload()
    ready(page)
    assert page.locator(".pair[aria-pressed=true]").count() == 1
    page.keyboard.press("Escape")
    settle(page)
    whole = features(page)
    assert whole != there
    assert in_python(page, "Strongest features")["features"][: len(whole)].tolist() == whole
    pairs.first.click()
    expect(page.get_by_text("No feature differs here")).to_be_visible()
    page.keyboard.press("d")
    expect(page.get_by_role("textbox", name="Second text")).to_have_count(0)


def test_chat_is_offered_where_there_is_a_template(
    visit: Callable[..., Any], library: Any, watch: Any, page: Page
) -> None:
    kinds = page.get_by_role("group", name="Kind of prompt")
    expect(kinds).to_have_count(0)  # the bundled model has none
    page.goto(f"{library.address}/steer")
    settle(page)
    expect(page.get_by_role("textbox", name="Prompt")).to_be_visible()
    expect(kinds).to_have_count(0)

    def with_template(route: Any) -> None:
        cards = route.fetch().json()
        for card in cards["dictionaries"]:
            card["chat"] = True
        route.fulfill(json=cards)

    page.route("**/api/v1/library", with_template)
    for path in ("steer", "activate"):
        page.goto(f"{library.address}/{path}")
        settle(page)
        expect(kinds.get_by_role("button", name="Chat")).to_be_visible()


def test_a_model_without_a_template_says_so(page: Page, watch: Any) -> None:
    watch.allow("status of 422")
    page.goto(page.url.split("/activate")[0] + '/activate?dicts=demo&chat=[["user","for i"]]')
    expect(page.get_by_role("alert")).to_contain_text("chat template", timeout=LONG)
    page.get_by_role("textbox", name="Turn 1").fill("hello")
    page.get_by_role("button", name="Turn", exact=True).click()
    page.get_by_role("textbox", name="Turn 2").fill("there")
    page.get_by_role("combobox", name="Who says turn 1").select_option("system")
    page.wait_for_url("**there**")
    assert json.loads(state(page)["chat"]) == [["system", "hello"], ["assistant", "there"]]
    page.get_by_role("button", name="Remove turn 1").click()
    page.get_by_role("group", name="Kind of prompt").get_by_role("button", name="Text").click()
    assert page.get_by_role("textbox", name="Text").input_value() == "there"
    ready(page)


def test_hostile_and_long_texts(page: Page, watch: Any) -> None:
    title = page.title()
    page.get_by_role("textbox", name="Text").fill(HOSTILE)
    settle(page)
    assert page.title() == title
    expect(page.locator(".strip img")).to_have_count(0)
    words = "word " * 90
    page.get_by_role("textbox", name="Text").fill(words * 4)
    page.wait_for_url("**#text=*")
    ready_or_refused = page.get_by_role("alert").or_(page.locator(".strip .t").nth(100))
    watch.allow("status of 4")
    expect(ready_or_refused.first).to_be_visible(timeout=LONG)
    page.reload()
    settle(page)
    assert page.get_by_role("textbox", name="Text").input_value() == words * 4
    page.get_by_role("textbox", name="Text").fill("x " * 50_000)
    expect(page.get_by_role("alert")).to_be_visible(timeout=LONG)


def test_an_empty_page_offers_texts(visit: Callable[..., Any], library: Any) -> None:
    page = visit("/activate", at=library)
    page.get_by_role("button", name="def area").click()
    ready(page)
    assert "area" in state(page)["text"]
    page.go_back()


def test_without_the_model_the_page_says_what_is_missing(visit: Callable[..., Any], start: Any, demo: Path) -> None:
    page = visit("/activate", at=start(demo / "features.mono"))
    expect(page.get_by_text("No dictionary here can run text")).to_be_visible()


def test_a_crash_of_the_worker_is_said_and_the_next_try_works(
    visit: Callable[..., Any], start: Any, demo: Path, watch: Any
) -> None:
    watch.allow("status of 503")
    served = start(demo)
    page = visit("/activate", at=served)
    page.get_by_role("button", name="Load it now").click()
    page.get_by_role("textbox", name="Text").fill("import os")
    ready(page)
    for child in psutil.Process(served.process.pid).children(recursive=True):
        if "worker" in " ".join(child.cmdline()):
            child.kill()
    page.get_by_role("textbox", name="Text").fill("import sys")
    again = page.get_by_role("button", name="Try again")
    done = page.locator(".strip", has_text="sys").first
    expect(again.or_(page.locator(".strip", has_text="sys")).first).to_be_visible(timeout=LONG)
    if again.is_visible():
        again.click()
    expect(done).to_be_visible(timeout=LONG)
    expect(page.get_by_text("restarted 1 time")).to_be_visible()
    page.close()
