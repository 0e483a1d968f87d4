"""The registry: releases, searching them, and references to what is in them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from published_files import canonical, write_npz

from monoscope import formats
from monoscope.core.errors import ConfigError, DataError
from monoscope.core.site import Site
from monoscope.formats.layouts import LAYOUTS
from monoscope.registry import releases, resolve, search


@pytest.fixture(autouse=True)
def _no_file_of_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MONOSCOPE_REGISTRY", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


def test_what_is_registered_can_be_meant() -> None:
    known = releases()
    assert len(known) > 50
    layouts = {layout.name for layout in LAYOUTS}
    for name, release in known.items():
        assert release.name == name
        assert release.at.startswith(("hf://", "az://")), name
        assert release.layout in layouts, name
        assert "{" not in release.at + release.model + release.title, name
        for one in release.sets:
            for place in filter(None, (one.reads, one.writes)):
                if place.startswith("every layer"):
                    continue
                assert Site.parse(place.replace("{layer}", "7")), name
            assert set(one.values) <= set(one.pattern(one.path).groupindex), name


def test_search_wants_all_words() -> None:
    assert {release.name for release in search(["QWEN3-8b", "k = 50"])} == {"SAE-Res-Qwen3-8B-Base-W64K-L0_50"}
    assert {release.layout for release in search(["qwen3"])} == {"qwen_scope"}
    assert len(search(["qwen3"])) == 14
    assert search(["gemma", "transcoders", "mlp_normalized"])[0].name == "gemma-scope-2b-pt-transcoders"
    assert search(["nothing of the kind"]) == []
    assert len(search([])) == len(releases())


@pytest.mark.parametrize(
    ("ref", "where", "values"),
    [
        ("registry:gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71",
         "hf://google/gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71",
         {"layer": "20", "width": "16k", "l0": "71"}),
        ("registry:gemma-scope-2b-pt-res/layer_20", "hf://google/gemma-scope-2b-pt-res/layer_20", {"layer": "20"}),
        ("registry:gemma-scope-2b-pt-res/embedding/width_4k/average_l0_6",
         "hf://google/gemma-scope-2b-pt-res/embedding/width_4k/average_l0_6", {"width": "4k", "l0": "6"}),
        ("registry:gemma-scope-2-1b-pt/transcoder_all/layer_5_width_16k_l0_big_affine",
         "hf://google/gemma-scope-2-1b-pt/transcoder_all/layer_5_width_16k_l0_big_affine",
         {"folder": "transcoder_all", "layer": "5", "width": "16k", "l0": "big_affine"}),
        ("registry:Llama3_1-8B-Base-LXR-8x/Llama3_1-8B-Base-L5R-8x",
         "hf://fnlp/Llama3_1-8B-Base-LXR-8x/Llama3_1-8B-Base-L5R-8x", {"layer": "5"}),
        ("registry:sae-res-qwen3-1.7b-base-w32k-l0_50/layer27.sae.pt",
         "hf://Qwen/SAE-Res-Qwen3-1.7B-Base-W32K-L0_50/layer27.sae.pt", {"layer": "27"}),
        ("registry:Llama-3.1-8B-Instruct-SAE-l19", "hf://Goodfire/Llama-3.1-8B-Instruct-SAE-l19", {}),
        ("registry:clt-llama-3.2-1b-524k", "hf://mntss/clt-llama-3.2-1b-524k", {}),
    ],
)  # fmt: skip
def test_references(ref: str, where: str, values: dict[str, str]) -> None:
    found = resolve(ref)
    assert (found.ref, dict(found.values), found.feature) == (where, values, None)


@pytest.mark.parametrize(
    ("ref", "where", "feature"),
    [
        ("gemma-2-2b/20-gemmascope-res-16k/4232", "hf://google/gemma-scope-2b-pt-res/layer_20/width_16k", 4232),
        ("gemma-2-9b/9-gemmascope-res-131k", "hf://google/gemma-scope-9b-pt-res/layer_9/width_131k", None),
        ("https://www.neuronpedia.org/gemma-2-2b/22-gemmascope-transcoder-16k/7",
         "hf://google/gemma-scope-2b-pt-transcoders/layer_22/width_16k", 7),
        ("llama3.1-8b/15-llamascope-res-32k/1", "hf://fnlp/Llama3_1-8B-Base-LXR-8x/Llama3_1-8B-Base-L15R-8x", 1),
        ("llama3.1-8b/15-llamascope-mlp-131k/1", "hf://fnlp/Llama3_1-8B-Base-LXM-32x/Llama3_1-8B-Base-L15M-32x", 1),
        ("deepseek-r1-distill-llama-8b/15-llamascope-slimpj-openr1-res-32k/3",
         "hf://fnlp/Llama-Scope-R1-Distill/400M-Slimpajama-400M-OpenR1-Math-220k/L15R", 3),
        ("deepseek-r1-distill-llama-8b/15-llamascope-slimpj-res-32k",
         "hf://fnlp/Llama-Scope-R1-Distill/800M-Slimpajama-0-OpenR1-Math-220k/L15R", None),
    ],
)  # fmt: skip
def test_references_of_neuronpedia(ref: str, where: str, feature: int | None) -> None:
    found = resolve(ref)
    assert (found.ref, found.feature) == (where, feature)


@pytest.mark.parametrize(
    ("ref", "says"),
    [
        ("registry:gemma-scope-2b-pt-ress", "did you mean 'gemma-scope-2b-pt-res'"),
        ("registry:SAE-Res-Qwen3-1.7B-Base-W32K-L0_50/layer28.sae.pt", "layer is 0..27, found 28"),
        ("registry:SAE-Res-Qwen3-1.7B-Base-W32K-L0_50/layerx.sae.pt", "paths are layer{layer}.sae.pt .layer 0..27."),
        ("registry:gemma-scope-2b-pt-res/../other", "has nothing at ../other"),
        ("registry:Llama3_1-8B-Base-LXR-8x/Llama3_1-8B-Base-L5M-8x", "has nothing at"),
        ("gemma-2-2b/20-gemmascope-nothing-16k/4232", "no release is known that Neuronpedia calls"),
        ("registry:openai-gpt2-small-v5/resid_post_mlp_v5_32k/autoencoders/6.pt",
         "is not on the hub: fetch az://openaipublic/.*/6.pt, keep the names"),
        ("registry:openai-gpt2-small-v5/resid_post_mlp_v5_64k/autoencoders/6.pt", "width 32k | 128k"),
    ],
)  # fmt: skip
def test_references_to_nothing(ref: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        resolve(ref)


MINE = """
[[release]]
name = "mine-{size}"
at = "{at}"
model = "me/model-{size}"
layout = "gemma_scope"
rows = [{size = "s"}, {size = "m"}]

[[release.sets]]
path = "layer_{layer}"
reads = "{layer}.mlp_out"
values = {layer = "0..3"}
choices = {set = "mlp"}
"""


def test_the_users_own_registry_is_opened_with_its_choices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "dictionaries"
    write_npz(place / "layer_2" / "params.npz", canonical(16, 24))
    own = tmp_path / "config" / "monoscope" / "registry.toml"
    own.parent.mkdir(parents=True)
    own.write_text(MINE.replace("{at}", str(place)))
    assert [release.name for release in search(["mine"])] == ["mine-s", "mine-m"]
    opened = formats.open("registry:mine-s/layer_2")
    assert opened.table["reads"] == ["2.mlp_out"]
    assert opened.about.chosen["set"] == "mlp"
    assert formats.open("registry:mine-s/layer_2", set="res").table["reads"] == ["2.resid_post"]
    with pytest.raises(ConfigError, match="layer is 0..3, found 4"):
        formats.open("registry:mine-s/layer_4")
    with pytest.raises(DataError, match="there is nothing at .*/layer_3"):
        formats.open("registry:mine-s/layer_3")
    other = tmp_path / "other.toml"
    other.write_text(MINE.replace("{at}", "x").replace("mine-{size}", "gemma-scope-2b-pt-res"))
    monkeypatch.setenv("MONOSCOPE_REGISTRY", str(other))
    assert releases()["gemma-scope-2b-pt-res"].at == "x"
    assert search(["mine"]) == []


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[[releases]]\nname = 'a'", "unknown key 'releases'; did you mean 'release'"),
        ("[[release]]\nname = 'a'\nat = 'x'\nwhere = 'y'", "release 'a': .*unknown key 'where'"),
        ("[[release]]\nname = 'a'", "release 'a': .*at"),
        ("[[release]]\nname = 'a/b'\nat = 'x'", "a name is made of letters, digits"),
        ("release = 3", r"releases are written as \[\[release\]\]"),
        ("[[release]]\nname = 'a'\nat = 'x'\nrows = 3", "rows of 'a' are tables"),
        ("[[release]]\nname = 'a'\nat = 'x'\n[[release.sets]]\nvalues = {layer = '3'}", "or a range such as '0..27'"),
        ("what", "is not TOML"),
    ],
)
def test_a_registry_that_cannot_be_meant(text: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "registry.toml"
    path.write_text(text)
    monkeypatch.setenv("MONOSCOPE_REGISTRY", str(path))
    with pytest.raises(ConfigError, match=says):
        releases()
    monkeypatch.setenv("MONOSCOPE_REGISTRY", str(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match="no file is there"):
        releases()


def test_revisions_stay_behind_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "registry.toml"
    path.write_text("[[release]]\nname = 'a'\nat = 'hf://me/mine@v1'")
    monkeypatch.setenv("MONOSCOPE_REGISTRY", str(path))
    assert resolve("registry:a/b/c").ref == "hf://me/mine/b/c@v1"
    assert resolve("registry:a").ref == "hf://me/mine@v1"


def test_the_registry_needs_no_torch() -> None:
    code = (
        "import sys, monoscope.cli.registry, monoscope.cli.app; print([n in sys.modules for n in ('torch', 'numpy')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[False, False]"
