"""What we write, read by the libraries it is for, in environments of their own: ``make interop``.

Three sources: every wiring and function that a layout has a place for; dictionaries trained here; and every golden file
of every library, so that what one library computed is compared with what another computes from our conversion. A case
a layout cannot hold is refused with a reason; nothing else may fail.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from foreign_cases import ABOUT, FOLDS_NORMS, RESID, matrix, tokens
from interop_peers import GOLDEN, agreement, read_by_peer
from safetensors.torch import load_file, save_file
from torch import Tensor

from monoscope import formats
from monoscope.core.errors import CannotHold
from monoscope.dictionaries import Dictionary, Recipe
from monoscope.formats.layouts import layout_of
from monoscope.formats.opened import About
from monoscope.harvest import from_array
from monoscope.training import train

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


def expected(dictionary: Dictionary, x: Tensor) -> Expected:
    """What a dictionary computes, in the units of the layouts."""
    frozen = dictionary.frozen()
    step = frozen(x)
    acts, kind = step.acts.dense(), frozen.activation.config.to_dict()["kind"]
    if getattr(dictionary.config, "scale_by_decoder_norm", False) and kind in FOLDS_NORMS:
        acts = acts * frozen.decoder_norm()
    return Expected(x, acts, step.recon)


def generated() -> Iterator[tuple[str, Dictionary, About, Expected]]:
    """Every wiring and function."""
    for name, dictionary in matrix():
        yield f"made/{name}", dictionary, ABOUT, expected(dictionary, tokens())


def trained() -> Iterator[tuple[str, Dictionary, About, Expected]]:
    """A few steps of training here, with the activation scale folded in at the end."""
    recipes: dict[str, dict[str, Any]] = {
        "batch_topk": {"function": {"kind": "batch_topk", "k": 3}},
        "batch_topk_scaled": {
            "wiring": {"scale_by_decoder_norm": True, "unit_norm": False},
            "function": {"kind": "batch_topk", "k": 3},
        },
        "matryoshka": {
            "function": {"kind": "batch_topk", "k": 3},
            "terms": {"reconstruction": {"kind": "matryoshka", "prefixes": [8, 32]}},
        },
        "topk": {"function": {"kind": "topk", "k": 3}},
        "gated": {
            "function": {"kind": "gated"},
            "terms": {"sparsity": {"kind": "gate_l1"}, "aux": {"kind": "gate_aux"}},
        },
        "jumprelu": {"function": {"kind": "jumprelu"}, "terms": {"sparsity": {"kind": "target_l0", "target": 3.0}}},
    }
    for seed, (name, table) in enumerate(recipes.items()):
        wiring = {"kind": "autoencoder", "n_features": 32, **table.get("wiring", {})}
        terms = {"reconstruction": {"kind": "squared_error" if name == "gated" else "fvu"}, **table.get("terms", {})}
        recipe = Recipe.from_dict({"wiring": wiring, "function": table["function"], "terms": terms})
        source = from_array(5 * tokens(seed, 4096), RESID, batch_tokens=128)
        dictionary = train(recipe, source, tokens=4096, batch_tokens=128)
        yield f"trained/{name}", dictionary, ABOUT, expected(dictionary, 5 * tokens(seed + 1))


def converted() -> Iterator[tuple[str, Dictionary, About, Expected]]:
    """Every golden file, with what its own library computed, in its units where they are those of other layouts."""
    for source in SOURCES:
        for file in sorted((GOLDEN / source).rglob("made.json")):
            case = file.parent.relative_to(GOLDEN).as_posix()
            opened = formats.open(file.parent, **CHOICES.get(case, {}))
            io = load_file(file.parent / "io.safetensors")
            flat = Expected(io["x"].flatten(1), io["acts"], io["recon"].flatten(1))
            yield f"golden/{case}", opened.dictionary(), opened.about, flat
    for kind in ("sae", "transcoder"):
        for file in sorted((GOLDEN / "llamascopium").glob(f"{kind}_*/io.safetensors")):
            name = file.parent.name
            opened = formats.open(file.parent, folded="yes" if name.endswith("_folded") else "no")
            dictionary = opened.dictionary()
            yield f"golden/llamascopium/{name}", dictionary, opened.about, expected(dictionary, load_file(file)["x"])
    for file in sorted((GOLDEN / "circuit_tracer").glob("plt_*/io.safetensors")):
        found, x = formats.find(file.parent), load_file(file)["x"]
        for layer, entry in enumerate(found.entries()):
            opened = found.at(entry).open()
            dictionary = opened.dictionary()
            name = f"golden/circuit_tracer/{file.parent.name}/{layer}"
            yield name, dictionary, opened.about, expected(dictionary, x[layer])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_library_computes_the_same_from_what_we_write(
    layout: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted: dict[str, Expected] = {}
    sources: dict[str, int] = {}
    refused: dict[str, str] = {}
    for source in (generated(), trained(), converted()):
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
    found = agreement(tmp_path, wanted)
    with capsys.disabled():
        print(
            f"\n{layout}: {len(wanted) - len(found.wrong)} of {len(wanted)} cases {sources} compute the same there, "
            f"{len(refused)} refused; "
            f"{found}"
        )
    assert not found.wrong, json.dumps(found.wrong, indent=1)
    assert len(wanted) >= 20
