"""The hub: what is fetched, what is read by range, what the cache gives offline, and how refusals are explained."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
from dictionary_cases import IN, OUT, build
from hub_server import Hub, environment, serving
from published_files import arrays, write_safetensors

from monoscope import formats
from monoscope.core.errors import DataError, HubError, MismatchError
from monoscope.dictionaries import Autoencoder, Dictionary
from monoscope.dictionaries.variants import TopK
from monoscope.formats import hub_file
from monoscope.formats.hub import open_hub
from monoscope.formats.hub_file import HubRef


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub on this machine, an empty cache, and no token."""
    with serving() as hub, environment(hub, tmp_path, monkeypatch):
        yield hub


def files_of(dictionary: Dictionary, path: Path, prefix: str = "") -> dict[str, bytes]:
    """A dictionary's files, as a repository holds them."""
    dictionary.save(path, force=True)
    return {prefix + file.name: file.read_bytes() for file in path.iterdir()}


def large(n_features: int = 20_000, d: int = 64) -> Dictionary:
    """A transcoder of 10 MB."""
    dictionary = Autoencoder.Config(n_features=n_features).build(TopK.Config(k=2), (IN,), (OUT,), {IN: d, OUT: d})
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in dictionary.parameters():
            parameter.normal_(generator=generator)
    return dictionary


@pytest.mark.parametrize(
    ("ref", "parts"),
    [
        ("hf://org/repo", ("org/repo", "", "main")),
        ("hf://org/repo/a/b.npz", ("org/repo", "a/b.npz", "main")),
        ("hf://org/repo@v1.0", ("org/repo", "", "v1.0")),
        ("hf://org/repo/layers.10@refs/pr/1", ("org/repo", "layers.10", "refs/pr/1")),
        ("hf://org/repo/a?revision=abc", ("org/repo", "a", "abc")),
    ],
)
def test_references(ref: str, parts: tuple[str, str, str]) -> None:
    parsed = HubRef.parse(ref)
    assert (parsed.repo, parsed.path, parsed.revision) == parts


@pytest.mark.parametrize(
    "ref", ["hf://org", "hf://org/repo/../x", "hf://org/repo//x", "hf://org/re po", "hf:/org/repo"]
)
def test_references_that_cannot_be_read(ref: str) -> None:
    with pytest.raises(HubError, match="write hf://org/repo"):
        HubRef.parse(ref)


def test_a_dictionary_is_loaded_from_the_hub_and_then_from_the_cache(hub: Hub, tmp_path: Path) -> None:
    dictionary = build("topk")
    repo = hub.repo("org/sae", files_of(dictionary, tmp_path / "d"), card={"license": "apache-2.0"})
    opened = formats.open("hf://org/sae")
    assert opened.about.license == "apache-2.0"
    assert opened.about.where == f"hf://org/sae@{repo.revisions['main']}"
    assert opened.dictionary().fingerprint() == dictionary.frozen().fingerprint()
    hub.requests.clear()
    assert formats.load("hf://org/sae").fingerprint() == dictionary.frozen().fingerprint()
    assert hub.requests == ["GET /api/models/org/sae/revision/main"]
    path = huggingface_hub.try_to_load_from_cache("org/sae", "config.toml", cache_dir=os.environ["HF_HUB_CACHE"])
    assert isinstance(path, str)
    assert Path(path).read_bytes() == repo.commits[repo.revisions["main"]]["config.toml"]


def test_a_checkpoint_of_torch_distributed_has_its_hidden_index(hub: Hub) -> None:
    golden = Path(__file__).parents[2] / "golden" / "llamascopium" / "transcoder_dcp"
    files = {path.relative_to(golden).as_posix(): path.read_bytes() for path in golden.rglob("*") if path.is_file()}
    hub.repo("org/checkpoint", files | {".gitattributes": b"x"})
    opened = formats.open("hf://org/checkpoint")
    assert ".gitattributes" not in open_hub("hf://org/checkpoint").names()
    assert torch.equal(opened.tensors["W_dec"].read(), formats.open(golden).tensors["W_dec"].read())


def test_directories_files_and_revisions(hub: Hub, tmp_path: Path) -> None:
    one, two = build("topk", seed=1), build("topk", seed=2)
    repo = hub.repo("org/set", files_of(one, tmp_path / "d", "layers.1/"))
    old = repo.revisions["main"]
    repo.commit(files_of(two, tmp_path / "d", "layers.1/") | {"README.md": b"words"})
    assert formats.load("hf://org/set/layers.1").fingerprint() == two.frozen().fingerprint()
    assert formats.load(f"hf://org/set/layers.1@{old}").fingerprint() == one.frozen().fingerprint()
    folder = open_hub("hf://org/set/layers.1/weights.safetensors")
    assert (folder.focus, folder.names()) == ("weights.safetensors", ["config.toml", "weights.safetensors"])
    assert open_hub("hf://org/set").within("layers.1").names() == ["config.toml", "weights.safetensors"]
    with pytest.raises(HubError, match=r"org/set has nothing at layers.2; did you mean 'layers.1'"):
        formats.open("hf://org/set/layers.2")
    with pytest.raises(DataError, match="leads out of it"):
        folder.text("../secret")


def test_published_sets_are_opened_by_what_the_registry_and_neuronpedia_call_them(hub: Hub, tmp_path: Path) -> None:
    mix, hook = "400M-Slimpajama-400M-OpenR1-Math-220k", "blocks.15.hook_resid_post"
    w = arrays({"encoder.weight": (32, 8), "encoder.bias": (32,), "decoder.weight": (8, 32), "decoder.bias": (8,)})
    w |= {"log_jumprelu_threshold": np.zeros(32, np.float32), f"dataset_average_activation_norm.{hook}": np.float32(2)}
    write_safetensors(tmp_path / "w.safetensors", w)
    config = json.dumps({"d_model": 8, "hook_point_in": hook, "hook_point_out": hook}).encode()
    files = {"sae_weights.safetensors": (tmp_path / "w.safetensors").read_bytes(), "config.json": config}
    layers = {f"{mix}/L{layer}R/{name}": data for layer in (15, 16) for name, data in files.items()}
    repo = hub.repo("fnlp/Llama-Scope-R1-Distill", layers)
    by_registry = formats.open(f"registry:Llama-Scope-R1-Distill/{mix}/L15R")
    by_neuronpedia = formats.open("deepseek-r1-distill-llama-8b/15-llamascope-slimpj-openr1-res-32k/3")
    for opened in (by_registry, by_neuronpedia):
        assert opened.layout == "r1_distill"
        assert opened.about.where == f"hf://fnlp/Llama-Scope-R1-Distill/{mix}/L15R@{repo.revisions['main']}"
        assert opened.table["acts_scale"] == pytest.approx(8**0.5 / 2)
    with pytest.raises(DataError, match="is a set of 2 dictionaries"):
        formats.open("registry:Llama-Scope-R1-Distill")
    with pytest.raises(MismatchError, match="says that it writes 15.resid_post, and its directory is called L16R"):
        formats.open(f"registry:Llama-Scope-R1-Distill/{mix}/L16R")
    pinned = f"hf://fnlp/Llama-Scope-R1-Distill/{mix}/L15R@{repo.revisions['main']}"
    assert formats.open(pinned).table == by_registry.table


def test_headers_and_rows_are_read_by_range(hub: Hub, tmp_path: Path) -> None:
    dictionary = large()
    hub.repo("org/big", files_of(dictionary, tmp_path / "d"))
    opened = formats.open("hf://org/big")
    assert opened.describe()["features"] == 20_000
    assert torch.equal(opened.direction(12_345), dictionary.get_parameter("W_dec")[12_345])
    weights = (tmp_path / "d" / "weights.safetensors").stat().st_size
    assert weights > 10e6
    assert hub.sent["weights.safetensors"] <= 2 * hub_file.BLOCK
    assert list((tmp_path / "cache").rglob("weights*")) == []
    assert opened.dictionary().fingerprint() == dictionary.frozen().fingerprint()


def test_much_of_a_file_is_fetched_whole_and_checked(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_file, "MOST_RANGED", 2**20)
    dictionary = large()
    hub.repo("org/big", files_of(dictionary, tmp_path / "d"))
    assert formats.load("hf://org/big").fingerprint() == dictionary.frozen().fingerprint()
    (blob,) = [
        path
        for path in (tmp_path / "cache").rglob("*")
        if path.is_file() and path.stat().st_size > 10e6 and not path.is_symlink()
    ]
    assert blob.name == hashlib.sha256(blob.read_bytes()).hexdigest()


def test_an_interrupted_download_goes_on_where_it_stopped(hub: Hub, tmp_path: Path) -> None:
    hub.repo("org/big", files_of(large(), tmp_path / "d"))
    size = (tmp_path / "d" / "weights.safetensors").stat().st_size
    folder = open_hub("hf://org/big")
    hub.breaks_after = 6_000_000
    with pytest.raises(HubError, match="no connection to the hub|of .* bytes came"):
        folder.path("weights.safetensors")
    hub.breaks_after = None
    hub.sent.clear()
    assert folder.path("weights.safetensors").read_bytes() == (tmp_path / "d" / "weights.safetensors").read_bytes()
    assert hub.sent["weights.safetensors"] <= size - 5_000_000
    assert list((tmp_path / "cache").rglob("*.partial")) == []


def test_a_server_without_ranges_is_read_whole_or_refused(hub: Hub, tmp_path: Path) -> None:
    hub.repo("org/big", files_of(large(), tmp_path / "d"))
    hub.ignores_ranges = True
    with pytest.raises(HubError, match="does not give parts"):
        formats.open("hf://org/big")
    folder = open_hub("hf://org/big")
    commit = folder.origin.rpartition("@")[2]
    oid = hashlib.sha256((tmp_path / "d" / "weights.safetensors").read_bytes()).hexdigest()
    partial = tmp_path / "cache" / "models--org--big" / "blobs" / f"{oid}.partial"
    partial.parent.mkdir(parents=True, exist_ok=True)
    partial.write_bytes(b"begun")
    assert folder.path("weights.safetensors").read_bytes() == (tmp_path / "d" / "weights.safetensors").read_bytes()
    assert folder.path("weights.safetensors").parent.name == commit


def test_what_arrives_broken_is_not_kept(hub: Hub, tmp_path: Path) -> None:
    hub.repo("org/big", files_of(large(), tmp_path / "d"))
    folder = open_hub("hf://org/big")
    oid = hashlib.sha256((tmp_path / "d" / "weights.safetensors").read_bytes()).hexdigest()
    partial = tmp_path / "cache" / "models--org--big" / "blobs" / f"{oid}.partial"
    partial.parent.mkdir(parents=True, exist_ok=True)
    partial.write_bytes(b"something else")
    with pytest.raises(HubError, match="arrived broken"):
        folder.path("weights.safetensors")
    assert list((tmp_path / "cache").rglob("*.partial")) == []
    assert folder.path("weights.safetensors").read_bytes() == (tmp_path / "d" / "weights.safetensors").read_bytes()


def test_offline_the_cache_is_opened(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dictionary = build("topk")
    repo = hub.repo("org/sae", files_of(dictionary, tmp_path / "d", "a/") | {"b/config.toml": b""})
    formats.load("hf://org/sae/a")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    hub.requests.clear()
    opened = formats.open("hf://org/sae/a")
    assert opened.dictionary().fingerprint() == dictionary.frozen().fingerprint()
    assert opened.about.where == f"hf://org/sae/a@{repo.revisions['main']}"
    assert hub.requests == []
    with pytest.raises(
        HubError, match=r"hf://org/sae/b is not in the cache, which holds other files .* HF_HUB_OFFLINE"
    ):
        formats.open("hf://org/sae/b")
    with pytest.raises(HubError, match=r"hf://org/other is not in the cache, and the hub cannot be asked: HF_HUB_OFFL"):
        formats.open("hf://org/other")
    with pytest.raises(HubError, match=r"hf://org/sae/a/other.npz is not in the cache"):
        open_hub("hf://org/sae/a").blob("other.npz")


def test_without_a_network_the_cache_is_opened_too(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dictionary = build("topk")
    hub.repo("org/sae", files_of(dictionary, tmp_path / "d"))
    formats.load("hf://org/sae")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert formats.load("hf://org/sae").fingerprint() == dictionary.frozen().fingerprint()
    with pytest.raises(
        HubError, match=r"hf://org/other is not in the cache, .*: no connection to the hub \(ConnectError"
    ):
        formats.open("hf://org/other")


def test_refusals_of_the_hub_are_explained(hub: Hub, tmp_path: Path) -> None:
    hub.repo("org/gated", {"config.json": b"{}"}, gated=True)
    hub.repo("org/private", {"config.json": b"{}"}, private=True)
    hub.repo("org/empty", {})
    hub.repo("org/sae", {"x.json": b"{}"})
    for ref, said in [
        ("hf://org/gated", "org/gated is gated: accept its terms"),
        ("hf://org/private", "no repository org/private, or it is private"),
        ("hf://org/nothing", "no repository org/nothing"),
        ("hf://org/empty", "org/empty has nothing at"),
        ("hf://org/sae@v9", "org/sae has no revision 'v9'"),
    ]:
        with pytest.raises(HubError, match=said):
            formats.open(ref)
    with pytest.raises(DataError, match="is no dictionary of a known layout; found x.json"):
        formats.open("hf://org/sae")


def test_names_that_climb_out_of_a_repository_are_refused(hub: Hub, tmp_path: Path) -> None:
    hub.repo("org/evil", {"../../escape.json": b"{}", "/etc/x.json": b"{}", "ok.json": b"{}"})
    folder = open_hub("hf://org/evil")
    for name in ("../../escape.json", "/etc/x.json"):
        with pytest.raises(DataError, match="leads out of it"):
            folder.json(name)
    assert folder.json("ok.json") == {}
    assert not (tmp_path / "escape.json").exists()
