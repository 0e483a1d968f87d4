"""Publishing to a hub on this machine, and opening from it, by the command line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from command_line import Call
from hub_server import Hub, environment, serving

from monoscope.formats import load


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub on this machine, and somebody who is logged in."""
    with serving() as hub, environment(hub, tmp_path, monkeypatch):
        monkeypatch.setenv("HF_TOKEN", "hf_somebody")
        yield hub


@pytest.fixture
def trained(call: Call, train_config: Path, tmp_path: Path) -> Path:
    """A small dictionary of the tiny model."""
    assert call("train", train_config, "--out", "sae", "--set", "recipe.wiring.n_features=256").code == 0
    return tmp_path / "sae"


def test_published_with_a_card_and_loaded_again(call: Call, hub: Hub, trained: Path, tmp_path: Path) -> None:
    (tmp_path / "eval.toml").write_text('dictionary = "sae"\ntext = {kind = "files", paths = ["text.txt"]}\n')
    assert call("evaluate", "eval.toml", "--out", "evaluation").code == 0
    arguments = ("convert", "sae", "hf://org/saes/resid", "--to", "saelens", "--evaluation", "evaluation")
    asked = call(*arguments)
    assert (asked.code, "Publish with --public or with --private" in asked.err) == (2, True)
    assert hub.repos == {}
    done = call(*arguments, "--private", "--json")
    assert done.code == 0, done.err
    repo = hub.repos["org/saes"]
    _, files = repo.files("main") or ("", {})
    assert sorted(files) == [
        "resid/README.md", "resid/cfg.json", "resid/receipt.json", "resid/sae_weights.safetensors"
    ]  # fmt: skip
    assert repo.private
    assert any(request.startswith("PUT /put/") for request in hub.requests), "large files go by LFS"
    assert done.result["url"] == f"{hub.url}/org/saes"
    receipt = json.loads(files["resid/receipt.json"])
    assert receipt["to"]["layout"] == "saelens"
    assert "where" not in receipt["from"], "paths of this machine are nobody's business"

    card = files["resid/README.md"].decode()
    _, front, body = card.split("---\n", 2)
    assert yaml.safe_load(front)["tags"][:2] == ["monoscope", "interpretability"]
    evaluation = json.loads((tmp_path / "evaluation" / "evaluation.json").read_text())
    assert f"| FVU | {evaluation['fidelity']['fvu']:.4g} |" in body
    assert f"| CE recovered | {evaluation['losses']['ce_recovered_zero']:.4g} |" in body
    assert 'monoscope.load("hf://org/saes/resid")' in body
    assert 'SAE.load_from_disk(snapshot_download("org/saes") + "/resid")' in body
    assert 'load_file(hf_hub_download("org/saes", "resid/sae_weights.safetensors"))' in body
    assert "@misc{org_saes," in body
    assert "| tokens | 2,000 |" in body

    assert load("hf://org/saes/resid").fingerprint() == load(trained).fingerprint()
    seen = call("info", "hf://org/saes/resid", "--json")
    assert (seen.code, seen.result["layout"]) == (0, "saelens"), seen.err
    config = (tmp_path / "eval.toml").read_text().replace('"sae"', '"hf://org/saes/resid"')
    (tmp_path / "eval.toml").write_text(config + f'model = "{evaluation["model"]}"\ncontext = 32\n')
    again = call("evaluate", "eval.toml", "--json")
    assert again.code == 0, again.err
    assert again.result["fidelity"]["fvu"] == pytest.approx(evaluation["fidelity"]["fvu"], rel=1e-3)


def test_what_is_there_is_not_replaced_in_passing(call: Call, hub: Hub, trained: Path) -> None:
    first = call("convert", "sae", "hf://org/sae", "--to", "native", "--public", "--json")
    assert first.code == 0, first.err
    assert not hub.repos["org/sae"].private
    _, files = hub.repos["org/sae"].files("main") or ("", {})
    assert "| FVU | not measured |" in files["README.md"].decode()
    hub.repos["org/sae"].commit(files | {"README.md": b"my own words"})
    for arguments, said in [
        (("--to", "native", "--public"), "org/sae has config.toml"),
        (("--to", "native", "--private"), "org/sae is public, not private"),
    ]:
        done = call("convert", "sae", "hf://org/sae", *arguments)
        assert (done.code, said in done.err) == (1, True), done.err
    other = call("convert", "sae", "hf://org/sae", "--to", "saelens", "--public", "--json", "--force")
    assert other.code == 0, other.err
    third = call("convert", "sae", "hf://org/sae/deeper", "--to", "native", "--public", "--json")
    assert (third.code, third.result["card_kept"]) == (0, False), third.err


def test_the_readme_of_a_repository_stays(call: Call, hub: Hub, trained: Path) -> None:
    hub.repo("org/sae", {"README.md": b"my own words"})
    done = call("convert", "sae", "hf://org/sae", "--to", "native", "--public", "--json")
    assert (done.code, done.result["card_kept"]) == (0, True), done.err
    _, files = hub.repos["org/sae"].files("main") or ("", {})
    assert files["README.md"] == b"my own words"
    assert "weights.safetensors" in files


def test_without_a_token_nothing_is_sent(
    call: Call, hub: Hub, trained: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_TOKEN", "")
    done = call("convert", "sae", "hf://org/sae", "--to", "native", "--public")
    assert (done.code, "publishing needs a token" in done.err) == (1, True)
    assert hub.requests == []
    (tmp_path / "evaluation.json").write_text('{"dictionary": "another", "fidelity": {}, "firing": {}, "losses": {}}')
    done = call("convert", "sae", "hf://o/s", "--to", "native", "--public", "--evaluation", "evaluation.json")
    assert (done.code, "is of another dictionary" in done.err) == (1, True)


def test_all_dictionaries_of_a_set_are_converted(call: Call, hub: Hub, trained: Path, tmp_path: Path) -> None:
    for layer in (0, 1):
        arguments = ("convert", "sae", f"run/layers.{layer}", "--to", "saelens")
        assert call(*arguments).code == 0
    seen = call("info", "run", "--json")
    assert (seen.result["entries"], seen.result["names"]) == (2, ["layers.0", "layers.1"])
    done = call("convert", "run", "out", "--to", "native", "--json")
    assert done.code == 0, done.err
    assert done.result["entries"] == ["layers.0", "layers.1"]
    assert load(tmp_path / "out" / "layers.1").fingerprint() == load(trained).fingerprint()
    (tmp_path / "out" / "layers.0" / "receipt.json").unlink()
    import shutil

    shutil.rmtree(tmp_path / "out" / "layers.0")
    again = call("convert", "run", "out", "--to", "native", "--json")
    assert (again.result["entries"], again.result["kept"]) == (["layers.0"], ["layers.1"])
    refused = call("convert", "run", "hf://org/set", "--to", "native", "--public")
    assert (refused.code, "publish them one by one" in refused.err) == (1, True)


def test_a_set_of_layers_is_published_together(call: Call, hub: Hub, train_config: Path, tmp_path: Path) -> None:
    text = train_config.read_text().replace('reads = ["0.resid_post"]\n', "")
    sweep = "".join(f'[sweep.l{n}]\nreads = ["{n}.mlp_in"]\nwrites = ["{n}.mlp_out"]\n' for n in (0, 1))
    train_config.write_text(text + sweep)
    assert call("train", train_config, "--out", "sweep").code == 0
    done = call("convert", "sweep", "hf://org/set", "--to", "circuit_tracer", "--public", "--json")
    assert done.code == 0, done.err
    _, files = hub.repos["org/set"].files("main") or ("", {})
    assert {"config.yaml", "layer_0.safetensors", "layer_1.safetensors", "README.md"} <= files.keys()
    assert str(tmp_path).encode() not in files["receipt.json"]
    card = files["README.md"].decode()
    assert "# 2 dictionaries (transcoder) of" in card
    assert "| 1.mlp_in -> 1.mlp_out | not measured | not measured | not measured |" in card
    assert 'ReplacementModel.from_pretrained("' in card
    seen = call("info", "hf://org/set", "--json")
    assert (seen.result["layout"], seen.result["entries"]) == ("circuit_tracer", 2)
    back = load("hf://org/set/layer_1.safetensors")
    assert back.n_features == 48
