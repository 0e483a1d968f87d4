"""The page of a feature: what it shows is what the bundle holds, and every part answers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, Route, expect
from ui_pages import read_ahead, settle

from monoscope.features import FeatureBundle

INDEX = 3
SILENT = """strip => {
    const texts = document.createTreeWalker(strip.querySelector('.right'), NodeFilter.SHOW_TEXT);
    while (texts.nextNode().parentElement.closest('.t'));
    const letter = document.createRange();
    letter.setStart(texts.currentNode, 0);
    letter.setEnd(texts.currentNode, 1);
    const box = letter.getBoundingClientRect();
    return [box.left + box.width / 2, box.top + box.height / 2];
}"""


@pytest.fixture
def bundle(demo: Path) -> FeatureBundle:
    return FeatureBundle.open(demo / "features.mono")


@pytest.fixture
def feature(visit: Callable[..., Any]) -> Page:
    return visit(f"/d/demo/f/{INDEX}")


def test_contexts_are_those_of_the_bundle_strongest_first(feature: Page, bundle: FeatureBundle) -> None:
    stored = [context for context in bundle.feature(INDEX).interval(0) if context.dup_of is None]
    strips = feature.get_by_role("region", name="Strongest").locator(".strip").all()
    assert len(strips) == min(12, len(stored))
    for strip, context in zip(strips, stored, strict=False):
        tokens, text = strip.locator(".t"), strip.text_content()
        strip.dispatch_event("pointerover")
        assert tokens.count() == len(context.tokens)
        assert strip.text_content() == text
        assert strip.locator(".left .t").count() == context.peak
        assert strip.locator(".right .t").first.evaluate("one => one.classList.contains('peak')")
        assert strip.locator(".lv").count() == (context.acts != 0).sum()


def test_near_identical_contexts_are_folded_away(visit: Callable[..., Any], bundle: FeatureBundle) -> None:
    repeats = {f: [c for c in bundle.feature(f).interval(0) if c.dup_of is not None] for f in range(len(bundle))}
    index, twins = next((f, found) for f, found in repeats.items() if found)
    region = visit(f"/d/demo/f/{index}").get_by_role("region", name="Strongest")
    before = region.locator(".strip").count()
    region.get_by_role("button", name=f"show {len(twins)} near-identical").click()
    assert region.locator(".strip").count() == before + len(twins)


def test_hovering_a_token_shows_its_value_and_draws_it_on_the_histogram(feature: Page, bundle: FeatureBundle) -> None:
    context = bundle.feature(INDEX).interval(0)[0]
    token = feature.get_by_role("region", name="Strongest").locator(".strip .peak").first
    token.hover()
    tip = feature.get_by_role("tooltip").filter(visible=True)
    expect(tip).to_contain_text("100% of max")
    expect(tip).to_contain_text(f"position {context.max_pos}")
    expect(feature.locator(".mark")).to_have_count(1)
    feature.get_by_role("heading", level=1).hover()
    expect(feature.locator(".mark")).to_have_count(0)


def test_silent_tokens_are_one_text_until_the_pointer_comes(feature: Page, bundle: FeatureBundle) -> None:
    context = bundle.feature(INDEX).interval(0)[0]
    strip = feature.get_by_role("region", name="Strongest").locator(".strip").first
    expect(strip.locator(".t")).to_have_count(int((context.acts != 0).sum()))
    lines = strip.evaluate("one => one.getBoundingClientRect().height")
    at = next(i for i in range(context.peak + 1, len(context.tokens)) if context.acts[i] == 0)
    feature.mouse.move(*strip.evaluate(SILENT))
    tip = feature.get_by_role("tooltip").filter(visible=True)
    expect(tip).to_contain_text("silent")
    expect(tip).to_contain_text(f"position {context.max_pos + at - context.peak}")
    expect(strip.locator(".t")).to_have_count(len(context.tokens))
    assert strip.evaluate("one => one.getBoundingClientRect().height") == lines


def test_brushing_the_histogram_selects_contexts_and_is_in_the_address(feature: Page) -> None:
    feature.get_by_role("slider", name="Smallest value of Activations").focus()
    for _ in range(30):
        feature.keyboard.press("ArrowRight")
    assert "act=" in feature.url
    low = float(feature.url.split("act=")[1].split("%3A")[0])
    values = [
        float(text)
        for text in feature.locator("section[id^=interval] li .value").all_inner_texts()
        if text.strip("\u2013")
    ]
    assert values
    assert min(values) >= low - 0.05
    feature.reload()
    settle(feature)
    assert feature.locator("section[id^=interval] li").count() == len(values)
    feature.keyboard.press("Escape")
    expect(feature.locator("section[id='interval--2']")).to_be_visible()


def test_how_much_of_a_context_is_shown(feature: Page) -> None:
    group = feature.get_by_role("group", name="How much of a context is shown")
    strip = feature.locator(".strip").first
    group.get_by_role("button", name="Full").click()
    strip.dispatch_event("pointerover")
    everything = strip.locator(".t").filter(visible=True).count()
    assert everything == strip.locator(".t").count()
    group.get_by_role("button", name="Snippet").click()
    assert strip.locator(".t").filter(visible=True).count() <= 17
    feature.get_by_role("button", name="Breaks").click()
    feature.reload()
    settle(feature)
    assert group.get_by_role("button", name="Snippet").get_attribute("aria-pressed") == "true"
    assert "breaks" in (strip.get_attribute("class") or "")


def test_tokens_that_are_written_from_the_right_stand_in_their_order(feature: Page) -> None:
    words = [
        "\u05e9\u05dc\u05d5\u05dd",
        " ",
        "\u05e2\u05d5\u05dc\u05dd",
        " = ",
        "\u0645\u0631\u062d\u0628\u0627",
        "(1",
        ")",
    ]

    def answer(route: Route) -> None:
        read = route.fetch().json()
        read["strings"] = [words[i % len(words)] for i in range(len(read["strings"]))]
        route.fulfill(json=read)

    feature.route(f"**/features/{INDEX}/contexts*", answer)
    feature.reload()
    settle(feature)
    strip = feature.get_by_role("region", name="Strongest").locator(".strip").first
    strip.dispatch_event("pointerover")
    tokens = strip.locator(".right .t").evaluate_all(
        "all => all.map((one) => ({ left: one.getBoundingClientRect().left, text: one.textContent, "
        "direction: getComputedStyle(one).direction, bidi: getComputedStyle(one).unicodeBidi }))"
    )
    lefts = [token["left"] for token in tokens]
    assert len({token["text"] for token in tokens}) > 3
    assert lefts == sorted(lefts)
    for token in tokens:
        is_right_to_left = any("\u0590" <= letter <= "\u08ff" for letter in token["text"])
        assert (token["direction"] == "rtl", token["bidi"] == "isolate") == (is_right_to_left, is_right_to_left)


def test_the_next_feature_is_drawn_once_and_one_that_takes_long_is_waited_for(feature: Page) -> None:
    with feature.expect_response(f"**/features/{INDEX + 1}/contexts"):
        feature.reload()
    settle(feature)
    feature.evaluate(
        """() => {
          window.skeletons = 0;
          new MutationObserver(() => (window.skeletons += document.querySelectorAll('main .skeleton').length))
            .observe(document.querySelector('main'), { subtree: true, childList: true });
        }"""
    )
    feature.keyboard.press("j")
    expect(feature.get_by_role("heading", level=1)).to_have_text(f"Feature {INDEX + 1}")
    assert feature.evaluate("window.skeletons") == 0

    held: list[Route] = []
    feature.route(f"**/features/{INDEX + 100}*", lambda route: held.append(route))
    feature.keyboard.press("Control+k")
    feature.get_by_role("dialog").get_by_role("combobox").fill(f"demo/{INDEX + 100}")
    feature.keyboard.press("Enter")
    expect(feature.get_by_role("heading", level=1)).to_have_text(f"Feature {INDEX + 100}")
    contexts = feature.get_by_role("region", name="Contexts")
    expect(contexts.locator(".skeleton").first).to_be_visible()
    for route in held:
        route.continue_()
    expect(contexts.locator(".strip").first).to_be_visible()


def test_contexts_below_the_screen_follow_those_on_it(feature: Page, bundle: FeatureBundle) -> None:
    read_ahead(feature, INDEX + 1)  # or the page shows that it loads, and draws all groups anew
    feature.evaluate(
        """() => {
          window.changed = [];
          const groups = [...document.querySelectorAll('section[id^=interval-]')];
          for (const [name, element] of [['first', groups[0]], ['last', groups.at(-1)]])
            new MutationObserver(() => window.changed.push(name))
              .observe(element, { subtree: true, attributes: true, attributeFilter: ['title'] });
        }"""
    )
    feature.keyboard.press("j")
    expect(feature.get_by_role("heading", level=1)).to_have_text(f"Feature {INDEX + 1}")
    for group in {context.interval for context in bundle.feature(INDEX + 1).contexts}:
        stored = [one for one in bundle.feature(INDEX + 1).interval(group) if one.dup_of is None][:12]
        places = [f"sequence {one.sequence}, tokens {one.start} to" for one in stored]
        shown = feature.locator(f"#interval-{group} .value")
        expect(shown).to_have_count(len(places))
        for i, place in enumerate(places):
            assert place in (shown.nth(i).get_attribute("title") or "")
    changed = feature.evaluate("window.changed")
    assert changed.index("first") < changed.index("last")


def test_neighbors_and_logit_effects_are_the_bundles(feature: Page, bundle: FeatureBundle) -> None:
    stored = bundle.feature(INDEX)
    related = feature.get_by_role("region", name="Related")
    for name, neighbors in (
        ("Decoder", stored.decoder_neighbors),
        ("Encoder", stored.encoder_neighbors),
        ("Together", stored.together),
    ):
        related.get_by_role("button", name=name).click()
        expect(related.locator(".index")).to_have_text([str(neighbor.feature) for neighbor in neighbors[:8]])
    for title, tokens in (("Promotes", stored.promoted), ("Suppresses", stored.suppressed)):
        section = feature.locator(".stats section").filter(has=feature.get_by_role("heading", name=title))
        assert section.locator("li").count() == 10
        expect(section.locator("li").first).to_contain_text(f"{abs(tokens[0].value):.2f}")


def test_a_token_leads_to_the_features_that_promote_it_too(feature: Page) -> None:
    section = feature.locator(".stats section").filter(has=feature.get_by_role("heading", name="Promotes"))
    section.get_by_role("link").first.click()
    settle(feature)
    expect(feature.get_by_role("grid")).to_be_visible()
    assert "promotes" in feature.url


def test_the_next_feature_is_the_next_of_the_table_it_came_from(
    visit: Callable[..., Any], bundle: FeatureBundle
) -> None:
    order = (-bundle.column("max_act")).argsort(kind="stable")
    page = visit(f"/d/demo/f/{order[0]}?sort=-max_act")
    expect(page.get_by_text(f"1 of {len(bundle)}")).to_be_visible()
    page.keyboard.press("j")
    expect(page.get_by_role("heading", name=f"Feature {order[1]}", exact=True)).to_be_visible()
    page.keyboard.press("j")
    expect(page.get_by_role("heading", name=f"Feature {order[2]}", exact=True)).to_be_visible()
    page.keyboard.press("k")
    expect(page.get_by_role("heading", name=f"Feature {order[1]}", exact=True)).to_be_visible()
    page.keyboard.press("J")
    expect(page.get_by_role("heading", name=f"Feature {order[1] + 1}", exact=True)).to_be_visible()
    page.go_back()
    expect(page.get_by_role("heading", name=f"Feature {order[1]}", exact=True)).to_be_visible()


class Held:
    """Questions of a page that are answered only once they are let go."""

    def __init__(self, page: Page, pattern: str) -> None:
        self.routes: list[Route] = []
        self.free = False
        page.route(pattern, lambda route: route.continue_() if self.free else self.routes.append(route))

    def let_go(self) -> None:
        self.free = True
        for route in self.routes:
            route.continue_()


def unplaced(visit: Callable[..., Any], feature: int) -> tuple[Page, Held]:
    """A feature's page that has asked who stands beside it, and what holds the answer back."""
    page = visit("/d/demo/f/10")
    expect(page.get_by_text("11 of ")).to_be_visible()
    held = Held(page, "**/features/place*")
    with page.expect_request("**/features/place*"):
        page.goto(page.url.replace("/f/10", f"/f/{feature}"))
    settle(page)
    return page, held


def test_a_key_pressed_before_the_next_is_known_is_carried_out_once_it_is(visit: Callable[..., Any]) -> None:
    page, held = unplaced(visit, 20)
    for key in "kj":
        page.keyboard.press(key)
    page.wait_for_timeout(100)
    expect(page.get_by_role("heading", name="Feature 20", exact=True)).to_be_visible()
    held.let_go()
    expect(page.get_by_role("heading", name="Feature 21", exact=True)).to_be_visible()


def test_a_key_that_waits_is_forgotten_where_the_page_goes_elsewhere(visit: Callable[..., Any]) -> None:
    page, held = unplaced(visit, 40)
    page.keyboard.press("k")  # to 39, did it not wait
    page.keyboard.press("J")
    expect(page.get_by_role("heading", name="Feature 41", exact=True)).to_be_visible()
    held.let_go()
    expect(page.get_by_text("42 of ")).to_be_visible()
    expect(page.get_by_role("heading", name="Feature 41", exact=True)).to_be_visible()


def test_what_was_read_ahead_shows_without_asking(visit: Callable[..., Any]) -> None:
    page = visit("/d/demo/f/10")
    read_ahead(page, 11)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.keyboard.press("j")
    expect(page.get_by_role("heading", name="Feature 11", exact=True)).to_be_visible()
    expect(page.locator(".strip").first).to_be_visible()
    settle(page)
    assert not [url for url in asked if url.endswith(("/features/11", "/features/11/contexts"))]


def test_ones_own_text_runs_through_the_feature(feature: Page, bundle: FeatureBundle, demo: Path) -> None:
    import monoscope
    from monoscope.demo import MODEL

    text = "for i in range(10):\n    print(i)"
    lm = monoscope.LanguageModel.from_pretrained(MODEL)
    tokens = lm.tokenizer(text, return_tensors="pt").input_ids
    (x,) = lm.read(tokens, ["2.resid_post"]).values()
    wanted = monoscope.load(demo / "dictionary").encode(x).dense()[0, :, INDEX]

    feature.keyboard.press("t")
    feature.keyboard.type(text)
    answer = feature.locator(".answer .strip")
    expect(answer).to_be_visible(timeout=60_000)
    fires = answer.locator(".lv")
    assert fires.count() <= answer.locator(".t").count()
    shown = answer.locator(".t").count()
    assert shown in (tokens.shape[1], tokens.shape[1] + 1), "the model's first token may be shown before the text"
    assert abs(int((wanted != 0).sum()) - fires.count()) <= 1


def test_a_context_goes_to_the_test_box(feature: Page, bundle: FeatureBundle) -> None:
    context = next(context for context in bundle.feature(INDEX).interval(0) if context.dup_of is None)
    feature.locator("section[id='interval-0'] li").first.hover()
    feature.locator("section[id='interval-0'] li").first.get_by_role("button", name="test").click()
    assert feature.get_by_role("textbox", name="Test your own text").input_value() == context.text
    expect(feature.locator(".answer .strip")).to_be_visible(timeout=60_000)


@pytest.mark.parametrize("address", ["/d/demo/f/999999", "/d/demo/f/abc", "/d/demo/f/-1"])
def test_a_feature_that_is_not_there(visit: Callable[..., Any], watch: Any, address: str) -> None:
    watch.allow("status of 4")
    page = visit(address)
    expect(page.get_by_text("There is no such").or_(page.get_by_role("alert")).first).to_be_visible()
