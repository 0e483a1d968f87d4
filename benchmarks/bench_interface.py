"""How long a person waits in the web interface: its interactions on 131,072 features, in a headless browser.

    python benchmarks/bench_interface.py [--bundle LARGE.mono] [--demo DIR] [--workspace DIR] [--repeat 30] [--out FILE]
        [--only start,feature,table,bar,search,live]

LARGE.mono is a bundle as ``large_bundle.py`` makes it, DIR a run of ``monoscope demo``; both are made if not given.
Every feature is given a label, and the labels are indexed, which takes minutes: ``--workspace`` keeps that for the next
time. ``--only`` measures some parts, and leaves the others in FILE as they stand there, so that all can be measured in
several short runs. ``docs/reference/performance.md`` shows FILE (``performance_page.py`` writes it).

Input is the browser's own (pointer, keys), one interaction at a time, with nothing else under way. What is measured
lies inside the page: from the event, as its first listener hears it, until the frame that shows the result has been
painted. A result is recognized by what the page holds, watched by a MutationObserver. Each row is the 50th and 95th
percentile of its times, as many as ``n`` says: ``--repeat``, and fewer where one takes seconds.

    start     from the start of the server's process, in a browser that is open, with a workspace of its own each time
    feature   the page of a feature: j goes to one that was read ahead, J, in a sorted table, to one that was not
    table     a condition is added, the order is changed; none of the questions was asked before
    bar       the last letter of a word whose others have just been typed, in the command bar; jumping by a reference,
              whose feature is read ahead while its line is the chosen one
    search    the same letter on the page of search, in all dictionaries and in every way
    live      a text on one feature, and steering, by a model that is loaded

Where a page waits for one to stop typing, or for the answer to the letter before, that is part of the time, and of the
target.

Interactions of attribution graphs (pruning, hovering, grouping) are left out: their pages do not exist yet.

Any request that is not to the server is reported, and is a failure. Without Chromium or a built interface nothing is
measured, and that is said.
"""

from __future__ import annotations

import argparse
import gzip
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
from bench_search import label_all, words_of
from large_bundle import large_bundle
from machine import facts, wait_for_quiet

import monoscope
from monoscope.features import FeatureBundle
from monoscope.features.workspace import Workspace

BUILT = Path(monoscope.__file__).parent / "_ui"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]
LONGEST = 60_000  # milliseconds until an interaction counts as broken
PARTS = ("start", "feature", "table", "bar", "search", "live")
STARTS = 10
STEERED = 20
SEARCH_PAUSE, TEST_PAUSE = 100, 150  # milliseconds that a page waits after a key, at most

# The promise of the next event of one type: milliseconds until what `ready` looks for has been painted.
WATCH = """
performance.setResourceTimingBufferSize(100_000);
window.watch = (type, ready) => {
  window.took = new Promise((resolve) => {
    let began = null;
    const painted = () => {
      const { port1, port2 } = new MessageChannel();
      port1.onmessage = () => resolve(performance.now() - began);
      port2.postMessage(null);
    };
    let seen = false;
    const look = () => {
      if (began === null || seen || !ready()) return;
      seen = true;
      observer.disconnect();
      requestAnimationFrame(painted);
    };
    const observer = new MutationObserver(look);
    // An answer that is shown already changes nothing.
    new PerformanceObserver(look).observe({ type: 'resource' });
    observer.observe(document, { subtree: true, childList: true, attributes: true, characterData: true });
    addEventListener(type, () => { began = performance.now(); }, { capture: true, once: true });
  });
};
"""
RESTS = "() => document.querySelector('h1') && !document.querySelector('[aria-busy=true], .skeleton')"
PAINTED = """(rests) => new Promise((resolve) => {
  const look = () => {
    if (!rests()) return void requestAnimationFrame(look);
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => {
      const end = (part) => performance.getEntriesByType('resource').filter((one) => one.name.includes(part))
        .map((one) => performance.timeOrigin + one.responseEnd);
      resolve({
        page: performance.timeOrigin + performance.getEntriesByType('navigation')[0].responseEnd,
        answer: Math.min(...end('/api/v1/')),
        painted: performance.timeOrigin + performance.now(),
      });
    };
    port2.postMessage(null);
  };
  requestAnimationFrame(look);
})"""
CONTEXTS = "document.querySelector('section[aria-label=Contexts]')"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--demo", type=Path)
    parser.add_argument("--workspace", type=Path, help="directory of labels and their index, made if it is not there")
    parser.add_argument("--repeat", type=int, default=30)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--only", default=",".join(PARTS), help="parts, with commas between them")
    options = parser.parse_args()
    parts = options.only.split(",")
    if unknown := set(parts) - set(PARTS):
        parser.error(f"--only: found {', '.join(sorted(unknown))}; parts are {', '.join(PARTS)}")
    lacking = "needs Chromium on PATH" if CHROMIUM is None else None
    if not (BUILT / "manifest.json").is_file():
        lacking = "the interface is not built: python ui/build.py"
    if lacking:
        print(f"skipped: {lacking}")
        return
    with tempfile.TemporaryDirectory() as made:
        bundle = options.bundle or _large(Path(made))
        demo = options.demo or _demo(Path(made))
        workspace = options.workspace or Path(made) / "workspace"
        result = measure(bundle, demo, workspace, Path(made), options.repeat, parts)
    for row in result["rows"]:
        over = "" if row["p95_ms"] <= row["target_ms"] else "  over"
        print(
            f"{row['interaction']:<62}{row['target_ms']:>6} ms"
            f"{row['p50_ms']:>9}{row['p95_ms']:>9}  n = {row['n']}{over}"
        )
    print(json.dumps({name: value for name, value in result.items() if name != "rows"}, indent=1))
    if options.out is not None:
        if options.out.is_file():
            before = json.loads(options.out.read_text())
            kept = [row for row in before["rows"] if row["part"] not in parts]
            result["rows"] = sorted([*kept, *result["rows"]], key=lambda row: PARTS.index(row["part"]))
            result["requests"] |= {"n": before["requests"]["n"] | result["requests"]["n"]}
        options.out.write_text(json.dumps(result, indent=1) + "\n")
    if result["requests"]["elsewhere"]:
        sys.exit(f"requests left the machine: {', '.join(result['requests']['elsewhere'])}")


def measure(
    bundle: Path, demo: Path, workspace: Path, scratch: Path, repeat: int, parts: Sequence[str] = PARTS
) -> dict[str, Any]:
    """Parts, of one browser and one server after another."""
    from playwright.sync_api import sync_playwright

    words = _label(bundle, workspace)
    asked: list[str] = []
    rows: list[dict[str, Any]] = []
    requests: dict[str, int] = {}

    def add(part: str, found: Callable[[], list[dict[str, Any]]]) -> None:
        others, before = wait_for_quiet(), len(asked)
        measured = {"others": others, "measured": time.strftime("%Y-%m-%d %H:%M")}
        rows.extend({"part": part, **row, **measured} for row in found())
        requests[part] = len(asked) - before

    n = len(FeatureBundle.open(bundle))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        try:
            if "start" in parts:
                add("start", lambda: start(browser, [bundle, demo], scratch, min(repeat, STARTS), asked))
            with served([bundle, demo], workspace / "workspace.db") as said:
                ids = _ids(said, bundle, demo)
                _indexed(said, words)
                tab = Tab(browser, said, repeat, asked)
                measured: dict[str, Callable[[], None]] = {
                    "feature": lambda: feature_page(tab, ids[0], n),
                    "table": lambda: table_page(tab, ids[0], n),
                    "bar": lambda: command_bar(tab, ids[0], words),
                    "search": lambda: search_page(tab, words),
                    "live": lambda: live(tab, ids[1]),
                }
                for part in [part for part in PARTS if part in parts and part in measured]:
                    add(part, partial(tab.rows_of, measured[part]))
                payload = _payload(said, ids[0], n)
        finally:
            browser.close()
    elsewhere = sorted({url for url in asked if urlsplit(url).hostname != "127.0.0.1"})
    return {
        "machine": facts(),
        "browser": f"Chromium {browser.version}",
        "features": n,
        "rows": rows,
        "sizes": {**_script(), **payload},
        "requests": {"n": requests, "elsewhere": elsewhere},
    }


@dataclass
class Tab:
    """One page of a browser that was let in, and what has been measured in it."""

    browser: Any
    said: dict[str, Any]
    repeat: int
    asked: list[str]
    rows: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page = self.browser.new_page(viewport={"width": 1360, "height": 860})
        self.page.set_default_timeout(LONGEST)
        self.page.add_init_script(WATCH)
        self._open: set[Any] = set()
        self.page.on("request", self._begin)
        self.page.on("requestfinished", self._end)
        self.page.on("requestfailed", self._end)
        self.page.goto(self.said["url"])
        self.rest()

    def _begin(self, request: Any) -> None:
        self._open.add(request)
        if not request.url.startswith(("data:", "blob:")):
            self.asked.append(request.url)

    def _end(self, request: Any) -> None:
        self._open.discard(request)

    def go(self, path: str) -> None:
        """Open an address anew, and wait until it is at rest."""
        self.page.goto(self.said["address"].rstrip("/") + path)
        self.rest()

    def rest(self) -> None:
        """Wait until the page shows everything, and nothing has been asked for during a tenth of a second."""
        self.page.wait_for_function(RESTS)
        quiet = 0
        while quiet < 4:
            self.page.wait_for_timeout(25)
            quiet = 0 if self._open else quiet + 1

    def time(self, event: str, ready: str, act: Callable[[], Any]) -> float:
        """Milliseconds from the event that ``act`` causes to the paint of what ``ready``, an expression, is true of."""
        self.page.evaluate(f"() => watch({event!r}, () => {ready})")
        act()
        took = self.page.evaluate(
            "(most) => Promise.race([window.took, new Promise((none) => setTimeout(() => none(null), most))])", LONGEST
        )
        if took is None:
            raise SystemExit(f"{self.page.url}: nothing came of {event} within {LONGEST} ms: {ready}")
        return float(took)

    def rows_of(self, part: Callable[[], None]) -> list[dict[str, Any]]:
        """What a part measures."""
        self.rows = []
        part()
        return self.rows

    def row(self, interaction: str, target: float, times: list[float]) -> None:
        """Keep the times of one interaction."""
        self.rows.append(_row(interaction, target, times))


def start(browser: Any, paths: list[Path], scratch: Path, n: int, asked: list[str]) -> list[dict[str, Any]]:
    """From the start of the server's process, in a browser that is open: page, first answer, library shown."""
    found: dict[str, list[float]] = {"page": [], "answer": [], "painted": []}
    for i in range(-1, n):  # the first one compiles what has never run here
        began = time.time()
        with served(paths, scratch / f"start{i}.db") as said, browser.new_context() as context:
            page = context.new_page()
            page.on("request", lambda request: asked.append(request.url))
            page.goto(said["url"], wait_until="commit")
            page.wait_for_function(RESTS, timeout=LONGEST)
            times = page.evaluate(f"() => ({PAINTED})({RESTS})")
            for name, values in found.items():
                if i >= 0:
                    values.append(times[name] - 1000 * began)
    names = {"page": "first page received", "answer": "first answer", "painted": "library shown"}
    return [_row(f"start of `serve`: {names[name]}", 2000, values) for name, values in found.items()]


def feature_page(tab: Tab, id: str, n: int) -> None:
    """Hovering, the next feature, how contexts are shown, brushing."""
    page, rng = tab.page, np.random.default_rng(0)
    tab.go(f"/d/{id}/f/{n // 3}")
    tokens = page.locator("#interval-0 .strip .peak")
    times = []
    for i in range(tab.repeat):
        page.locator("h1").hover()
        shown = "document.querySelector('.tip:not([hidden])') && document.querySelector('.mark')"
        times.append(tab.time("pointerover", shown, tokens.nth(i % tokens.count()).hover))
    tab.row("hover a token: tooltip, and its value on the histogram", 16, times)

    at = n // 3
    times = []
    for _ in range(tab.repeat):
        at += 1
        times.append(tab.time("keydown", _shown(at), lambda: page.keyboard.press("j")))
        tab.rest()
    tab.row("next feature (j), read ahead", 50, times)

    # Where the table is sorted, the next number is not among those read ahead.
    tab.go(f"/d/{id}/f/{n // 2}?sort=-max_act")
    at = n // 2
    times = []
    for _ in range(tab.repeat):
        at += 1
        times.append(tab.time("keydown", _shown(at), lambda: page.keyboard.press("J")))
        tab.rest()
    tab.row("next number (J), not read ahead", 120, times)

    group = page.get_by_role("group", name="How much of a context is shown")
    modes, times = ("Snippet", "Full", "Aligned"), []
    for i in range(tab.repeat):
        mode = modes[i % 3]
        ready = f"document.querySelector('#interval-0 .strip').classList.contains('{mode.lower()}')"
        times.append(tab.time("click", ready, group.get_by_role("button", name=mode).click))
    tab.row("context length", 30, times)
    group.get_by_role("button", name="Full").click()
    times = []
    for i in range(tab.repeat):
        ready = f"document.querySelector('#interval-0 .strip').classList.contains('breaks') === {json.dumps(not i % 2)}"
        times.append(tab.time("click", ready, page.get_by_role("button", name="Breaks").click))
    tab.row("line breaks", 30, times)
    times = []
    for i in range(tab.repeat):
        ramp = ("viridis", "signed")[i % 2]
        ready = f"document.documentElement.dataset.ramp === '{ramp}'"
        times.append(tab.time("change", ready, lambda ramp=ramp: page.locator("#ramp").select_option(ramp)))
    tab.row("colors of activations", 30, times)
    group.get_by_role("button", name="Aligned").click()

    times = []
    for _ in range(tab.repeat):
        page.locator("h1").click()
        page.keyboard.press("Escape")
        page.wait_for_function("() => document.getElementById('interval--2') && !location.search.includes('act=')")
        box = page.locator(".stats .brushes").first.bounding_box()
        left, y = box["x"] + rng.uniform(0.02, 0.5) * box["width"], box["y"] + box["height"] / 2
        page.mouse.move(left, y)
        page.mouse.down()
        # Contexts that do not fire are not within a range.
        ready = "location.search.includes('act=') && !document.getElementById('interval--2')"
        times.append(tab.time("pointermove", ready, partial(page.mouse.move, left + 0.3 * box["width"], y)))
        page.mouse.up()
    tab.row("brush the histogram: contexts", 100, times)


def table_page(tab: Tab, id: str, n: int) -> None:
    """Filtering and sorting the table of all features; each question is a new one."""
    page, rng = tab.page, np.random.default_rng(0)
    tab.go(f"/d/{id}?cols=density,max_act,mean_act,std_act,n_sequences,first_pos_share,logit_max")
    heads = page.locator("[role=columnheader] button")
    fresh = "document.querySelector('[role=grid]').getAttribute('aria-busy') === 'false'"
    lower, filters, sorts = sorted(rng.choice(n // 1000, tab.repeat, replace=False)), [], []
    for i in range(tab.repeat):
        page.get_by_role("button", name="Add a filter").click()
        form = page.get_by_role("dialog", name="Add a filter")
        form.get_by_label("Column").select_option(label="Firing rate")
        form.get_by_label("Condition").select_option(label=">")
        form.get_by_label("Value").fill(f"{(int(lower[i]) + 1) * 1e-8:.2e}")
        chips = page.locator("[aria-label^='Remove filter']").count() + 1
        ready = f"document.querySelectorAll('[aria-label^=\"Remove filter\"]').length === {chips} && {fresh}"
        filters.append(tab.time("click", ready, form.get_by_role("button", name="Add filter").click))
        tab.rest()
        head = heads.nth(i % heads.count())
        name = (head.text_content() or "").strip()
        ready = (
            f"[...document.querySelectorAll('[role=columnheader][aria-sort]')].some((one) => "
            f"one.textContent.trim() === {json.dumps(name)}) && {fresh}"
        )
        sorts.append(tab.time("click", ready, head.click))
        tab.rest()
        page.get_by_role("button", name="Remove filter").first.click()
        tab.rest()
    tab.row(f"filter the table of {n:,} features", 100, filters)
    tab.row(f"sort the table of {n:,} features", 100, sorts)


def command_bar(tab: Tab, id: str, words: list[str]) -> None:
    """Searching letter by letter, and jumping."""
    page, rng = tab.page, np.random.default_rng(0)
    tab.go(f"/d/{id}")
    times = []
    for _ in range(tab.repeat):
        ready = "document.querySelectorAll('#commands li').length > 0"
        times.append(tab.time("keydown", ready, lambda: page.keyboard.press("Control+k")))
        page.keyboard.press("Escape")
        tab.rest()
    tab.row("open the command bar", 50, times)

    hits = (
        # Told from the bar's other lines by their notes: why, dictionary, feature.
        "[...document.querySelectorAll('#commands .note')].some((one) => /^\\w+ · .* · \\d+$/.test(one.textContent))"
    )
    page.keyboard.press("Control+k")
    box = page.get_by_role("dialog").get_by_role("combobox")
    _keystrokes(tab, "command bar", box, hits, words)
    page.keyboard.press("Escape")
    tab.rest()

    features, offered, shown = rng.integers(100_000, 110_000, tab.repeat), [], []
    for feature in features.tolist():
        page.keyboard.press("Control+k")
        box.fill(f"{id}/{str(feature)[:-1]}")
        ready = f"document.querySelector('#commands li .text').textContent === 'Feature {feature}'"
        offered.append(tab.time("keydown", ready, lambda f=feature: page.keyboard.press(str(f)[-1])))
        tab.rest()
        shown.append(tab.time("keydown", _shown(feature), lambda: page.keyboard.press("Enter")))
        tab.rest()
    tab.row("a reference typed: offered as a jump", 50, offered)
    tab.row("jump: the feature is shown, read ahead while it was offered", 120, shown)


def search_page(tab: Tab, words: list[str]) -> None:
    """Searching letter by letter, in all dictionaries and in every way."""
    tab.go("/search")
    box = tab.page.get_by_role("combobox", name="Search features")
    _keystrokes(tab, "search", box, "document.querySelector('.two:not(.stale) #hits > li')", words)


def _keystrokes(tab: Tab, where: str, box: Any, hits: str, words: list[str]) -> None:
    """The last letter of words, the rest of which has just been typed into an empty box."""
    times = []
    for word in [word for word in words[10:] if len(word) > 2][: tab.repeat]:
        box.fill("")
        tab.page.wait_for_timeout(2 * SEARCH_PAUSE)
        tab.rest()
        box.fill(word[:-1])
        answered = f"performance.getEntriesByType('resource').some((one) => one.name.includes('q={word}&'))"
        times.append(tab.time("keydown", f"{hits} && {answered}", partial(tab.page.keyboard.press, word[-1])))
        tab.rest()
    tab.row(f"keystroke: ranked results, {where} (up to {SEARCH_PAUSE} ms of waiting in it)", SEARCH_PAUSE + 80, times)


def live(tab: Tab, id: str) -> None:
    """One's own text, and the first steered token, of a model that is loaded."""
    page = tab.page
    tab.go(f"/d/{id}/f/3")
    box = page.get_by_role("textbox", name="Test your own text")
    answer = "document.querySelector('.answer:not(.busy) .strip')"
    box.fill("import os")
    page.wait_for_function(f"() => {answer}")
    tab.rest()
    times = []
    for i in range(tab.repeat):
        text = f"def f{i}(path):\n    return os.path.join(path, name"
        box.fill(text)
        page.wait_for_timeout(2 * TEST_PAUSE)
        tab.rest()
        ready = f"{answer} && {answer}.textContent.endsWith(')')"
        times.append(tab.time("keydown", ready, lambda: box.press(")")))
        tab.rest()
    tab.row(f"one's own text on one feature ({TEST_PAUSE} ms of pause in it)", TEST_PAUSE + 150, times)

    times = []
    for i in range(-1, min(tab.repeat, STEERED)):  # the first one loads what generates
        tab.go(f"/steer?n=16&e={id}/{max(i, 0) + 3},add,0.2,norm")
        page.get_by_role("textbox", name="Prompt").fill(f"def f{i}(path):\n    return ")
        run = page.get_by_role("button", name="Run", exact=True)
        page.wait_for_timeout(500)
        ready = "document.querySelector('section[aria-label=Steered] .t')"
        times.append(tab.time("click", ready, run.click))
        page.get_by_text("Done in").wait_for()
    tab.row("steer: first steered token", 300, times[1:])


def _shown(feature: int) -> str:
    """Whether the page shows a feature whole, its contexts included."""
    return (
        f"document.querySelector('h1')?.textContent === 'Feature {feature}' && {CONTEXTS} && "
        f"!{CONTEXTS}.querySelector('.skeleton')"
    )


def _row(interaction: str, target: float, times: list[float]) -> dict[str, Any]:
    p50, p95 = (round(float(value), 1) for value in np.percentile(times, [50, 95]))
    return {"interaction": interaction, "target_ms": target, "p50_ms": p50, "p95_ms": p95, "n": len(times)}


def _script() -> dict[str, float]:
    """Compressed kB of the scripts that the first page waits for, and of those of the page of a feature."""
    manifest = json.loads((BUILT / "manifest.json").read_text())

    def files(name: str, seen: set[str]) -> set[str]:
        if name not in seen:
            seen.add(name)
            for other in manifest[name].get("imports", []):
                files(other, seen)
        return seen

    def size(names: set[str]) -> float:
        return round(sum(len(gzip.compress((BUILT / manifest[name]["file"]).read_bytes())) for name in names) / 1000, 1)

    entry = files(next(name for name, chunk in manifest.items() if chunk.get("isEntry")), set())
    feature = files("src/pages/Feature.svelte", set(entry))
    return {"initial_script_kb_gzip": size(entry), "script_of_a_feature_kb_gzip": size(feature)}


def _payload(said: dict[str, Any], id: str, n: int) -> dict[str, float]:
    """Of 100 features, kB of what their page reads, contexts included: before compression, and as sent."""
    plain, sent = [], []
    with httpx.Client(
        base_url=f"{said['address'].rstrip('/')}/api/v1", headers=_token(said), trust_env=False
    ) as client:
        for feature in np.random.default_rng(0).integers(n, size=100):
            path = f"/dictionaries/{id}/features/{feature}"
            answers = [client.get(path), client.get(f"{path}/contexts")]
            plain.append(sum(len(answer.content) for answer in answers) / 1000)
            sent.append(sum(answer.num_bytes_downloaded for answer in answers) / 1000)
    quantiles = {"p50": 50, "p95": 95, "max": 100}
    return {
        f"feature_kb_{kind}_{name}": round(float(np.percentile(sizes, q)), 1)
        for kind, sizes in (("plain", plain), ("sent", sent))
        for name, q in quantiles.items()
    }


def _label(bundle: Path, workspace: Path) -> list[str]:
    """Give every feature a label in a workspace, unless it has them; returns the words they are made of."""
    opened = FeatureBundle.open(bundle)
    words, done = words_of(opened), workspace / "labels.json"
    if not done.is_file():
        workspace.mkdir(parents=True, exist_ok=True)
        print(f"labeling {len(opened):,} features ...", flush=True)
        with Workspace.open(workspace / "workspace.db") as database:
            label_all(database, opened, words)
        done.write_text(json.dumps({"bundle": opened.manifest["fingerprint"]}))
    elif json.loads(done.read_text())["bundle"] != opened.manifest["fingerprint"]:
        raise SystemExit(f"{workspace} holds the labels of another bundle than {bundle}: name another directory")
    return words


def _indexed(said: dict[str, Any], words: list[str]) -> None:
    """Wait until the server has indexed all it serves: until then its answers say what was not searched."""
    print("waiting for the index ...", flush=True)
    with httpx.Client(
        base_url=f"{said['address'].rstrip('/')}/api/v1", headers=_token(said), trust_env=False
    ) as client:
        query = {"q": words[0], "mode": "prefix"}
        while any("indexed" in note for note in client.get("/search", params=query, timeout=120).json()["notes"]):
            time.sleep(1)


def _ids(said: dict[str, Any], *paths: Path) -> list[str]:
    """What the server calls the dictionaries of paths."""
    url = f"{said['address'].rstrip('/')}/api/v1/dictionaries"
    cards = httpx.get(url, headers=_token(said), trust_env=False, timeout=60).json()
    return [next(one["id"] for one in cards if Path(one["path"]).is_relative_to(path.resolve())) for path in paths]


def _token(said: dict[str, Any]) -> dict[str, str]:
    return {"Authorization": f"Bearer {said['token']}"}


@contextmanager
def served(paths: list[Path], db: Path) -> Iterator[dict[str, Any]]:
    """A server of its own process; what it says of itself when it starts."""
    command = [sys.executable, "-m", "monoscope", "serve", *map(str, paths), "--port", "0", "--json"]
    process = subprocess.Popen([*command, "--set", f"server.db={db}"], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())
    finally:
        process.terminate()
        process.wait()


def _large(where: Path) -> Path:
    large_bundle(where / "large.mono", 131_072, 2_000_000)
    return where / "large.mono"


def _demo(where: Path) -> Path:
    from monoscope.demo.run import run

    run(where / "demo", scale=0.1)
    return where / "demo"


if __name__ == "__main__":
    main()
