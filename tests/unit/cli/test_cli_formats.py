"""``info`` and ``convert`` on dictionaries, whoever wrote them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from command_line import Call

from monoscope.core.config import read_toml
from monoscope.formats import load


@pytest.fixture
def trained(call: Call, train_config: Path, tmp_path: Path) -> Path:
    """A small dictionary of the tiny model."""
    assert call("train", train_config, "--out", "sae").code == 0
    return tmp_path / "sae"


def test_convert_compares_on_the_model_that_is_named(
    call: Call, trained: Path, model: Path, harvest_config: Path, tmp_path: Path
) -> None:
    text = read_toml(harvest_config)["text"]
    reading = [f"text={{kind='{text['kind']}', paths={text['paths']}}}", "context=16"]
    settings = [part for value in reading for part in ("--set", value)]
    done = call("convert", "sae", "copy", "--to", "native", "--model", model, *settings, "--json")
    assert done.code == 0, done.err
    assert done.result["comparison"]["on"] == "activations"
    assert done.result["fit"]["before"]["fvu"] == done.result["fit"]["after"]["fvu"] < 1
    assert load(tmp_path / "copy").fingerprint() == load(trained).fingerprint()

    seen = call("info", "sae", "--model", model, *settings, "--json")
    assert seen.code == 0, seen.err
    assert seen.result["fit"]["fvu"] == done.result["fit"]["before"]["fvu"]
    assert seen.result["layout"] == "native"
    assert "warnings" not in seen.result


def test_convert_without_a_model_says_that_inputs_were_random(call: Call, trained: Path, tmp_path: Path) -> None:
    done = call("convert", "sae", "copy", "--to", "native", "--json")
    assert done.code == 0, done.err
    assert done.result["comparison"]["on"] == "random inputs"
    assert "fit" not in done.result
    again = call("convert", "sae", "copy", "--to", "native")
    assert (again.code, "copy exists" in again.err) == (1, True)
    assert call("convert", "sae", "copy", "--to", "native", "--force").code == 0


def test_what_cannot_be_meant_is_said_in_words(call: Call, trained: Path, model: Path, tmp_path: Path) -> None:
    for arguments, code, said in [
        (("convert", "sae", "x", "--to", "sealens"), 2, "unknown layout 'sealens'"),
        (("convert", "sae", "x", "--to", "native", "--choose", "centered"), 2, "a choice reads RULE=VALUE"),
        (("convert", "sae", "x", "--to", "native", "--choose", "a=b"), 2, "native has no choice 'a'"),
        (("convert", "sae", "x", "--to", "native", "--set", "context=4"), 1, "name one with --model"),
        (("convert", "nowhere", "x", "--to", "native"), 1, "there is nothing at nowhere"),
        (("info", "sae", "--format", "natif"), 2, "did you mean 'native'"),
        (("info", "sae", "--model", "bundled"), 1, "another model"),
    ]:
        done = call(*arguments)
        assert (done.code, said in done.err) == (code, True), done.err
    assert not (tmp_path / "x").exists()


def test_info_verifies_weights(call: Call, trained: Path) -> None:
    assert call("info", "sae", "--format", "native", "--verify", "--json").result["verified"] is True
    weights = trained / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4])
    done = call("info", "sae", "--format", "native", "--verify")
    assert (done.code, "is cut short" in done.err) == (1, True)


def test_a_bundle_is_recognized_and_its_targets_named(call: Call, tmp_path: Path) -> None:
    (tmp_path / "f.mono").mkdir()
    (tmp_path / "f.mono" / "manifest.json").write_text('{"schema": "monoscope.features"}')
    done = call("convert", "f.mono", "out", "--to", "saelens")
    assert (done.code, "is a feature bundle, and is not written as 'saelens'" in done.err) == (2, True)


def test_evaluate_says_what_does_not_fit_of_foreign_dictionaries(call: Call, trained: Path) -> None:
    (trained.parent / "eval.toml").write_text('dictionary = "sae"\ntext = {kind = "files", paths = ["text.txt"]}\n')
    before = call("evaluate", "eval.toml", "--json")
    assert before.code == 0, before.err
    assert "warnings" not in before.result
    config = trained / "config.toml"
    config.write_text(config.read_text() + '\n[provenance.opened]\nlayout = "saelens"\npublished = {l0 = 400.0}\n')
    after = call("evaluate", "eval.toml", "--json")
    assert "400 were published" in after.result["warnings"][-1]
    assert torch.isfinite(torch.tensor(after.result["fidelity"]["fvu"]))


def test_info_says_where_a_dictionary_fits(call: Call, trained: Path, model: Path) -> None:
    config = trained / "config.toml"
    config.write_text(config.read_text().replace('"0.resid_post"', '"0.attn_out"'))
    text = "text={kind='files', paths=['text.txt']}"
    seen = call("info", "sae", "--model", model, "--set", text, "--set", "context=16", "--json")
    assert seen.code == 0, seen.err
    assert seen.result["fit"]["fvu"] > 1
    assert seen.result["warnings"][-1].startswith("at 0.resid_")  # of random weights, several are alike
