from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

import monoscope
from monoscope.core.errors import DataError
from monoscope.training import History
from monoscope.training.log import METRICS

RECIPE = {"wiring": {"kind": "autoencoder", "n_features": 24}, "function": {"kind": "topk", "k": 4}}
HOW = {"tokens": 1280, "batch_tokens": 128, "log_every": 2}


@pytest.fixture(scope="module")
def pass_of_two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "both"
    x = torch.randn(512, 16, generator=torch.Generator().manual_seed(0))
    monoscope.train([RECIPE, RECIPE], x, names=["<one>", "two"], out=out, **HOW)
    return out


def test_a_run_shows_what_it_logged(pass_of_two: Path) -> None:
    run = monoscope.History.open(pass_of_two / "<one>")
    assert run.column("step").tolist() == [1, 2, 4, 6, 8, 10]
    assert run.column("fvu")[-1] == run.rows[-1]["fvu"]
    assert run.is_finished
    assert "step 10 of 10, fvu" in repr(run)
    shown = run._repr_html_()
    assert "training run &lt;one&gt;" in shown
    assert "autoencoder, topk" in shown
    assert "finished" in shown
    assert shown.count("<polyline") == 5


def test_a_run_that_goes_on_says_how_far_it_is(pass_of_two: Path, tmp_path: Path) -> None:
    there = tmp_path / "pass" / "two"
    there.mkdir(parents=True)
    (there.parent / "training.toml").write_text((pass_of_two / "training.toml").read_text())
    lines = (pass_of_two / "two" / METRICS).read_text().splitlines()
    (there / METRICS).write_text("\n".join(lines[:3]) + '\n{"step": 6, "fv')
    run = History.open(there)
    assert not run.is_finished
    assert "at step 4 of 10" in run._repr_html_()
    assert "tokens a second" in run._repr_html_()
    (there / METRICS).write_text("")
    assert "step 0 of 10" in repr(History.open(there))
    assert "at step 0 of 10" in History.open(there)._repr_html_()


def test_what_is_no_run_is_said_with_what_is_there(pass_of_two: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="it holds the runs <one>, two"):
        History.open(pass_of_two)
    with pytest.raises(DataError, match="is no training run"):
        History.open(tmp_path)
    with pytest.raises(DataError, match="did you mean 'fvu'"):
        History.open(pass_of_two / "two").column("fv")


def test_rows_that_lack_a_number_have_none(pass_of_two: Path) -> None:
    run = History.open(pass_of_two / "two")
    rows = ({**run.rows[0], "extra": 1.0}, *run.rows[1:])
    column = History(run.path, run.config, rows).column("extra")
    assert column[0] == 1
    assert all(map(math.isnan, column[1:].tolist()))
