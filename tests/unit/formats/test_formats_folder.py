"""Folders: their own files, bounded, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from monoscope.formats.folder import MOST_DEPTH, MOST_TEXT, LocalFolder


@pytest.fixture
def folder(tmp_path: Path) -> LocalFolder:
    root = tmp_path / "set"
    (root / "layers.1").mkdir(parents=True)
    (root / ".hidden").mkdir()
    (root / ".hidden" / "x.json").write_text("{}")
    (root / "cfg.json").write_text('{"k": 3}')
    (root / "config.yaml").write_text("model_kind: transcoder_set\nlayers: [1, 2]\n")
    save_file({"W": torch.eye(3)}, root / "a.safetensors")
    save_file({"W": torch.eye(2)}, root / "layers.1" / "b.safetensors")
    (tmp_path / "secret.json").write_text('{"token": 1}')
    return LocalFolder(root)


def test_names_and_contents(folder: LocalFolder) -> None:
    assert folder.names() == ["a.safetensors", "cfg.json", "config.yaml", "layers.1/b.safetensors"]
    assert folder.json("cfg.json") == {"k": 3}
    assert folder.yaml("config.yaml") == {"model_kind": "transcoder_set", "layers": [1, 2]}
    assert folder.header("a.safetensors")["W"].shape == (3, 3)
    assert torch.equal(folder.tensor("layers.1/b.safetensors", "W").read(), torch.eye(2))
    assert folder.within("layers.1").names() == ["b.safetensors"]
    assert folder.within("layers.1").name.endswith("set/layers.1")


def test_what_is_missing_is_named_with_the_nearest(folder: LocalFolder) -> None:
    with pytest.raises(ValueError, match=r"has no file cgf.json; did you mean 'cfg.json'"):
        folder.json("cgf.json")
    with pytest.raises(ValueError, match=r"a.safetensors has no tensor 'V'; known: W"):
        folder.tensor("a.safetensors", "V")
    with pytest.raises(ValueError, match="has no directory layers.2"):
        folder.within("layers.2")
    with pytest.raises(ValueError, match="there is nothing at"):
        LocalFolder("no/such/place")


@pytest.mark.parametrize("name", ["../secret.json", "/etc/passwd", "layers.1/../../secret.json", "a\\b", "", "x\0"])
def test_names_that_climb_out_are_refused(folder: LocalFolder, name: str) -> None:
    with pytest.raises(ValueError, match="leads out of it"):
        folder.text(name)


def test_directories_that_climb_out_are_refused(folder: LocalFolder) -> None:
    with pytest.raises(ValueError, match=r"has no directory \.\."):
        folder.within("..")


def test_links_that_lead_out_are_refused(folder: LocalFolder, tmp_path: Path) -> None:
    (folder.root / "out.json").symlink_to(tmp_path / "secret.json")
    (folder.root / "in.json").symlink_to(folder.root / "cfg.json")
    (folder.root / "elsewhere").symlink_to(tmp_path)
    folder = LocalFolder(folder.root)
    assert folder.json("in.json") == {"k": 3}
    with pytest.raises(ValueError, match=r"out.json is a link that leads out"):
        folder.json("out.json")
    assert not any(name.startswith("elsewhere") for name in folder.names())
    with pytest.raises(ValueError, match="has no directory elsewhere"):
        folder.within("elsewhere")


def test_the_cache_of_the_hub_may_link_to_its_blobs(tmp_path: Path) -> None:
    repository = tmp_path / "models--org--sae"
    (repository / "blobs").mkdir(parents=True)
    (repository / "blobs" / "abc").write_text('{"k": 5}')
    snapshot = repository / "snapshots" / "123"
    (snapshot / "layer").mkdir(parents=True)
    (snapshot / "cfg.json").symlink_to("../../blobs/abc")
    (snapshot / "layer" / "cfg.json").symlink_to("../../../blobs/abc")
    assert LocalFolder(snapshot).json("cfg.json") == {"k": 5}
    assert LocalFolder(snapshot / "layer").json("cfg.json") == {"k": 5}


def test_a_file_has_its_configuration_beside_it_and_no_other_tensors(folder: LocalFolder) -> None:
    save_file({"W": torch.eye(4)}, folder.root / "other.safetensors")
    one = LocalFolder(folder.root / "a.safetensors")
    assert one.focus == "a.safetensors"
    assert one.names() == ["a.safetensors", "cfg.json", "config.yaml"]


def test_sizes_are_bounded(folder: LocalFolder) -> None:
    (folder.root / "big.json").touch()
    with (folder.root / "big.json").open("r+b") as file:
        file.truncate(MOST_TEXT + 1)
    deep = folder.root.joinpath(*["d"] * (MOST_DEPTH + 1))
    with pytest.raises(ValueError, match=r"big.json has 16,777,217 bytes"):
        LocalFolder(folder.root).json("big.json")
    deep.mkdir(parents=True)
    with pytest.raises(ValueError, match=f"more than {MOST_DEPTH} directories deep"):
        LocalFolder(folder.root).names()


def test_configurations_that_are_none_are_refused_by_name(folder: LocalFolder) -> None:
    for name, text, said in [
        ("x.json", "{", "x.json is not JSON"),
        ("x.json", "[" * 100_000, "x.json is not JSON"),
        ("x.json", "[1]", "x.json holds a list"),
        ("x.yaml", "a: [", "x.yaml is not YAML"),
        ("x.yaml", "a: &a [1]\nb: *a", "refers to its own parts"),
        ("x.yaml", "a: !!python/object/apply:os.system ['true']", "x.yaml is not YAML"),
        ("x.yaml", "words", "x.yaml holds a str"),
        ("x.yaml", "[" * 100_000, "too large or too deep"),
    ]:
        (folder.root / name).write_text(text)
        with pytest.raises(ValueError, match=said):
            (LocalFolder(folder.root).json if name.endswith("json") else LocalFolder(folder.root).yaml)(name)
    (folder.root / "x.json").write_bytes(b"\xff\xfe{}")
    with pytest.raises(ValueError, match="not text in UTF-8"):
        LocalFolder(folder.root).json("x.json")
