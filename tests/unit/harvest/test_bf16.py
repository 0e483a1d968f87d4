"""Features survive a model that runs in bf16, by the code that reports it in ``docs/reference/performance.md``."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
import torch

from monoscope.demo import MODEL
from monoscope.harvest import StandardLibrary, live
from monoscope.models import LanguageModel
from monoscope.training import Training, train

SITE = "2.resid_post"


@pytest.mark.slow
def test_features_survive_a_model_in_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[3] / "benchmarks"))
    survival = importlib.import_module("survival").survival
    exact = LanguageModel.from_pretrained(MODEL)
    rounded = LanguageModel.from_pretrained(MODEL, dtype=torch.bfloat16)
    recipe = {"wiring": {"kind": "autoencoder", "n_features": 384}, "function": {"kind": "topk", "k": 16}}
    text = StandardLibrary().windows(exact, context=256, tokens=8192)
    training = Training(tokens=8000, batch_tokens=512, shuffle_tokens=4096, seed=0)
    dictionary = train(recipe, live(exact, text, [SITE]), training=training)
    held_out = StandardLibrary(split="held_out").windows(exact, context=256, tokens=4096)
    found = survival(dictionary, exact, rounded, held_out)
    assert 0 < found["error"] < 1e-3
    assert found["kept"] > 0.97
    assert found["kept_weight"] > 0.98
    assert abs(found["fvu_bf16"] - found["fvu"]) < 0.002
