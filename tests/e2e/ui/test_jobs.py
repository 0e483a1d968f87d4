"""Jobs: what the queue holds, how far it is, what it made, and calling it off."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from playwright.sync_api import Page, expect
from ui_pages import settle

LONG = 120_000  # milliseconds, on a busy machine


def queued(served: Any, path: str, **body: Any) -> str:
    headers = {"Authorization": f"Bearer {served.token}"}
    answer = httpx.post(f"{served.address}/api/v1/{path}", json=body, headers=headers)
    return answer.raise_for_status().json()["id"]


@pytest.fixture
def page(visit: Callable[..., Any], library: Any) -> Page:
    return visit("/jobs", at=library)


def test_without_jobs_the_page_says_what_they_are(visit: Callable[..., Any], start: Any, demo: Any) -> None:
    page = visit("/", at=start(demo))
    page.get_by_role("navigation", name="Pages").get_by_role("link", name="Jobs").click()
    settle(page)
    expect(page.get_by_role("main")).to_contain_text("No jobs yet")
    page.get_by_role("main").get_by_role("link", name="Compare dictionaries").click()
    expect(page.get_by_role("heading", name="Compare", exact=True)).to_be_visible()


def test_the_command_bar_leads_here(visit: Callable[..., Any], library: Any) -> None:
    page = visit("/search", at=library)
    page.keyboard.press("Control+k")
    page.keyboard.type("jobs")
    page.get_by_role("option", name="Jobs").first.click()
    expect(page.get_by_role("heading", name="Jobs", exact=True)).to_be_visible()


def test_a_job_leads_to_what_it_made(page: Page, library: Any) -> None:
    queued(library, "compare", dicts=["demo", "small"], threshold=0.31)
    link = page.locator("a[href*='t=0.31']")  # others of the same server compared the same two before
    expect(page.get_by_role("listitem").filter(has=link)).to_contain_text("took", timeout=LONG)
    link.click()
    settle(page)
    expect(page.get_by_role("region", name="Pairs")).to_be_visible()
    assert "t=0.31" in page.url


def test_an_evaluation_shows_its_progress_and_its_numbers_and_is_called_off(page: Page, library: Any) -> None:
    queued(library, "jobs", kind="evaluate", dict="demo", tokens=10_000_000)
    line = page.get_by_role("listitem").filter(has_text="Evaluate demo").first
    expect(line.get_by_role("progressbar")).to_be_visible(timeout=LONG)
    expect(line.get_by_role("status")).to_contain_text("left", timeout=LONG)
    line.get_by_role("button", name="Cancel").click()
    expect(line).to_contain_text("Called off", timeout=LONG)
    expect(line.get_by_role("button", name="Cancel")).to_have_count(0)


def test_jobs_are_chosen_by_their_state(page: Page, library: Any) -> None:
    for _ in range(2):
        queued(library, "compare", dicts=["demo", "small"], threshold=0.4)
    first = page.get_by_role("listitem").filter(has_text="Compare demo, small").first
    expect(first).to_contain_text("took", timeout=LONG)
    page.goto(f"{library.address}/jobs?state=failed")
    settle(page)
    expect(page.get_by_role("main")).to_contain_text("No job is in this state")
    page.get_by_role("button", name="All jobs").click()
    expect(first).to_be_visible()


def test_the_log_of_a_job_grows_while_it_runs_and_is_saved(page: Page, library: Any, tmp_path: Path) -> None:
    queued(library, "jobs", kind="evaluate", dict="small", tokens=10_000_000)
    line = page.get_by_role("listitem").filter(has_text="Evaluate small").first
    line.get_by_role("button", name="Log").click()
    log = line.get_by_role("log")
    expect(log).to_contain_text("begins", timeout=LONG)
    expect(line).to_contain_text("goes on")
    before = log.get_by_role("listitem").count()
    line.get_by_role("button", name="Cancel").click()
    expect(log).to_contain_text("asked to stop", timeout=LONG)
    expect(log.get_by_role("listitem").last).to_contain_text("called off", timeout=LONG)
    assert log.get_by_role("listitem").count() > before
    expect(line).not_to_contain_text("goes on")
    page.reload()
    settle(page)
    with page.expect_download() as download:
        line.get_by_role("button", name="Save").click()
    download.value.save_as(tmp_path / "job.log")
    saved = (tmp_path / "job.log").read_text().splitlines()
    assert saved[0].endswith("state waits")
    assert saved[-1].endswith("state called off")
    line.get_by_role("button", name="Log").click()
    expect(log).to_have_count(0)


def test_the_log_of_a_failed_job_says_why(page: Page, library: Any) -> None:
    job = queued(library, "jobs", kind="evaluate", dict="early", tokens=10_000_000)
    line = page.get_by_role("listitem").filter(has_text="Evaluate early").first
    expect(line.get_by_role("status")).to_contain_text("left", timeout=LONG)
    for process in psutil.Process(library.process.pid).children():
        if "monoscope.server.worker" in " ".join(process.cmdline()):
            process.kill()
    expect(line).to_contain_text("Failed", timeout=LONG)
    page.goto(f"{library.address}/jobs?log={job}")
    settle(page)
    last = line.get_by_role("log").get_by_role("listitem").last
    expect(last).to_contain_text("failed: the worker stopped (signal 9")
