"""Several models by their labels, and conversations: read, stored, trained on and examined from configurations."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import Call
from tiny_text_model import CHAT_TEMPLATE, chats, tiny_lm, tiny_tokenizer

from monoscope.cli.configs import HarvestConfig, TrainConfig
from monoscope.cli.reading import Reading
from monoscope.core.errors import ConfigError
from monoscope.core.site import Site
from monoscope.dictionaries import load
from monoscope.features import FeatureBundle
from monoscope.harvest import ActivationStore
from monoscope.models import LanguageModel

CHATS = '{kind = "conversations", paths = ["chats.jsonl"]}'


@pytest.fixture
def two_models(train_config: Path, model: Path, tuned: Path) -> Path:
    """A training that reads two models."""
    text = train_config.read_text().replace(
        f'model = "{model}"', f'models = {{base = "{model}", tuned = "{tuned}"}}', 1
    )
    train_config.write_text(text)
    return train_config


def names(sites: tuple[Site, ...]) -> list[str]:
    return [str(site) for site in sites]


def test_a_site_without_a_label_is_read_in_every_model() -> None:
    settings = TrainConfig.from_dict(
        {"models": {"b": "x", "a": "y"}, "reads": ["1.mlp_in", "2.resid_post@a", "1.mlp_in@b"], "writes": ["0.z@b"]}
    )
    run = settings.runs()[""]
    reads, writes = run.reads, run.writes
    assert names(reads) == ["1.mlp_in@b", "1.mlp_in@a", "2.resid_post@a"]
    assert names(writes) == ["0.z@b"]
    assert TrainConfig.from_dict(settings.to_dict()) == settings


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ({"models": {"base": "x"}, "model": "y"}, "model is 'y', and models are given as well"),
        ({"models": {"base": "x"}, "revision": "main"}, "write it behind the name, as in 'id@revision'"),
        ({"models": {"": "x"}}, "each needs a label"),
        ({"models": {"a b": "x"}}, "letters, digits and _ . [+] -"),
        ({"models": {"base": "x"}, "sites": ["1.mlp_in@bse"]}, "no model is labeled 'bse'; did you mean 'base'?"),
        ({"sites": ["1.mlp_in@base"]}, "no model is labeled 'base'; there is one model, which has no label"),
    ],
)
def test_models_that_cannot_be_meant(table: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        HarvestConfig.from_dict({"sites": ["1.mlp_in"]} | table)


def test_a_label_of_a_store_is_not_a_model_here() -> None:
    settings = TrainConfig.from_dict({"activations": "acts", "reads": ["1.mlp_in@base"]})
    assert names(settings.runs()[""].reads) == ["1.mlp_in@base"]
    with pytest.raises(ConfigError, match="models would have no effect"):
        TrainConfig.from_dict({"activations": "acts", "models": {"base": "x"}})


def test_a_revision_stands_behind_the_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = []

    def load(path_or_id: str, *, revision: str | None, **options: object) -> LanguageModel:
        asked.append((path_or_id, revision))
        return LanguageModel(tiny_lm().hf, tiny_tokenizer())

    monkeypatch.setattr(LanguageModel, "from_pretrained", load)
    (tmp_path / "at@home").mkdir()
    models = {"step1": "org/model@step1", "last": "org/model", "here": str(tmp_path / "at@home")}
    loaded = Reading.from_dict({"models": models, "device": "cpu"}).language_models()
    assert asked == [("org/model", "step1"), ("org/model", None), (models["here"], None)]
    assert {label: lm.name for label, lm in loaded.items()} == models


def test_harvest_reads_both(call: Call, harvest_config: Path, model: Path, tuned: Path, tmp_path: Path) -> None:
    text = harvest_config.read_text().replace(f'model = "{model}"', f'models = {{a = "{model}", b = "{tuned}"}}', 1)
    harvest_config.write_text(text)
    done = call("harvest", harvest_config, "--out", "acts", "--json")
    assert done.code == 0, done.err
    assert done.result["widths"] == {"0.resid_post@a": 16, "0.resid_post@b": 16}
    store = ActivationStore(tmp_path / "acts")
    assert store.info["sources"]["b"]["model"]["name"] == str(tuned)
    done = call("harvest", harvest_config, "--out", "more", "--set", 'sites=["9.resid_post@b"]')
    assert done.code == 1
    assert "no layer 9" in done.err


def test_a_crosscoder_of_both_is_evaluated_in_each(call: Call, two_models: Path, tmp_path: Path) -> None:
    changes = ('recipe.wiring={kind="crosscoder", n_features=32}', 'reads=["0.resid_post"]')
    done = call("train", two_models, "--out", "both", *(part for change in changes for part in ("--set", change)))
    assert done.code == 0, done.err
    sites = names(load(tmp_path / "both").reads)
    assert len(sites) == 2
    (tmp_path / "examine.toml").write_text('dictionary = "both"\n')
    done = call("evaluate", "examine.toml", "--json", "--set", "text={kind = 'files', paths = ['text.txt']}")
    assert done.code == 0, done.err
    assert [f"0.resid_post@{label}" for label in done.result["models"]] == sites


def test_a_dictionary_of_one_of_the_models(call: Call, two_models: Path, tuned: Path, tmp_path: Path) -> None:
    done = call("train", two_models, "--out", "sae", "--set", 'reads=["0.resid_post@tuned"]')
    assert done.code == 0, done.err
    assert names(load(tmp_path / "sae").reads) == ["0.resid_post@tuned"]
    (tmp_path / "examine.toml").write_text('dictionary = "sae"\n')
    done = call("analyze", "examine.toml", "--out", "features.mono")
    assert done.code == 0, done.err
    assert FeatureBundle.open(tmp_path / "features.mono").manifest["dictionary"]["reads"] == ["0.resid_post@tuned"]
    held_out = ("--set", "text={kind = 'files', paths = ['text.txt']}")
    done = call("evaluate", "examine.toml", *held_out)
    assert done.code == 0, done.err
    assert done.out.startswith("0.resid_post@tuned of ")
    done = call(
        "analyze", "examine.toml", "--out", "other.mono", "--set", f"models={{tuned='{tuned}', base='{tuned}'}}"
    )
    assert done.code == 0, done.err
    done = call("analyze", "examine.toml", "--out", "third.mono", "--set", f"models={{base='{tuned}'}}")
    assert done.code == 1
    assert "under the label 'tuned', which is not here" in done.err


@pytest.fixture
def chatting(train_config: Path, model: Path, tmp_path: Path) -> Path:
    """A training on conversations."""
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = CHAT_TEMPLATE
    tiny_lm().hf.save_pretrained(tmp_path / "chat")
    tokenizer.save_pretrained(tmp_path / "chat")
    (tmp_path / "chats.jsonl").write_text("".join(json.dumps({"messages": chat}) + "\n" for chat in chats(80)))
    text = (
        train_config.read_text().replace(str(model), str(tmp_path / "chat"), 1).replace("context = 32", "context = 64")
    )
    train_config.write_text(text.replace('{kind = "files", paths = ["text.txt"]}', CHATS))
    return train_config


def test_conversations_are_trained_on_whole(call: Call, chatting: Path, tmp_path: Path) -> None:
    assert call("train", chatting, "--out", "sae").code == 0
    source = load(tmp_path / "sae").provenance["source"]
    assert source["packing"] == "sequence"
    assert source["skip"] == {"special": False, "first": 1, "not_finite": False}
    (tmp_path / "examine.toml").write_text('dictionary = "sae"\n')
    done = call("analyze", "examine.toml", "--out", "features.mono")
    assert done.code == 0, done.err
    assert FeatureBundle.open(tmp_path / "features.mono").manifest["data"]["packing"] == "sequence"


def test_conversations_are_stored_as_shuffled_tokens(call: Call, chatting: Path, tmp_path: Path) -> None:
    config = chatting.read_text().partition("[recipe]")[0].replace("reads", "sites")
    (tmp_path / "harvest.toml").write_text(config)
    done = call("harvest", "harvest.toml", "--out", "acts")
    assert done.code == 0, done.err
    store = ActivationStore(tmp_path / "acts")
    assert "shuffle" in store.info
    assert sum(batch.n_tokens for batch in store) == store.n_tokens
