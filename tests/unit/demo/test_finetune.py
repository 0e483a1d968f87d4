"""Pretraining and finetuning, cut to a few steps: what they leave behind loads, and a resumed run ends the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from monoscope.demo import finetune, pretrain
from monoscope.demo.pretrain import Pretraining
from monoscope.models import LanguageModel

SMALL = Pretraining(
    vocab_size=300, d_model=16, d_mlp=32, n_layers=1, n_heads=2, context=32, windows_per_step=1024, tokens=125_000
)


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pretraining of three steps on a small library."""
    path = tmp_path_factory.mktemp("pretrained")
    texts = {"train": [f"def f{i}(x):\n    return x + {i}\n" for i in range(400)], "held_out": ["x = 1\n" * 80]}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretrain, "standard_library_texts", lambda split: iter(texts[split]))
        pretrain.run(SMALL, path, resume=False)
    return path


def weights(path: Path) -> dict[str, torch.Tensor]:
    return LanguageModel.from_pretrained(path).hf.state_dict()


def same(one: Path, other: Path) -> bool:
    a, b = weights(one), weights(other)
    return all(torch.equal(a[name], b[name]) for name in a)


def test_snapshots_of_pretraining_are_language_models(pretrained: Path) -> None:
    snapshots = sorted((pretrained / "snapshots").iterdir(), key=lambda path: int(path.name))
    assert [path.name for path in snapshots] == ["32768", "98304"]
    for path in snapshots:
        lm = LanguageModel.from_pretrained(path)
        assert lm.tokenizer is not None
        assert lm.n_layers == 1
    assert not same(*snapshots)
    assert same(snapshots[-1], pretrained / "model")


def test_topics_are_held_out_whole() -> None:
    train, held_out = (finetune.topics(held_out=value) for value in (False, True))
    assert len(train) > 5 * len(held_out) > 0
    assert not set(train) & set(held_out)


def test_an_interrupted_finetuning_ends_the_same(
    pretrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finetune, "topics", lambda held_out: ["The answer, in words: forty-two.\n" * 60])
    monkeypatch.setattr(finetune, "standard_library_texts", lambda split: iter(["x = 1\n" * 80]))
    config = SMALL.model_copy(update={"windows_per_step": 8, "tokens": 6 * 8 * 32, "decay_share": 1.0})

    def tune(out: str, *, resume: bool = False) -> dict[str, dict[str, float]]:
        base = pretrained / "model"
        return finetune.run(config, tmp_path / out, base=base, resume=resume, checkpoint_every=0.0)

    whole = tune("whole")
    assert whole["after"]["prose"] < whole["before"]["prose"]
    assert json.loads((tmp_path / "whole" / "losses.json").read_text()) == whole

    save = pretrain.save

    def stop(path: Path, state: dict[str, Any]) -> None:
        save(path, state)
        if state["step"] == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(pretrain, "save", stop)
        tune("cut")
    assert not (tmp_path / "cut" / "model").exists()
    assert tune("cut", resume=True) == whole
    assert same(tmp_path / "whole" / "model", tmp_path / "cut" / "model")
