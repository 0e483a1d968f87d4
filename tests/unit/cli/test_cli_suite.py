"""A suite on the command line: the plan, the table, the card, and a process that is killed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command_line import Call

from monoscope.dictionaries import load

NAMES = ["L1.resid_post.32", "L1.resid_post.3x", "L1.mlp.32", "L1.mlp.3x"]


@pytest.fixture
def suite_config(train_config: Path, tmp_path: Path) -> Path:
    """Four small dictionaries of the last layer."""
    (tmp_path / "held_out.txt").write_text("a dog is not a cat, and the rug is red. " * 30)
    text = train_config.read_text().replace('reads = ["0.resid_post"]\n', "")
    train_config.write_text(
        text + "[suite]\nlayers = [1]\nsites = ['resid_post', 'mlp']\nwidths = [32, '3x']\nheld_out_tokens = 500\n"
        "held_out = {kind = 'files', paths = ['held_out.txt']}\n"
    )
    return train_config


def test_a_suite_is_trained_measured_and_described(call: Call, suite_config: Path, tmp_path: Path) -> None:
    done = call("train", suite_config, "--out", "suite", "--json")
    assert done.code == 0, done.err
    assert "4 dictionaries to train in 1 pass over the model\n  pass 1, about " in done.err
    assert [Path(path).name for path in done.result["dictionaries"]] == NAMES
    assert {load(tmp_path / "suite" / name).n_features for name in NAMES} == {32, 48}
    kept = json.loads((tmp_path / "suite" / "suite.json").read_text())
    assert list(kept["dictionaries"]) == NAMES
    row = kept["dictionaries"]["L1.mlp.3x"]
    assert (row["reads"], row["writes"], row["features"]) == (["1.mlp_in"], ["1.mlp_out"], 48)
    assert 0 < row["fvu"] < 2
    assert 0 < row["l0"] <= 4
    assert kept["held_out"]["text"]["paths"] == ["held_out.txt"]
    card = (tmp_path / "suite" / "README.md").read_text()
    assert all(f"| {name} |" in card for name in NAMES)
    info = call("info", "suite", "--json").result
    assert (info["kind"], info["state"], info["finished"]) == ("suite", "finished", NAMES)

    measured = tmp_path / "suite" / NAMES[0] / "evaluation.json"
    stamp = measured.stat().st_mtime_ns
    (tmp_path / "suite" / NAMES[1] / "evaluation.json").unlink()
    again = call("train", suite_config, "--out", "suite", "--resume")
    assert again.code == 0, again.err
    assert "0 dictionaries to train in 0 passes over the model, 4 finished" in again.err
    assert "| L1.mlp.32 |" in again.out
    assert measured.stat().st_mtime_ns == stamp
    longer = call("train", suite_config, "--out", "suite", "--resume", "--set", "suite.held_out_tokens=700")
    assert longer.code == 0, longer.err
    assert measured.stat().st_mtime_ns > stamp


def test_a_suite_is_reported_on(call: Call, suite_config: Path, tuned: Path, tmp_path: Path) -> None:
    assert call("train", suite_config, "--out", "suite").code == 0
    report = tmp_path / "report.toml"
    report.write_text(
        f'suite = "suite"\ntext = {{kind = "files", paths = ["held_out.txt"]}}\ntuned = "{tuned}"\nlonger = 48\n'
    )
    done = call("evaluate", report, "--out", "report", "--json")
    assert done.code == 0, done.err
    assert list(done.result["contexts"]) == NAMES
    assert done.result["contexts"][NAMES[0]][-1]["last"] == 47
    assert list(done.result["splitting"]) == ["L1.resid_post.32 -> 48", "L1.mlp.32 -> 48"]
    assert "## In a finetuned copy" in (tmp_path / "report" / "report.md").read_text()
    assert "## In a finetuned copy" in call("evaluate", report).out
    for override, code, says in (
        ("longer=32", 2, "longer: the suite was trained on 32 tokens, found 32"),
        ("suite=nowhere", 1, "nowhere is no suite"),
        ("text.paths=['absent.txt']", 1, "absent.txt"),
        ("tuned=absent", 1, "absent"),
        ("threshold=2", 2, "threshold"),
        ("dictionary=suite", 2, "unknown key 'dictionary'"),
    ):
        done = call("evaluate", report, "--set", override)
        assert done.code == code, done.err
        assert says in done.err
    (tmp_path / "suite" / NAMES[2] / "config.toml").unlink()
    assert "is not finished, L1.mlp.32 is missing" in call("evaluate", report).err


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("suite.layers=[7]", "suite.layers: "),
        ("suite.layers=[]", "suite: layers: name at least one"),
        ('suite.sites=["resid_pots"]', "did you mean 'resid_post'"),
        ('suite.widths=["wide"]', "suite: widths: found 'wide'"),
        ("suite.widths=[2]", "L1.resid_post.2: "),
        ("suite.memory_gb=0.001", "are set aside; choose a smaller width"),
        ('reads=["1.mlp_in"]', "reads would have no effect"),
        ("sweep.a.recipe.function.k=1", "sweep would have no effect"),
        ("text.kind=standard_library", "unknown key 'paths'"),
        ("suite.recipe.function.k=1", "suite: unknown key 'recipe'"),
    ],
)
def test_what_cannot_be_a_suite(call: Call, suite_config: Path, tmp_path: Path, override: str, says: str) -> None:
    done = call("train", suite_config, "--out", "suite", "--set", override)
    assert done.code == 2, done.err
    assert says in done.err
    assert not (tmp_path / "suite").exists()


def test_held_out_text_must_be_named_where_there_is_none(call: Call, suite_config: Path) -> None:
    suite_config.write_text(suite_config.read_text().replace("held_out = {", "ignored = {").replace("ignored", "#"))
    done = call("train", suite_config, "--out", "suite")
    assert done.code == 2
    assert "suite.held_out: name text to measure on" in done.err


@pytest.mark.slow
def test_a_killed_suite_goes_on(call: Call, suite_config: Path, tmp_path: Path) -> None:
    settings = ("--set", "training.tokens=6000", "--set", "training.checkpoint_every=0")
    command = [sys.executable, "-m", "monoscope", "train", str(suite_config), "--out", "cut", *settings]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL)
    log = tmp_path / "cut" / "pass" / NAMES[0] / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not log.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait(60)
    info = call("info", "cut", "--json").result
    assert (info["state"], info["under_way"]) == ("can be resumed", NAMES)
    done = call("train", suite_config, "--out", "cut", *settings, "--resume")
    assert done.code == 0, done.err
    assert call("train", suite_config, "--out", "whole", *settings).code == 0
    tables = [json.loads((tmp_path / name / "suite.json").read_text())["dictionaries"] for name in ("cut", "whole")]
    assert tables[0] == tables[1]
