"""Converting: the receipt, the comparison, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from dictionary_cases import build, data

from monoscope import formats
from monoscope.core.errors import CannotHold, DataError, OutputError
from monoscope.dictionaries import Dictionary
from monoscope.formats import layouts
from monoscope.formats.check import sample
from monoscope.formats.convert import compare
from monoscope.formats.layout import Layout, Receipt
from monoscope.formats.native import Native
from monoscope.formats.opened import About, Opened


class Careless(Layout):
    """Writes what its tests want it to write."""

    name = "careless"

    def __init__(self, change: str) -> None:
        self.change = change

    def evidence(self, folder: Any) -> str | None:
        return "its name" if folder.has("careless") else None

    def read(self, folder: Any, entry: str = "", choices: Mapping[str, str] | None = None) -> Opened:
        return Native().read(folder)

    def write(self, dictionary: Dictionary, directory: Path, about: About) -> Receipt:
        if self.change == "refuses":
            raise CannotHold("careless has no word for that", ("native",))
        twin = dictionary.frozen()
        with torch.no_grad():
            if self.change == "scales":
                twin.get_parameter("W_dec").mul_(2)
            elif self.change == "units":  # acts in other units, the same contributions
                twin.get_parameter("W_dec").mul_(2)
                twin.get_parameter("W_enc").div_(2)
                twin.get_parameter("b_enc").div_(2)
        receipt = Native().write(twin, directory, about)
        (directory / "careless").touch()
        return Receipt(
            self.name, [*receipt.files, "careless"], ["scaled"], ["the truth"] if self.change == "says" else []
        )


@pytest.fixture
def careless(monkeypatch: pytest.MonkeyPatch) -> Any:
    def used(change: str) -> None:
        layout = (*layouts.LAYOUTS, Careless(change))
        monkeypatch.setattr(layouts, "LAYOUTS", layout)

    return used


@pytest.mark.parametrize("wiring", ["sae", "skip", "crosscoder", "clt", "lorsa", "layer_norm", "molt"])
def test_what_is_written_is_read_back_and_compared(wiring: str, tmp_path: Path) -> None:
    dictionary = build("topk", wiring)
    dictionary.save(tmp_path / "a")
    done = formats.convert(tmp_path / "a", tmp_path / "b", "native")
    assert (done.comparison.on, done.comparison.is_same, done.warnings) == ("random inputs", True, ())
    assert done.comparison.l0 > 1
    receipt = json.loads((tmp_path / "b" / "receipt.json").read_text())
    assert receipt["from"]["layout"] == "native"
    assert receipt["to"]["files"] == ["config.toml", "weights.safetensors"]
    assert receipt["comparison"]["acts_error"] == 0
    assert formats.load(tmp_path / "b").fingerprint() == dictionary.frozen().fingerprint()


def test_on_activations_the_fit_is_reported_too(tmp_path: Path) -> None:
    dictionary = build("topk")
    dictionary.save(tmp_path / "a")
    x, _ = data("sae", dictionary)
    done = formats.convert(tmp_path / "a", tmp_path / "b", "native", activations={dictionary.reads[0]: x})
    assert done.comparison.on == "activations"
    assert done.before is not None
    assert done.before == done.after
    assert done.before.fvu > 0
    assert json.loads((tmp_path / "b" / "receipt.json").read_text())["fit"]["before"]["tokens"] == 64
    with pytest.raises(OutputError, match="exists"):
        formats.convert(tmp_path / "a", tmp_path / "b", "native")
    formats.convert(tmp_path / "a", tmp_path / "b", "native", force=True)


def test_what_comes_out_different_is_refused_and_nothing_is_left(tmp_path: Path, careless: Any) -> None:
    build("topk").save(tmp_path / "a")
    careless("scales")
    with pytest.raises(DataError, match="what careless wrote is not read back as the same dictionary"):
        formats.convert(tmp_path / "a", tmp_path / "b", "careless")
    careless("refuses")
    with pytest.raises(CannotHold, match="careless has no word for that; nearest: native"):
        formats.convert(tmp_path / "a", tmp_path / "b", "careless")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_units_of_features_are_up_to_the_layout(tmp_path: Path, careless: Any) -> None:
    build("topk").save(tmp_path / "a")
    careless("units")
    done = formats.convert(tmp_path / "a", tmp_path / "b", "careless")
    assert done.comparison.is_same
    assert done.receipt.steps == ["scaled"]


def test_a_feature_at_its_threshold_may_move(tmp_path: Path) -> None:
    before, after = build("jumprelu").frozen(), build("jumprelu").frozen()
    x, _ = data("sae", before)
    batches = sample({before.reads[0]: x})
    with torch.no_grad():
        score = before.preacts(x)[:, 3].sort().values
        before.get_parameter("activation.threshold")[3] = score[-2] - 1e-6
        after.get_parameter("activation.threshold")[3] = score[-2]
    found = compare(before, after, batches, "activations")
    assert found.acts_error == 0
    assert 0.99 < found.same_features < 1
    with pytest.raises(DataError, match="40 features went in, and 60 came out"):
        compare(before, build("topk", "clt").frozen(), batches, "activations")
