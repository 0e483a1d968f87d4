"""What we write for llamascopium and circuit-tracer, read by them, in environments of their own: ``make interop``.

Sources are the golden files of both, opened and written again: what one library computed is compared with what the same
or the other computes from our files. Layers and sites are an axis before the width.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from interop_peers import GOLDEN, agreement, read_by_peer
from safetensors.torch import load_file, save_file
from torch import Tensor

from monoscope import formats
from monoscope.core.errors import CannotHold
from monoscope.dictionaries import Dictionary
from monoscope.formats.layouts import layout_of
from monoscope.formats.open import find
from monoscope.formats.opened import About

pytestmark = pytest.mark.interop


@dataclass(frozen=True)
class Case:
    """Dictionaries that are written together, and what their own library computed from x."""

    name: str
    dictionaries: list[Dictionary]
    about: About
    x: Tensor
    acts: Tensor
    recon: Tensor


def cases() -> Iterator[Case]:
    """Every golden file of both libraries."""
    for file in sorted((GOLDEN / "llamascopium").glob("*/made.json")):
        name, io = file.parent.name, load_file(file.parent / "io.safetensors")
        opened = formats.open(file.parent, **({"folded": "yes"} if name.endswith("_folded") else {}))
        if "batch" not in name:  # what a batch function computes depends on the batch
            yield Case(f"llamascopium/{name}", [opened.dictionary()], opened.about, io["x"], io["acts"], io["recon"])
    for file in sorted((GOLDEN / "circuit_tracer").glob("*/made.json")):
        name, io = file.parent.name, load_file(file.parent / "io.safetensors")
        found = find(file.parent)
        opened = [found.at(entry).open() for entry in found.entries()]
        values = (io[key].movedim(0, 1) for key in ("x", "acts", "recon"))
        yield Case(f"circuit_tracer/{name}", [each.dictionary() for each in opened], opened[0].about, *values)


def write(layout: str, case: Case, directory: Path) -> None:
    """One dictionary, or a set. Raises CannotHold."""
    target = layout_of(layout)
    if len(case.dictionaries) > 1:
        target.write_set(case.dictionaries, directory, case.about)
    else:
        target.write(case.dictionaries[0], directory, case.about)


@pytest.mark.parametrize(("layout", "least"), [("llamascopium", 20), ("circuit_tracer", 8)])
def test_the_library_computes_the_same_from_what_we_write(
    layout: str, least: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted: dict[str, Case] = {}
    refused: dict[str, str] = {}
    for case in cases():
        directory = tmp_path / case.name
        directory.mkdir(parents=True)
        try:
            write(layout, case, directory)
        except CannotHold as error:
            refused[case.name] = error.reason
            continue
        wanted[case.name] = case
        save_file({"x": case.x.contiguous()}, directory / "x.safetensors")
    read_by_peer(layout, tmp_path)
    found = agreement(tmp_path, wanted)
    with capsys.disabled():
        print(
            f"\n{layout}: {len(wanted) - len(found.wrong)} of {len(wanted)} cases compute the same there, "
            f"{len(refused)} refused; {found}"
        )
    assert not found.wrong, json.dumps(found.wrong, indent=1)
    assert len(wanted) >= least, json.dumps(refused, indent=1)
