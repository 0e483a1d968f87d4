"""Opening: exactly one layout recognizes the files, and no more is read than what is asked for."""

from __future__ import annotations

import json
import os
import struct
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from dictionary_cases import build, data

from monoscope import formats
from monoscope.core.errors import CannotHold, ConfigError, DataError
from monoscope.dictionaries import load
from monoscope.formats import layouts
from monoscope.formats.blob import FileBlob
from monoscope.formats.folder import Folder
from monoscope.formats.layout import Layout
from monoscope.formats.opened import About, Opened


@pytest.mark.parametrize("wiring", ["sae", "skip", "crosscoder", "clt", "lorsa", "matching_pursuit", "molt"])
def test_native_is_opened_as_it_was_saved(wiring: str, tmp_path: Path) -> None:
    dictionary = build("pursuit" if wiring == "matching_pursuit" else "topk", wiring)
    dictionary.save(tmp_path / "d")
    opened = formats.open(tmp_path / "d")
    back = opened.dictionary()
    x, target = data(wiring, dictionary)
    assert back.fingerprint() == load(tmp_path / "d").fingerprint() == dictionary.frozen().fingerprint()
    assert torch.equal(back(x, target).recon, dictionary.frozen()(x, target).recon)
    assert opened.n_features == dictionary.n_features
    assert opened.describe()["layout"] == "native"
    assert opened.describe()["evidence"] == "config.toml and weights.safetensors"
    if wiring == "molt":
        with pytest.raises(ValueError, match="depends on what it reads"):
            opened.direction(3)
        return
    for feature in (0, dictionary.n_features - 1):
        for site in dictionary.writes:
            rows = back.decoder_rows(site, torch.tensor([feature]))
            assert torch.equal(opened.direction(feature, site), rows[0])
    with pytest.raises(ValueError, match=f"the dictionary has {dictionary.n_features}"):
        opened.direction(dictionary.n_features)
    with pytest.raises(ValueError, match=r"does not write 7\.attn_out"):
        opened.direction(0, "7.attn_out")


def sparse_dictionary(path: Path, d: int, n_features: int) -> None:
    """A native directory whose weights are a hole of the right size."""
    build("relu", "transcoder").save(path)
    table = (path / "config.toml").read_text()
    table = table.replace("n_features = 40", f"n_features = {n_features}").replace(" = 12\n", f" = {d}\n")
    (path / "config.toml").write_text(table.replace(" = 10\n", f" = {d}\n"))
    header, end = {}, 0
    shapes = {"W_enc": [d, n_features], "b_enc": [n_features], "W_dec": [n_features, d], "b_dec": [d]}
    for name, shape in shapes.items():
        size = 4 * torch.Size(shape).numel()
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    with (path / "weights.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)


def test_two_gigabytes_are_described_by_kilobytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sparse_dictionary(tmp_path / "d", 2048, 131072)
    assert (tmp_path / "d" / "weights.safetensors").stat().st_size > 2e9
    read: list[int] = []
    into = FileBlob.into

    def counting(self: FileBlob, spans: Any, buffer: memoryview) -> None:
        read.append(len(buffer))
        into(self, spans, buffer)

    monkeypatch.setattr(FileBlob, "into", counting)
    opened = formats.open(tmp_path / "d")
    assert opened.describe()["features"] == 131072
    assert sum(read) < 8_000
    read.clear()
    assert opened.direction(70_000).shape == (2048,)
    assert sum(read) == 2048 * 4
    assert os.stat(tmp_path / "d" / "weights.safetensors").st_blocks < 100


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    dictionary = build("relu")
    with torch.no_grad():
        dictionary.W_dec[3, 2] = float("nan")
    dictionary.save(tmp_path / "d")
    with pytest.raises(DataError, match="W_dec in .* holds numbers that are not finite"):
        formats.load(tmp_path / "d")
    with pytest.raises(DataError, match="W_dec in .* holds numbers that are not finite"):
        formats.open(tmp_path / "d").dictionary()


def test_what_nothing_recognizes_is_said_to_be_so(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("words")
    with pytest.raises(DataError, match=r"is no dictionary of a known layout; found words.txt; known layouts: native"):
        formats.open(tmp_path)
    with pytest.raises(DataError, match=r"there is nothing at .*/word; did you mean 'words.txt'"):
        formats.open(tmp_path / "word")
    with pytest.raises(ConfigError, match=r"unknown layout 'nativ'; did you mean 'native'"):
        formats.open(tmp_path, "nativ")


class Twins(Layout):
    """A layout whose sets hold a file for each dictionary."""

    name = "twins"
    choices: ClassVar[Mapping[str, tuple[str, ...]]] = {"centered": ("yes", "no")}

    def evidence(self, folder: Folder) -> str | None:
        return "its name" if any(name.endswith(".twin") for name in folder.names()) else None

    def entries(self, folder: Folder) -> list[str]:
        return [name for name in folder.names() if name.endswith(".twin")]

    def read(self, folder: Folder, entry: str = "", choices: Mapping[str, str] | None = None) -> Opened:
        return Opened(self.name, {}, {}, About(entry=entry, chosen=dict(choices or {})))


def test_sets_are_opened_by_entry_and_choices_are_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["monoscope.formats.open"], "LAYOUTS", (*layouts.LAYOUTS, Twins()))
    (tmp_path / "a.twin").touch()
    assert formats.open(tmp_path).about.entry == "a.twin"
    (tmp_path / "b.twin").touch()
    assert formats.find(tmp_path).entries() == ["a.twin", "b.twin"]
    with pytest.raises(DataError, match=r"is a set of 2 dictionaries \(twins\); name one, as in .*/a.twin. It holds a"):
        formats.open(tmp_path)
    opened = formats.open(tmp_path / "b.twin", centered="no")
    assert (opened.about.entry, opened.about.chosen, opened.evidence) == ("b.twin", {"centered": "no"}, "its name")
    with pytest.raises(ConfigError, match="twins has no choice 'center'; did you mean 'centered'"):
        formats.open(tmp_path / "b.twin", center="no")
    with pytest.raises(ConfigError, match="centered is 'yes' or 'no', found 'maybe'"):
        formats.open(tmp_path / "b.twin", centered="maybe")
    build("relu").save(tmp_path / "both")
    (tmp_path / "both" / "c.twin").touch()
    with pytest.raises(
        DataError, match=r"several layouts: native \(.*\); twins \(its name\)\. Say which with --format"
    ):
        formats.open(tmp_path / "both")
    assert formats.open(tmp_path / "both", "native").layout == "native"


def test_a_layout_that_is_not_written_says_so(tmp_path: Path) -> None:
    assert not Twins().is_written
    assert layouts.LAYOUTS[0].is_written
    with pytest.raises(CannotHold, match="twins is read, not written; nearest: saelens"):
        Twins().write(build("relu"), tmp_path, About())


def test_a_sweep_is_a_set(tmp_path: Path) -> None:
    for name in ("wide", "deep/narrow"):
        build("relu").save(tmp_path / "sweep" / name)
    found = formats.find(tmp_path / "sweep")
    assert found.entries() == ["deep/narrow", "wide"]
    opened = found.at("deep/narrow").open()
    assert opened.about.entry == "deep/narrow"
    assert opened.dictionary().fingerprint() == formats.load(tmp_path / "sweep" / "wide").fingerprint()
    with pytest.raises(DataError, match=r"has no entry wid; did you mean 'wide'"):
        found.at("wid").open()
