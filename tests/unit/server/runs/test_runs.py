from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from monoscope.server.runs.log import curves, logs_of, read
from monoscope.server.runs.settings import differences, settings_of


def write(path: Path, rows: list[object], end: str = "\n") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(json.dumps(row) for row in rows) + end)
    return path


def test_a_log_is_read_on_from_where_it_was_left(tmp_path):
    log = write(tmp_path / "metrics.jsonl", [{"step": 1, "fvu": 0.5}])
    first = read(log)
    assert (first.rows, first.end, first.is_new) == ([{"step": 1.0, "fvu": 0.5}], log.stat().st_size, False)
    with log.open("a") as file:
        file.write('{"step": 2, "fvu": 0.4}\n{"step": 3, "fv')
    second = read(log, first.end)
    assert second.rows == [{"step": 2.0, "fvu": 0.4}]
    with log.open("a") as file:
        file.write('u": 0.3}\n')
    assert read(log, second.end).rows == [{"step": 3.0, "fvu": 0.3}]


def test_a_log_that_was_cut_back_is_read_anew(tmp_path):
    log = write(tmp_path / "metrics.jsonl", [{"step": step} for step in range(1, 5)])
    end = read(log).end
    write(log, [{"step": 1}])
    again = read(log, end)
    assert again.is_new
    assert again.rows == [{"step": 1.0}]
    assert read(log, 3).is_new, "no row begins there"
    assert read(tmp_path / "nothing", 5).is_new


def test_lines_that_are_no_rows_are_left_out(tmp_path):
    log = tmp_path / "metrics.jsonl"
    log.write_bytes(b'\xff\xfe\n[1]\n{"step": 1, "loss": NaN, "name": "x", "on": true}\n' + b"[" * 5000 + b"\n")
    assert read(log).rows == [{"step": 1.0, "loss": None}]


def test_long_curves_keep_their_peaks():
    values = [math.sin(step / 40) for step in range(10_000)]
    values[5001] = 9.0
    rows = [{"step": float(step), "tokens": 1.0, "loss": value} for step, value in enumerate(values)]
    (curve,) = curves(rows, 100).values()
    assert len(curve.step) <= 100
    assert max(value for value in curve.value if value is not None) == 9.0
    assert curve.step == sorted(curve.step)
    assert curves(rows[:50], 100)["loss"].value == values[:50]


def test_runs_of_several_dictionaries_have_a_log_each(tmp_path):
    for name in ("wide", "narrow"):
        write(tmp_path / name / "metrics.jsonl", [{"step": 1}])
    assert list(logs_of(tmp_path)) == ["narrow", "wide"]
    write(tmp_path / "metrics.jsonl", [{"step": 1}])
    assert list(logs_of(tmp_path)) == [""]


@pytest.fixture
def sweep(tmp_path):
    (tmp_path / "training.toml").write_text(
        '[runs.wide]\nreads = ["1.mlp_in"]\n[runs.wide.recipe.function]\nkind = "topk"\nk = 32\n'
        '[runs.narrow]\nreads = ["1.mlp_in"]\n[runs.narrow.recipe.function]\nkind = "relu"\n'
        "when = 2026-01-01\nx = inf\n"
        '[source]\nkind = "live"\n'
    )
    return tmp_path


def test_a_run_of_a_sweep_finds_its_settings_above_it(sweep):
    assert settings_of(sweep / "wide")["recipe"] == {"function": {"kind": "topk", "k": 32}}
    assert settings_of(sweep / "other") == {}
    assert json.dumps(settings_of(sweep / "narrow"), allow_nan=False)


def test_settings_that_differ(sweep):
    found, n_same = differences(settings_of(sweep / "wide"), settings_of(sweep / "narrow"))
    assert {item.key: (item.a, item.b) for item in found} == {
        "recipe.function.kind": ("topk", "relu"),
        "recipe.function.k": (32, None),
        "recipe.function.when": (None, "2026-01-01"),
        "recipe.function.x": (None, "inf"),
    }
    assert n_same == 2


def test_settings_that_cannot_be_read_are_none(tmp_path):
    (tmp_path / "training.toml").write_text("[[[")
    assert settings_of(tmp_path) == {}
