"""A server of the bundled model's own features, a browser, and pages that are watched for what must not happen."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright
from ui_pages import settle

ROOT = Path(__file__).parents[3]
PATIENCE = 30_000  # milliseconds: a busy machine makes a page slow, not wrong
expect.set_options(timeout=PATIENCE)
BUILT = ROOT / "src" / "monoscope" / "_ui" / "index.html"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
# Nothing of the browser's own reaches out, and no name resolves; the sandbox needs rights that containers lack.
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    lacking = (
        "needs Chromium on PATH"
        if CHROMIUM is None
        else None
        if BUILT.is_file()
        else "the interface is not built: python ui/build.py"
    )
    for item in items:
        if Path(item.fspath).is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.slow)
            if lacking:
                item.add_marker(pytest.mark.skip(reason=lacking))


@dataclass
class Served:
    """A running ``monoscope serve``."""

    process: subprocess.Popen[str]
    address: str
    url: str
    token: str
    admitted: dict[str, Any] | None = None  # cookies of a browser that was let in


def serve(paths: list[Path], workspace: Path, *settings: str) -> Served:
    """``monoscope serve`` on a free port; its URL is the first thing it prints."""
    command = [sys.executable, "-m", "monoscope", "serve", *map(str, paths), "--port", "0", "--json"]
    for setting in (f"server.db={workspace}", "server.author=tester", *settings):
        command += ["--set", setting]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "src")}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        process.kill()
        raise AssertionError(f"the server did not start: {process.communicate()[1]}")
    said = json.loads(line)
    return Served(process, said["address"].rstrip("/"), said["url"], said["token"])


def stop(served: Served) -> None:
    served.process.terminate()
    served.process.communicate(timeout=20)


def make(out: Path, site: str, n_features: int, seed: int = 0, *further: str) -> Path:
    """A run as ``monoscope demo`` leaves it, small: a dictionary of the bundled model, and its features.

    One of several sites is a crosscoder of them.
    """
    from monoscope.demo import MODEL
    from monoscope.dictionaries import Recipe
    from monoscope.features import Analysis, analyze
    from monoscope.harvest import StandardLibrary, live
    from monoscope.models import LanguageModel
    from monoscope.training import Training, train

    lm = LanguageModel.from_pretrained(MODEL)
    lm.name = "bundled"
    text = StandardLibrary(split="train").windows(lm, tokens=40_000)
    sites = [site, *further]
    wiring = {"kind": "crosscoder" if further else "autoencoder", "n_features": n_features}
    recipe = Recipe.from_dict({"wiring": wiring, "function": {"kind": "topk", "k": 16}})
    dictionary = train(
        recipe,
        live(lm, text.shuffled(seed), sites),
        reads=sites,
        training=Training(tokens=text.n_tokens, seed=seed),
        out=out / "dictionary",
    )
    analyze(dictionary, live(lm, text, sites), out / "features.mono", lm=lm, config=Analysis(tokens=20_000))
    return out


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("ui") / "demo", "2.resid_post", 384)


@pytest.fixture(scope="session")
def family(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The demo beside a dictionary of another layer and a smaller one of the same."""
    out = tmp_path_factory.mktemp("family")
    return [demo, make(out / "early", "1.resid_post", 192), make(out / "small", "2.resid_post", 256, seed=1)]


@pytest.fixture(scope="session")
def crosscoders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A crosscoder of two layers, twice: its features and their twins are partners."""
    out = tmp_path_factory.mktemp("crosscoders")
    made = make(out / "cross", "1.resid_post", 128, 0, "2.resid_post")
    return [made, shutil.copytree(made, out / "twin")]


@pytest.fixture(scope="session")
def library(family: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server of all three, with the model loaded."""
    served = serve(family, tmp_path_factory.mktemp("library") / "workspace.db")
    answer = httpx.post(
        f"{served.address}/api/v1/worker/warm",
        json={"dicts": ["demo", "early", "small"]},
        headers={"Authorization": f"Bearer {served.token}"},
        timeout=300,
    )
    assert answer.status_code == 200, answer.text
    yield served
    stop(served)


@pytest.fixture(scope="session")
def server(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    served = serve([demo], tmp_path_factory.mktemp("workspace") / "workspace.db")
    yield served
    stop(served)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Served]]:
    """Starts further servers, of paths, with settings; they are stopped after the test."""
    running: list[Served] = []

    def run(*paths: Path, settings: tuple[str, ...] = ()) -> Served:
        running.append(serve(list(paths), tmp_path / f"workspace-{len(running)}.db", *settings))
        return running[-1]

    yield run
    for served in running:
        stop(served)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A browser for one file of tests: while it runs, this process has an event loop that no other may run beside."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@dataclass
class Watch:
    """What pages did that they must not: errors, refusals of the content policy, requests to anywhere else."""

    faults: list[str] = field(default_factory=list)
    allowed: list[str] = field(default_factory=list)

    def allow(self, *texts: str) -> None:
        """Faults with one of these texts are what the test is about."""
        self.allowed += texts

    def page(self, page: Page, origin: str) -> None:
        page.on("console", lambda message: self._console(message))
        page.on("pageerror", lambda error: self.faults.append(f"error: {error}"))
        page.on("request", lambda request: self._request(request.url, origin))

    def _console(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.faults.append(f"console: {message.text} {message.location.get('url', '')}")

    def _request(self, url: str, origin: str) -> None:
        if not url.startswith((origin, "data:", "blob:")):
            self.faults.append(f"request to {url}")

    def left(self) -> list[str]:
        return [fault for fault in self.faults if not any(text in fault for text in self.allowed)]


@pytest.fixture
def watch() -> Iterator[Watch]:
    watch = Watch()
    yield watch
    assert not watch.left(), watch.left()


Visit = Callable[..., Page]


@pytest.fixture
def visit(browser: Browser, server: Served, watch: Watch, start: Callable[..., Served]) -> Iterator[Visit]:
    """Opens a page of the interface in a fresh profile, let in by the token, and waits until it is at rest.

    Pages close before the servers that ``start`` started do.
    """
    del start
    contexts = []

    def open_page(
        path: str = "/", *, theme: str = "light", size: tuple[int, int] = (1360, 860), at: Served = server
    ) -> Page:
        context = browser.new_context(
            color_scheme=theme,  # type: ignore[arg-type]
            viewport={"width": size[0], "height": size[1]},
            reduced_motion="reduce",
            storage_state=at.admitted,  # type: ignore[arg-type]
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        watch.page(page, at.address)
        if at.admitted is None:
            page.goto(at.url)
            settle(page)
            at.admitted = {"cookies": context.cookies(), "origins": []}
        page.goto(at.address + path)
        settle(page)
        return page

    yield open_page
    for context in contexts:
        context.close()
