"""What we write, read by the libraries it is for, in environments of their own: ``make interop``.

Two sources: every wiring and function that a layout has a place for, and every golden file of every library, so that
what one library computed is compared with what another computes from our conversion of its files. A case a layout
cannot hold is refused with a reason; nothing else may fail.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from foreign_cases import ABOUT, FOLDS_NORMS, matrix, tokens
from interop_peers import GOLDEN, read_by_peer
from safetensors.torch import load_file, save_file
from torch import Tensor

from monoscope import formats
from monoscope.core.errors import CannotHold
from monoscope.dictionaries import Dictionary
from monoscope.formats.layouts import layout_of
from monoscope.formats.opened import About

LAYOUTS = ("saelens", "sparsify", "dictionary_learning")
CHOICES = {
    "sparsify/transcode_centered/layers.1.mlp": {"centering": "yes"},
    "dictionary_learning/jumprelu_centered/trainer_0": {"center": "yes"},
}
SOURCES = ("saelens", "saelens_old", "sparsify", "dictionary_learning")

pytestmark = pytest.mark.interop


@dataclass(frozen=True)
class Expected:
    """What a case should come to: activations times decoder norms where a layout folds those."""

    x: Tensor
    acts: Tensor
    recon: Tensor


def expected(name: str, dictionary: Dictionary, x: Tensor) -> Expected:
    """What a dictionary computes, in the units of the layouts."""
    frozen = dictionary.frozen()
    step = frozen(x)
    acts = step.acts.dense()
    if getattr(dictionary.config, "scale_by_decoder_norm", False) and name.startswith(FOLDS_NORMS):
        acts = acts * frozen.decoder_norm()
    return Expected(x, acts, step.recon)


def generated() -> Iterator[tuple[str, Dictionary, About, Expected]]:
    """Every wiring and function."""
    for name, dictionary in matrix():
        yield f"made/{name}", dictionary, ABOUT, expected(name, dictionary, tokens())


def converted() -> Iterator[tuple[str, Dictionary, About, Expected]]:
    """Every golden file, with what its own library computed."""
    for source in SOURCES:
        for file in sorted((GOLDEN / source).rglob("made.json")):
            case = file.parent.relative_to(GOLDEN).as_posix()
            opened = formats.open(file.parent, **CHOICES.get(case, {}))
            io = load_file(file.parent / "io.safetensors")
            flat = Expected(io["x"].flatten(1), io["acts"], io["recon"].flatten(1))
            yield f"golden/{case}", opened.dictionary(), opened.about, flat


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_library_computes_the_same_from_what_we_write(
    layout: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted: dict[str, Expected] = {}
    sources: dict[str, int] = {}
    refused: dict[str, str] = {}
    for source in (generated(), converted()):
        for name, dictionary, about, want in source:
            directory = tmp_path / name
            directory.mkdir(parents=True)
            try:
                layout_of(layout).write(dictionary, directory, about)
            except CannotHold as error:
                refused[name] = error.reason
                continue
            wanted[name] = want
            sources[name.split("/")[0]] = sources.get(name.split("/")[0], 0) + 1
            save_file({"x": want.x.contiguous()}, directory / "x.safetensors")
    read_by_peer(layout, tmp_path)
    worst = {"acts": 0.0, "recon": 0.0}
    wrong: dict[str, str] = {}
    for name, want in wanted.items():
        if (tmp_path / name / "refused.txt").exists():
            wrong[name] = (tmp_path / name / "refused.txt").read_text()[-600:]
            continue
        theirs = load_file(tmp_path / name / "theirs.safetensors")
        if not torch.equal(theirs["acts"] != 0, want.acts != 0):
            wrong[name] = "other features fire"
            continue
        for key, value in (("acts", want.acts), ("recon", want.recon)):
            error = ((theirs[key] - value).abs() / (1 + value.abs())).max().item()
            worst[key] = max(worst[key], error)
            if error > 1e-5:
                wrong[name] = f"{key} off by {error:.2g}"
    with capsys.disabled():
        print(
            f"\n{layout}: {len(wanted) - len(wrong)} of {len(wanted)} cases {sources} compute the same there, "
            f"{len(refused)} refused; "
            f"largest difference of activations {worst['acts']:.1e}, of reconstructions {worst['recon']:.1e}"
        )
    assert not wrong, json.dumps(wrong, indent=1)
    assert len(wanted) >= 20
