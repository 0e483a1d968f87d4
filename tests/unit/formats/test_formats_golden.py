"""Files that SAELens, sparsify and dictionary_learning wrote themselves, against what they compute from them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from monoscope import formats

GOLDEN = Path(__file__).parents[2] / "golden"
LIBRARIES = ("saelens", "saelens_old", "sparsify", "dictionary_learning")
CASES = sorted(
    path.parent.relative_to(GOLDEN).as_posix() for name in LIBRARIES for path in (GOLDEN / name).rglob("made.json")
)
CHOICES: dict[str, dict[str, str]] = {
    "sparsify/transcode_centered/layers.1.mlp": {"centering": "yes"},
    "dictionary_learning/jumprelu_centered/trainer_0": {"center": "yes"},
}
READS = {"saelens": "1.resid_post", "saelens_old": "1.resid_pre", "dictionary_learning": "3.resid_post"}


def computed(case: str) -> tuple[Tensor, Tensor, Tensor]:
    values = load_file(GOLDEN / case / "io.safetensors")
    x, recon = (values[name].flatten(1) for name in ("x", "recon"))
    return x, values["acts"], recon


@pytest.mark.parametrize("case", CASES)
def test_features_and_reconstruction_are_those_of_the_library(case: str) -> None:
    x, acts, recon = computed(case)
    opened = formats.open(GOLDEN / case, **CHOICES.get(case, {}))
    assert opened.layout == case.split("/")[0]
    dictionary = opened.dictionary()
    step = dictionary(x)
    assert torch.equal(step.acts.dense() != 0, acts != 0)
    torch.testing.assert_close(step.acts.dense(), acts, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(step.recon, recon, rtol=1e-5, atol=1e-5)
    for feature in (0, 7, dictionary.n_features - 1):
        torch.testing.assert_close(
            opened.direction(feature).float(), dictionary.decoder_rows(dictionary.writes[0])[feature], rtol=1e-6, atol=0
        )


def test_no_golden_file_is_left_out() -> None:
    assert len(CASES) >= 75
    for name in LIBRARIES:
        assert sum(case.startswith(name + "/") for case in CASES) >= 9, name
