"""What the interface is made of: exact packages from the public registry, and an initial script that stays small."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
UI, BUILT = ROOT / "ui", ROOT / "src" / "monoscope" / "_ui"
MOST_SCRIPT, MOST_ELEMENTS = 250_000, 300_000


def lock() -> dict[str, Any]:
    return json.loads((UI / "package-lock.json").read_text())


def test_packages_are_exact_and_hashed() -> None:
    package = json.loads((UI / "package.json").read_text())
    wanted = {**package["dependencies"], **package["devDependencies"]}
    assert all(re.fullmatch(r"\d+\.\d+\.\d+", version) for version in wanted.values()), wanted
    for name, entry in lock()["packages"].items():
        assert not name or entry["integrity"].startswith("sha512-"), name
        assert "resolved" not in entry, name  # an address would be that of whoever wrote the file


def test_the_bundler_has_a_binding_for_every_platform() -> None:
    bindings = {name.rsplit("binding-", 1)[1] for name in lock()["packages"] if "/binding-" in name}
    assert {"linux-x64-gnu", "linux-arm64-gnu", "darwin-arm64", "darwin-x64", "win32-x64-msvc"} <= bindings


def test_no_markup_is_made_of_strings() -> None:
    for file in (UI / "src").rglob("*"):
        if file.suffix in (".svelte", ".ts"):
            for bad in ("{@html", "innerHTML", "outerHTML", "insertAdjacentHTML", "eval(", "new Function"):
                assert bad not in file.read_text(), f"{file} has {bad}: untrusted text may only become text nodes"


@pytest.fixture
def manifest() -> dict[str, Any]:
    if not (BUILT / "manifest.json").is_file():
        pytest.skip("the interface is not built: python ui/build.py")
    return json.loads((BUILT / "manifest.json").read_text())


def test_the_initial_script_stays_small(manifest: dict[str, Any]) -> None:
    def files(entry: str, seen: set[str]) -> set[str]:
        if entry not in seen:
            seen.add(entry)
            for other in manifest[entry].get("imports", []):
                files(other, seen)
        return seen

    scripts = {manifest[name]["file"] for name in files("index.html", set())}
    size = sum(len(gzip.compress((BUILT / script).read_bytes())) for script in scripts)
    assert size < MOST_SCRIPT, f"{scripts} are {size} bytes compressed"


def test_what_was_built_names_no_other_host(manifest: dict[str, Any]) -> None:
    page = (BUILT / "index.html").read_text()
    assert not re.search(r"""(?:src|href)=["'](?:https?:)?//""", page)
    assert not re.search(r"<script(?![^>]*\bsrc=)", page), "the content policy refuses scripts in the page"
    for style in BUILT.glob("assets/*.css"):
        assert not re.search(r"url\((?!data:)", style.read_text()), style


def test_the_elements_are_one_small_module() -> None:
    module = BUILT / "elements.js"
    if not module.is_file():
        pytest.skip("the interface is not built: python ui/build.py")
    assert len(gzip.compress(module.read_bytes())) < MOST_ELEMENTS
    assert not re.findall(r"""(?:^|[;}\s])import\s*(?:[\w{*]|["'(])""", module.read_text()), "it imports another file"
