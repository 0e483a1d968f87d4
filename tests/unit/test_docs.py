"""The documentation says what is so: links lead somewhere, code compiles, configurations load."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

import pytest
import yaml

import monoscope
from monoscope.cli.configs import AnalyzeConfig, EvaluateConfig, HarvestConfig, ReportConfig, TrainConfig, merged
from monoscope.core.config import Config

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
EXAMPLES = [path for folder in ("examples", "recipes") for path in sorted((ROOT / folder).glob("*.toml"))]
CONFIGS: dict[str, type[Config]] = {
    "harvest": HarvestConfig,
    "train": TrainConfig,
    "evaluate": EvaluateConfig,
    "analyze": AnalyzeConfig,
}


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(), flags=re.DOTALL)
    targets = re.findall(r"\]\(([^)\s]+)\)", text)
    missing = [t for t in targets if "://" not in t and not (page.parent / t.partition("#")[0]).exists()]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_python_compiles_and_its_names_exist(page: Path) -> None:
    for block in blocks(page, "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "monoscope":
                assert node.attr in monoscope.__all__


@pytest.mark.parametrize(
    ("page", "config", "base"),
    [
        ("harvest", HarvestConfig, {"sites": ["1.resid_post"]}),
        ("train", TrainConfig, {"reads": ["1.resid_post"]}),
        ("examine", EvaluateConfig, {"dictionary": "runs/sae"}),
        ("snapshots", EvaluateConfig, {"dictionary": "runs/sae"}),
    ],
)
def test_configurations_in_how_tos_load(page: str, config: type[Config], base: dict[str, object]) -> None:
    found = blocks(ROOT / "docs" / "how-to" / f"{page}.md", "toml")
    assert found
    for block in found:
        table = tomllib.loads(block)
        if "suite" not in table:
            config.from_dict(merged(base, table))
        else:  # which names its own sites, and is reported on as a whole
            (ReportConfig if config is EvaluateConfig else config).from_dict(table)


@pytest.mark.parametrize("path", EXAMPLES, ids=name)
def test_examples_load_and_say_how_they_are_run(path: Path) -> None:
    head = path.read_text().splitlines()[0]
    said = re.fullmatch(rf"# monoscope (\w+) {name(path)} --out runs/\S+", head)
    assert said is not None, head
    is_report = said[1] == "evaluate" and "suite" in tomllib.loads(path.read_text())
    settings = (ReportConfig if is_report else CONFIGS[said[1]]).load(path)
    assert settings.from_dict(settings.to_dict()) == settings


def test_every_example_named_exists() -> None:
    named = {path for page in PAGES for path in re.findall(r"(?:examples|recipes)/\w+\.toml", page.read_text())}
    assert named
    assert all((ROOT / path).is_file() for path in named)


def test_decisions_are_numbered_and_say_the_three_things() -> None:
    pages = sorted((ROOT / "docs" / "decisions").glob("*.md"))
    assert [page.name[:4] for page in pages] == [f"{number:04}" for number in range(1, len(pages) + 1)]
    for page in pages:
        said = re.findall(r"^\*\*(\w+)\.\*\*", page.read_text(), re.MULTILINE)
        assert said == ["Context", "Choice", "Price"], page.name


def test_the_version_is_said_once() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == monoscope.__version__
    assert "## [Unreleased]" in (ROOT / "CHANGELOG.md").read_text()
