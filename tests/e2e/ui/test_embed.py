"""Features and lists within the pages of others: what frames show, what they leave out, and what they may do."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import FrameLocator, Page, expect
from ui_pages import copied, settle, wait_for

Visit = Callable[..., Page]
HOSTILE = '"><script>document.title=2</script><img src=x onerror=alert(1)>'


@pytest.fixture
def elsewhere() -> Iterator[HTTPServer]:
    """A site of another origin, with one page."""

    class Site(BaseHTTPRequestHandler):
        page = ""

        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(self.page.encode())

        def log_message(self, format: str, *args: Any) -> None:
            pass

    site = HTTPServer(("127.0.0.1", 0), Site)
    thread = threading.Thread(target=site.serve_forever)
    thread.start()
    yield site
    site.shutdown()
    thread.join()
    site.server_close()


class Framing:
    """A server that lets the pages of another site frame it, and a browser that it knows nothing of."""

    def __init__(self, served: Any, site: HTTPServer, stranger: Any) -> None:
        self.served, self.site, self.stranger = served, site, stranger
        self.origin = f"http://127.0.0.1:{site.server_port}"

    def show(self, frame: str) -> FrameLocator:
        """A frame on a page of the other site."""
        self.site.RequestHandlerClass.page = frame  # type: ignore[attr-defined]
        page = self.stranger.new_page()
        page.goto(self.origin)
        return page.frame_locator("iframe")


@pytest.fixture
def framing(
    visit: Visit, start: Callable[..., Any], demo: Path, browser: Any, elsewhere: HTTPServer
) -> Iterator[Framing]:
    del visit  # it closes its pages before the server stops
    served = start(demo, settings=(f'server.allow_frame=["http://127.0.0.1:{elsewhere.server_port}"]',))
    stranger = browser.new_context()
    yield Framing(served, elsewhere, stranger)
    stranger.close()


def framed(page: Page, item: str = "Frame for a web page", menu: str | None = "Copy") -> str:
    """The frame of a page as its dialog offers it."""
    if menu is not None:
        page.get_by_role("button", name=menu, exact=True).click()
    page.get_by_role("button", name=item, exact=True).click()
    return copied(page, "Copy the frame", menu=None)


def test_a_frame_shows_what_its_dialog_says(visit: Visit, framing: Framing) -> None:
    page = visit("/d/demo/f/3", at=framing.served)
    page.get_by_role("button", name="Copy", exact=True).click()
    page.get_by_role("button", name="Frame for a web page").click()
    dialog = page.get_by_role("dialog", name="Frame for a web page")
    dialog.get_by_label("Contexts").uncheck()
    dialog.get_by_label("The way here").uncheck()
    dialog.get_by_label("Text that is tested in it").fill('say "import os"')
    dialog.get_by_label("Height").fill("260")
    written = dialog.get_by_role("textbox", name="The frame").input_value()
    frame = copied(page, "Copy the frame", menu=None)
    assert frame == written
    expect(dialog).to_have_count(0)
    assert 'height="260"' in frame
    shown = framing.show(frame)
    expect(shown.locator(".answer .strip")).to_contain_text('say "import os"', timeout=60_000)
    expect(shown.locator(".plots")).to_be_visible()
    expect(shown.get_by_role("link", name="Steer")).to_be_visible()
    assert shown.locator("section[id^=interval-], a:text-is('Open')").count() == 0


def test_a_frame_reads_by_a_token_that_changes_nothing(visit: Visit, framing: Framing) -> None:
    frame = framed(visit("/d/demo/f/3", at=framing.served))
    token = frame.split("token=")[1].split('"')[0]
    assert token != framing.served.token
    shown = framing.show(frame)
    expect(shown.get_by_role("heading", level=1)).to_contain_text("Feature 3")
    expect(shown.get_by_role("region", name="Strongest").locator(".strip").first).to_be_visible()
    assert shown.get_by_role("navigation").count() == 0

    api, reader = f"{framing.served.address}/api/v1", {"Authorization": f"Bearer {token}"}
    assert httpx.get(f"{api}/library", headers=reader).status_code == 200
    label = {"dict": "demo", "feature": 3, "text": "not mine"}
    assert httpx.post(f"{api}/labels", json=label, headers=reader).status_code == 403
    assert httpx.post(f"{api}/steer", json={}, headers=reader).status_code == 403
    assert httpx.post(f"{api}/session", json={"token": token}).status_code == 403


def test_a_site_that_is_not_allowed_shows_no_frame(
    visit: Visit, server: Any, browser: Any, elsewhere: HTTPServer
) -> None:
    frame = framed(visit("/d/demo/f/3"))
    elsewhere.RequestHandlerClass.page = frame  # type: ignore[attr-defined]
    context = browser.new_context()
    page, said = context.new_page(), []
    page.on("console", lambda message: said.append(message.text))
    page.goto(f"http://127.0.0.1:{elsewhere.server_port}")
    wait_for(page, lambda: any("frame-ancestors" in text for text in said))
    assert page.frame_locator("iframe").get_by_role("heading").count() == 0
    context.close()


def test_ones_own_text_is_tested_within_a_frame(visit: Visit, framing: Framing) -> None:
    frame = framed(visit("/d/demo/f/3", at=framing.served))
    shown = framing.show(frame.replace("/f/3#", "/f/3?defaulttesttext=import%20os#"))
    expect(shown.locator(".answer .strip")).to_contain_text("import os", timeout=60_000)
    shown.get_by_role("textbox", name="Test your own text").fill("return None")
    expect(shown.locator(".answer:not(.busy) .strip")).to_contain_text("return None", timeout=20_000)


PARTS = {
    "explanation": ("h1", "of its own"),
    "plots": (".plots", None),
    "test": ("section[aria-label='Test your own text']", None),
    "testfield": ("textarea", None),
    "activations": ("section[id^=interval-]", None),
    "link": ("a:text-is('Open')", None),
    "steer": ("a:text-is('Steer')", None),
}


@pytest.mark.parametrize("part", PARTS)
def test_an_address_leaves_a_part_out(visit: Visit, server: Any, part: str) -> None:
    label = {"dict": "demo", "feature": 7, "text": "of its own"}
    headers = {"Authorization": f"Bearer {server.token}"}
    httpx.post(f"{server.address}/api/v1/labels", json=label, headers=headers)
    selector, text = PARTS[part]
    whole = visit("/embed/d/demo/f/7?defaulttesttext=import").locator(selector)
    less = visit(f"/embed/d/demo/f/7?defaulttesttext=import&embed{part}=false").locator(selector)
    if text is not None:
        expect(whole.first).to_contain_text(text)
        expect(less.first).not_to_contain_text(text)
    else:
        expect(whole.first).to_be_visible()
        expect(less).to_have_count(0)


def test_a_text_without_a_field_is_shown_and_a_field_without_a_text(visit: Visit) -> None:
    box = "section[aria-label='Test your own text']"
    page = visit("/embed/d/demo/f/3?embedtestfield=false&defaulttesttext=import%20os")
    expect(page.locator(f"{box} .answer .strip")).to_contain_text("import os", timeout=60_000)
    assert visit("/embed/d/demo/f/3?embedtestfield=false").locator(box).count() == 0
    assert visit("/embed/d/demo/f/3").locator(f"{box} textarea").input_value() == ""


@pytest.mark.parametrize(
    ("height", "tall"), [("200", 200), ("0", None), ("-5", None), ("1e3", None), ("99999;color:red", None)]
)
def test_height_bounds_what_is_shown(visit: Visit, height: str, tall: int | None) -> None:
    box = visit(f"/embed/d/demo/f/3?height={height}").locator("article")
    seen = box.evaluate("one => [one.clientHeight, one.scrollHeight]")
    assert seen[0] == tall if tall else seen[0] == seen[1]
    assert seen[1] > 200


def test_the_address_of_another_sites_frame_shows_the_same(visit: Visit) -> None:
    page = visit("/d/demo/f/3?embed=true&embedplots=false")
    expect(page.locator("article h1")).to_contain_text("Feature 3")
    assert "/embed/d/demo/f/3?embedplots=false" in page.url
    assert page.locator(".plots").count() == 0
    assert page.get_by_role("navigation").count() == 0


def test_hostile_values_are_text(visit: Visit) -> None:
    page = visit("/embed/d/demo/f/3")
    page.goto(
        page.url + "?" + "&".join(f"{key}={HOSTILE}" for key in ("defaulttesttext", "height", "embedplots", "embed"))
    )
    settle(page)
    expect(page.get_by_role("textbox", name="Test your own text")).to_have_value(HOSTILE)
    assert page.locator("img, main script").count() == 0
    assert page.title() != "2"


def test_a_list_is_framed_with_its_features_as_they_are(visit: Visit, framing: Framing) -> None:
    headers = {"Authorization": f"Bearer {framing.served.token}"}
    with httpx.Client(base_url=f"{framing.served.address}/api/v1", headers=headers) as api:
        made = api.post("/lists", json={"name": HOSTILE}).json()
        api.post(f"/lists/{made['id']}/items", json={"items": [{"dict": "demo", "feature": f} for f in (8, 3)]})
        frame = framed(visit(f"/lists/{made['id']}", at=framing.served), "Frame", menu=None)
        assert frame.count("<") == 2
        shown = framing.show(frame)
        expect(shown.get_by_role("heading", level=1)).to_have_text(HOSTILE)
        expect(shown.locator("li h3 .index")).to_have_text(["8", "3"])
        expect(shown.locator("li h3 a").first).to_have_attribute("target", "_blank")
        expect(shown.locator("li .strip").first).to_be_visible()

        # What is said of a feature later is shown too.
        assert api.post("/labels", json={"dict": "demo", "feature": 8, "text": "said later"}).status_code < 300
        shown = framing.show(frame.replace("#", "?embedplots=false&embedactivations=false&embedlink=false#", 1))
        expect(shown.locator("li h3").first).to_contain_text("said later")
        assert shown.locator("a[href], .strip, li section").count() == 0


def test_a_list_that_is_not_there_is_told(visit: Visit, watch: Any) -> None:
    watch.allow("status of 404")
    expect(visit("/embed/lists/01ARZ3NDEKTSV4RRFFQ69G5FAV").get_by_role("alert")).to_be_visible()
