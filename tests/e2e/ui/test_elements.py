"""The custom elements, in a page that has nothing but them, and the widget against a stand-in for a notebook."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect
from served import HOSTILE, hostile_bundle

from monoscope.features import FeatureBundle
from monoscope.features.drawn import drawn

MODULE = Path(__file__).parents[3] / "src" / "monoscope" / "_ui" / "elements.js"
ORIGIN = "http://elements.test"
SCRIPT = "<script>document.title = 'ran'</script><img src=x onerror=\"document.title = 'ran'\">"

# A notebook's model: traits that are set here, what is sent kept, and listeners called.
NOTEBOOK = """
import widget from './elements.js';
const traits = TRAITS, heard = {};
window.sent = [];
window.saved = 0;
const fire = (name, ...given) => (heard[name] ?? []).forEach((each) => each(...given));
window.model = {
  get: (name) => traits[name],
  set: (name, value) => { traits[name] = value; },
  save_changes: () => { window.saved += 1; },
  send: (content) => window.sent.push(content),
  on: (name, each) => (heard[name] ??= []).push(each),
  off: (name, each) => { heard[name] = (heard[name] ?? []).filter((other) => other !== each); },
};
window.fire = fire;
window.close_it = widget.render({ model: window.model, el: document.getElementById('cell') });
"""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> FeatureBundle:
    return hostile_bundle(tmp_path_factory.mktemp("elements") / "features.mono")


Show = Callable[[str], Page]


@pytest.fixture
def show(browser: Browser, watch: Any) -> Iterator[Show]:
    """Opens a page with a body; the module is all it can load."""
    contexts = []

    def open_page(body: str) -> Page:
        context = browser.new_context(viewport={"width": 900, "height": 1100}, reduced_motion="reduce")
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(10_000)
        watch.page(page, ORIGIN)
        html = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>still</title><body>{body}</body></html>'
        page.route(f"{ORIGIN}/", lambda route: route.fulfill(body=html, content_type="text/html"))
        script = MODULE.read_text()
        page.route(f"{ORIGIN}/elements.js", lambda r: r.fulfill(body=script, content_type="text/javascript"))
        page.route(f"{ORIGIN}/favicon.ico", lambda route: route.fulfill(status=204))
        page.goto(f"{ORIGIN}/")
        return page

    yield open_page
    for context in contexts:
        context.close()


def written(value: Any) -> str:
    """JSON that cannot end the script it stands in."""
    return json.dumps(value, allow_nan=False).replace("<", "\\u003c")


def element(name: str, data: Any) -> str:
    return f'<{name}><script type="application/json">{written(data)}</script></{name}>'


LOAD = '<script type="module" src="./elements.js"></script>'


def test_each_element_draws_its_data_and_hostile_text_stays_text(show: Show) -> None:
    token = {"id": 0, "text": SCRIPT, "value": 0.5}
    page = show(
        element("mono-tokens", {"tokens": [SCRIPT, " cat"], "acts": [2.0, 0.0]})
        + element("mono-hist", {"bins": {"edges": [0, 1, 2], "counts": [5, 1], "scale": "linear"}, "title": SCRIPT})
        + element("mono-logits", {"promoted": [token], "suppressed": []})
        + LOAD
    )
    expect(page.locator("mono-tokens .t").first).to_have_text(SCRIPT)
    shapes = page.locator("mono-hist .bar").evaluate_all("shapes => shapes.map(at => at.getAttribute('d')).join('')")
    assert shapes.count("M") == 2, "a bar for each count"
    expect(page.locator("mono-hist .title")).to_have_text(SCRIPT)
    expect(page.locator("mono-logits .token")).to_have_text(SCRIPT)
    expect(page.locator("mono-logits .value")).to_have_text("+0.50")
    assert page.locator("img").count() == 0
    assert page.title() == "still"
    color = page.locator("mono-tokens .t").first.evaluate("at => getComputedStyle(at).backgroundColor")
    assert "52, 211, 153" in color, "the app's styles are in the element"
    assert page.evaluate("getComputedStyle(document.body).margin") == "8px", "and nowhere else"


def test_a_feature_is_drawn_and_tells_what_is_pointed_at(show: Show, bundle: FeatureBundle) -> None:
    feature = bundle.feature(7)
    page = show(
        element("mono-feature", drawn(feature))
        + "<script>window.told = []; for (const name of ['mono-hover', 'mono-select']) "
        + "document.addEventListener(name, (event) => told.push([name, event.detail]))</script>"
        + LOAD
    )
    expect(page.get_by_role("heading", name="Feature 7")).to_be_visible()
    peak = page.locator("mono-feature .strip .peak").first
    strongest = feature.interval(0)[0]
    peak.hover()
    peak.click()
    told = dict(page.evaluate("told.filter(([, detail]) => detail)"))
    spot = {"sequence": strongest.sequence, "position": strongest.max_pos, "token": strongest.tokens[strongest.peak]}
    for name in ("mono-hover", "mono-select"):
        assert told[name] == {**spot, "value": pytest.approx(float(strongest.acts[strongest.peak]), rel=1e-5)}
    assert HOSTILE[0] in "".join(page.locator("mono-feature .strip").all_text_contents())


def test_a_range_of_the_histogram_selects_contexts(show: Show, bundle: FeatureBundle) -> None:
    page = show(element("mono-feature", drawn(bundle.feature(7))) + LOAD)
    contexts = page.locator("mono-feature .strip")
    expect(contexts.first).to_be_visible()
    before = contexts.count()
    page.get_by_role("slider", name="Smallest value of Activations").press("End")
    expect(contexts).not_to_have_count(before)
    assert contexts.count() < before


def test_the_widget_walks_asks_ahead_and_gives_choices_back(show: Show, bundle: FeatureBundle) -> None:
    records = {i: drawn(bundle.feature(i)) for i in range(5)}
    traits = {"data": records[0], "feature": 0, "n_features": 300, "prefetch": 3, "selected": None, "hovered": None}
    page = show(
        '<div id="cell"></div><script type="module">' + NOTEBOOK.replace("TRAITS", written(traits)) + "</script>"
    )
    heading = page.locator("mono-feature h2")
    expect(heading).to_have_text("Feature 0")
    assert page.evaluate("sent") == [{"kind": "ask", "features": [1, 2, 3]}]
    page.evaluate(
        "given => fire('msg:custom', given)", {"kind": "features", "features": [records[i] for i in (1, 2, 3)]}
    )
    page.get_by_role("button", name="Next feature").click()
    expect(heading).to_have_text("Feature 1")  # from what was asked ahead
    assert page.evaluate("[model.get('feature'), sent.at(-1)]") == [1, {"kind": "ask", "features": [4]}]

    page.get_by_role("spinbutton", name="Feature number").fill("4")
    page.get_by_role("spinbutton", name="Feature number").press("Enter")
    assert page.evaluate("model.get('feature')") == 4
    page.evaluate("data => { model.set('data', data); fire('change:data'); }", records[4])
    expect(heading).to_have_text("Feature 4")

    page.locator("mono-feature .strip .peak").first.click()
    assert page.evaluate("model.get('selected')")["position"] == bundle.feature(4).interval(0)[0].max_pos
    page.get_by_role("spinbutton", name="Feature number").fill("300")
    page.get_by_role("spinbutton", name="Feature number").press("Enter")
    assert page.evaluate("model.get('feature')") == 4
    page.evaluate("close_it()")
    page.evaluate("data => { model.set('data', data); model.set('feature', 0); fire('change:data'); }", records[0])
    expect(heading).to_have_text("Feature 4")


@pytest.mark.parametrize("dark", [True, False])
def test_elements_follow_the_notebook_s_theme(show: Show, bundle: FeatureBundle, dark: bool) -> None:
    page = show(
        f"<script>document.body.dataset.jpThemeLight = '{str(not dark).lower()}'</script>"
        + element("mono-feature", drawn(bundle.feature(7)))
        + LOAD
    )
    surface = page.locator("mono-feature article").evaluate("at => getComputedStyle(at).backgroundColor")
    assert surface == ("rgb(21, 27, 25)" if dark else "rgb(255, 255, 255)")
