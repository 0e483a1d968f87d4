"""Steer: both texts are those of the server, every control is in the address, and what was applied is shown."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import Page, expect
from ui_pages import settle

from monoscope.interventions import Steering

LONG = 120_000  # milliseconds: two texts and the guard on a busy machine
PROMPT = "import os\n"


@pytest.fixture
def page(visit: Callable[..., Any], library: Any) -> Page:
    page = visit("/steer?n=12", at=library)
    page.get_by_role("textbox", name="Prompt").fill(PROMPT)
    page.wait_for_url("**import**")
    return page


def values(page: Page, name: str) -> list[str]:
    return parse_qs(urlsplit(page.url).query).get(name, [])


def add(page: Page, reference: str) -> None:
    box = page.get_by_role("combobox", name="Add a feature")
    box.fill(reference)
    box.press("Enter")


def run(page: Page) -> None:
    page.get_by_role("button", name="Run", exact=True).click()
    expect(page.get_by_text("Done in")).to_be_visible(timeout=LONG)
    settle(page)


def text(page: Page, name: str) -> str:
    return "".join(page.get_by_role("region", name=name, exact=True).locator(".t").all_inner_texts())


def test_both_texts_and_what_the_edits_did(page: Page) -> None:
    expect(page.get_by_role("button", name="Run", exact=True)).to_be_disabled()
    add(page, "demo/3")
    page.get_by_role("spinbutton", name="Exact strength of feature 3").fill("2")
    page.keyboard.press("Tab")
    assert values(page, "e") == ["demo/3,add,2,norm"]
    run(page)
    steered = page.get_by_role("region", name="Steered", exact=True)
    assert 0 < steered.locator(".t").count() <= 12
    assert page.get_by_role("region", name="Baseline", exact=True).locator(".t").count() > 0
    assert text(page, "Steered") != text(page, "Baseline")
    assert steered.locator(".differs").count() > 0
    assert steered.locator(".lv").count() > 0
    expect(page.get_by_role("region", name="Guard")).to_contain_text("not coherent")
    applied = page.get_by_role("region", name="What was applied")
    expect(applied).to_contain_text("demo/3")
    expect(applied).to_contain_text("2.resid_post")
    page.keyboard.press("]")
    places = page.get_by_role("region", name="Places")
    expect(places.get_by_role("table")).to_be_visible()
    steered.locator(".t").nth(1).click()
    expect(places).to_contain_text("position")
    places.get_by_role("img").click(position={"x": 3, "y": 30})
    expect(places).to_contain_text("position 0")


def test_strength_zero_changes_nothing(page: Page) -> None:
    add(page, "demo/3")
    page.get_by_role("slider", name="Strength of feature 3").fill("0")
    assert values(page, "e") == ["demo/3,add,0,norm"]
    run(page)
    assert text(page, "Steered") == text(page, "Baseline")
    expect(page.get_by_text("the texts are the same so far")).to_be_visible()
    expect(page.get_by_role("region", name="Guard")).to_contain_text("coherent")
    assert page.locator(".differs").count() == 0


def test_several_features_operators_units_and_one_switched_off(page: Page) -> None:
    add(page, "demo/3")
    add(page, "demo/4")
    page.get_by_role("combobox", name="Operator of feature 4").select_option("clamp")
    assert values(page, "e")[1].startswith("demo/4,clamp,")
    page.get_by_role("combobox", name="Unit of feature 4").select_option("raw")
    page.get_by_role("combobox", name="Unit of feature 3").select_option("local")
    page.get_by_role("checkbox", name="Feature 3 on").uncheck()
    assert values(page, "e") == ["demo/3,add,0.2,local,off", "demo/4,clamp,1,raw"]
    run(page)
    expect(page.get_by_role("region", name="What was applied")).not_to_contain_text("demo/3")
    for operator in ("floor", "cap", "scale", "ablate"):
        page.get_by_role("combobox", name="Operator of feature 4").select_option(operator)
        assert values(page, "e")[1].startswith(f"demo/4,{operator},")
    expect(page.get_by_text("changed since")).to_be_visible()
    page.get_by_role("button", name="Remove feature 3").click()
    assert values(page, "e") == ["demo/4,ablate,0,"]
    page.reload()
    settle(page)
    expect(page.get_by_role("combobox", name="Operator of feature 4")).to_have_value("ablate")
    assert page.get_by_role("textbox", name="Prompt").input_value() == PROMPT


def test_a_seed_repeats_a_sampled_text(page: Page) -> None:
    add(page, "demo/3")
    page.get_by_role("spinbutton", name="Temperature").fill("1.2")
    page.get_by_role("spinbutton", name="Top k").fill("40")
    page.keyboard.press("Tab")
    run(page)
    before = text(page, "Steered"), text(page, "Baseline")
    page.get_by_role("button", name="keep").click()
    assert values(page, "seed")
    assert values(page, "temp") == ["1.2"]
    page.reload()
    settle(page)
    run(page)
    assert (text(page, "Steered"), text(page, "Baseline")) == before


def test_where_and_guard_and_length(page: Page) -> None:
    add(page, "demo/3")
    page.get_by_role("combobox", name="Edit").select_option("generation")
    page.get_by_role("checkbox", name="Guard").uncheck()
    page.get_by_role("spinbutton", name="Tokens").fill("5")
    page.keyboard.press("Tab")
    assert (values(page, "at"), values(page, "guard"), values(page, "n")) == (["generation"], ["0"], ["5"])
    run(page)
    assert page.get_by_role("region", name="Steered", exact=True).locator(".t").count() <= 5
    expect(page.get_by_role("region", name="Guard")).to_contain_text("not measured")


def test_it_stops_and_runs_again(page: Page) -> None:
    add(page, "demo/3")
    page.route("**/api/v1/steer", lambda route: None)  # a text that never comes
    box = page.get_by_role("textbox", name="Prompt")
    box.fill("x = [1, 2, 3, ")
    box.press("Control+Enter")
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_text("Stopped")).to_be_visible()
    page.unroute("**/api/v1/steer")
    run(page)
    assert "x = [" in page.get_by_role("region", name="Steered", exact=True).inner_text()


def test_on_every_change(page: Page) -> None:
    add(page, "demo/3")
    page.get_by_role("checkbox", name="On every change").check()
    expect(page.get_by_text("Done in")).to_be_visible(timeout=LONG)
    before = text(page, "Steered")
    page.get_by_role("slider", name="Strength of feature 3").fill("1")
    expect(page.get_by_role("region", name="What was applied")).to_contain_text("Add 1", timeout=LONG)
    expect(page.get_by_text("Done in")).to_be_visible(timeout=LONG)
    assert text(page, "Steered") != before


def test_from_the_tray_and_as_a_note(visit: Callable[..., Any], library: Any) -> None:
    page = visit("/d/demo/f/7", at=library)
    page.keyboard.press("p")
    page.get_by_role("complementary", name="Pinned features").get_by_role("link", name="Steer").click()
    settle(page)
    assert values(page, "e") == ["demo/7,add,0.2,norm"]
    page.get_by_role("button", name="Remove feature 7").click()
    page.get_by_role("button", name="Add the 1 pinned").click()
    assert values(page, "e") == ["demo/7,add,0.2,norm"]
    page.get_by_role("textbox", name="Prompt").fill("def f(")
    page.get_by_role("spinbutton", name="Tokens").fill("4")
    page.keyboard.press("Tab")
    page.wait_for_url("**def**")
    run(page)
    page.get_by_role("button", name="Save as a note").click()
    expect(page.get_by_text("Saved as a note on feature 7")).to_be_visible()
    page.goto(f"{library.address}/d/demo/f/7")
    settle(page)
    expect(page.get_by_text("Steered, 4 tokens")).to_be_visible()


def test_a_label_finds_a_feature(visit: Callable[..., Any], library: Any) -> None:
    page = visit("/d/demo/f/11", at=library)
    page.keyboard.press("e")
    page.get_by_role("textbox", name="Label").fill("steerable zebra")
    page.keyboard.press("Enter")
    expect(page.get_by_text("by tester")).to_be_visible()
    page.goto(f"{library.address}/steer")
    settle(page)
    page.get_by_role("combobox", name="Add a feature").fill("zebra")
    option = page.get_by_role("option", name="steerable zebra")
    option.click()
    assert values(page, "e") == ["demo/11,add,0.2,norm"]
    expect(page.get_by_role("region", name="Edits")).to_contain_text("steerable zebra")


def test_what_is_wrong_is_said(page: Page, watch: Any) -> None:
    watch.allow("status of 4")
    page.goto(re.sub(r"/steer.*", "/steer?text=hello&e=demo/999999,add,1,norm&e=junk&e=demo/1,add,nope,norm", page.url))
    settle(page)
    page.get_by_role("button", name="Run", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("999999", timeout=LONG)


def test_single_tokens_of_the_prompt_are_steered(page: Page) -> None:
    add(page, "demo/3")
    page.get_by_role("combobox", name=re.compile("^Edit")).select_option("at chosen tokens")
    assert values(page, "at") == ["-1"]
    run(page)
    steered = page.get_by_role("region", name="Steered", exact=True)
    last = steered.locator(".prompt > span").count() - 1
    expect(steered.locator(".edited")).to_have_count(1)
    applied = page.get_by_role("region", name="What was applied")
    expect(applied).to_contain_text(re.compile(r"1 of \d+"))
    steered.locator(".prompt > span").nth(1).click()
    assert values(page, "at") == ["-1,1"]
    run(page)
    expect(applied).to_contain_text(re.compile(r"2 of \d+"))
    steered.locator(".prompt > span").nth(last).click()
    assert values(page, "at") == ["1"]
    page.get_by_role("textbox", name="Places").fill("")
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Run", exact=True)).to_be_disabled()


def test_a_sweep_shows_every_strength_and_where_the_guard_ends(page: Page) -> None:
    add(page, "demo/3")
    page.get_by_role("button", name="Sweep strengths").click()
    strengths = page.get_by_role("region", name="Strengths")
    expect(strengths.locator("li .chip")).to_have_count(7, timeout=LONG)
    expect(page.get_by_role("button", name="Sweep strengths")).to_be_enabled()
    kls = [float(text.split()[1].replace("k", "e3")) for text in strengths.locator("li .muted").all_inner_texts()]
    assert max(kls) == kls[-1]  # the strongest moves most
    shaded = strengths.locator("rect.beyond").count()
    assert shaded == strengths.get_by_text("not coherent", exact=True).count()
    strengths.get_by_role("listitem").nth(2).get_by_role("button", name="Use").click()
    assert values(page, "e") == ["demo/3,add,0.1,norm"]


def test_the_spec_and_the_python_repeat_the_text(
    page: Page, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    add(page, "demo/3")
    add(page, "small/5")
    run(page)
    with page.expect_download() as download:
        page.get_by_role("button", name="Save as spec").click()
    download.value.save_as(tmp_path / "steering.toml")
    spec = Steering.load(tmp_path / "steering.toml")
    assert [(change.dictionary, change.feature) for change in spec.changes] == [("demo", 3), ("small", 5)]
    assert (spec.model, spec.max_new_tokens) == ("bundled", 12)
    page.get_by_role("button", name="Python", exact=True).click()
    expect(page.get_by_text("Copied Python")).to_be_visible()
    made: dict[str, Any] = {}
    exec(page.evaluate("navigator.clipboard.readText()"), made)
    assert made["steering"] == spec
    shown = page.get_by_role("region", name="Steered", exact=True).locator(".t").all_text_contents()
    assert capsys.readouterr().out.endswith(PROMPT + "".join(shown).replace("↵", "\n") + "\n")


def test_a_sweep_of_several_features_is_a_grid_of_them_by_strengths(page: Page) -> None:
    add(page, "demo/3")
    add(page, "demo/4")
    page.get_by_role("combobox", name="Operator of feature 4").select_option("clamp")
    page.get_by_role("spinbutton", name="Tokens").fill("4")
    page.keyboard.press("Tab")
    page.get_by_role("button", name="Sweep strengths").click()
    strengths = page.get_by_role("region", name="Strengths")
    expect(strengths.locator("li .chip")).to_have_count(21, timeout=LONG)
    rows = strengths.get_by_role("region")
    assert [row.get_attribute("aria-label") for row in rows.all()] == ["All 2 together", "demo/3", "demo/4"]
    rows.nth(1).get_by_role("listitem").nth(5).get_by_role("button", name="Use").click()
    assert values(page, "e") == ["demo/3,add,0.4,norm", "demo/4,clamp,1,maxact,off"]
    rows.first.get_by_role("listitem").nth(2).get_by_role("button", name="Use").click()
    assert values(page, "e") == ["demo/3,add,0.1,norm", "demo/4,clamp,0.5,maxact"]
    page.get_by_role("combobox", name="Operator of feature 3").select_option("ablate")
    page.get_by_role("combobox", name="Operator of feature 4").select_option("ablate")
    expect(page.get_by_role("button", name="Sweep strengths")).to_be_disabled()
