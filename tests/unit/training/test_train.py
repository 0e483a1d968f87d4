"""Training end to end on small arrays: what is written, what is refused, and that a run survives anything."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_training import FAST, RECIPE, D, activations, assert_same

from monoscope.core.errors import ConfigError, DataError, MismatchError, OutputError
from monoscope.core.io import owned
from monoscope.dictionaries import Dictionary, load
from monoscope.training import Training, train
from monoscope.training.checkpoint import checkpoints, load_checkpoint
from monoscope.training.log import METRICS, read_log


def test_the_loss_falls_and_the_result_reads_raw_activations() -> None:
    x = activations()
    dictionary = train(RECIPE, x, **FAST)
    step = dictionary(x)
    fvu = step.error.pow(2).sum() / (x - x.mean(0)).pow(2).sum()
    assert fvu < 0.35
    assert step.acts.l0().max() <= 4
    assert dictionary.acts_scale == pytest.approx(D**0.5 / x.norm(dim=1).mean().item(), rel=1e-5)
    assert not dictionary.training
    assert not any(p.requires_grad for p in dictionary.parameters())


def test_numpy_arrays_and_memory_maps_are_sources(tmp_path: Path) -> None:
    x = activations().numpy()
    np.save(tmp_path / "x.npy", x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    assert_same(train(RECIPE, x, **FAST), train(RECIPE, mapped, **FAST))


def test_the_seed_decides_everything() -> None:
    x = activations()
    first = train(RECIPE, x, **FAST)
    assert_same(first, train(RECIPE, x, **FAST))
    other = train(RECIPE, x, **(FAST | {"seed": 1}))
    assert not torch.equal(first.W_dec, other.W_dec)


def test_several_recipes_in_one_pass_equal_each_alone() -> None:
    x = activations()
    wide = {"wiring": {"kind": "autoencoder", "n_features": 64}, "function": {"kind": "batch_topk", "k": 3.5}}
    together = train([RECIPE, wide], x, **FAST)
    assert_same(together[0], train(RECIPE, x, **FAST))
    assert_same(together[1], train(wide, x, **FAST))


def test_files_of_a_finished_run(tmp_path: Path) -> None:
    out = tmp_path / "run"
    dictionary = train(RECIPE, activations(), out=out, **FAST)
    assert sorted(p.name for p in out.iterdir() if p.name != ".lock") == [
        "config.toml",
        METRICS,
        "training.toml",
        "weights.safetensors",
    ]
    assert_same(dictionary, load(out))
    rows = read_log(out / METRICS)
    assert [row["step"] for row in rows] == [1, *range(5, 51, 5)]
    assert rows[-1]["tokens"] == 6400
    assert rows[-1]["fvu"] < rows[0]["fvu"]
    assert {"loss", "loss/reconstruction", "l0", "dead", "lr", "tokens_per_s"} <= rows[-1].keys()
    assert load(out).provenance["training"]["tokens"] == 6400


def test_an_existing_output_is_refused_and_force_replaces_it(tmp_path: Path) -> None:
    out = tmp_path / "run"
    first = train(RECIPE, activations(), out=out, **FAST)
    with pytest.raises(OutputError, match="exists; choose another place"):
        train(RECIPE, activations(), out=out, **(FAST | {"seed": 1}))
    assert_same(first, load(out))
    second = train(RECIPE, activations(), out=out, force=True, **(FAST | {"seed": 1}))
    assert_same(second, load(out))


def test_two_processes_cannot_share_an_output(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with owned(out), pytest.raises(OutputError, match="in use by process"):
        train(RECIPE, activations(), out=out, force=True, **FAST)


@pytest.mark.parametrize("function", ["topk", "batch_topk", "jumprelu"])
def test_a_run_stopped_anywhere_resumes_to_the_same_bits(
    function: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from monoscope.training import trainer

    recipe: dict[str, Any] = RECIPE | {"function": {"kind": function}}
    if function == "jumprelu":
        recipe["function"] |= {"calibrate_l0": 4}
        recipe["terms"] = {"r": {"kind": "fvu"}, "s": {"kind": "target_l0", "target": 4}}
    else:
        recipe["function"] |= {"k": 4}
    x = activations()
    settings = FAST | {"checkpoint_every": 0, "dead_after": 500, "schedules": {"optimizer.lr": {"kind": "trapezoid"}}}
    settings["snapshots"] = (0.3, 4000)
    whole = train(recipe, x, out=tmp_path / "whole", **settings)

    class Stop(Exception):
        pass

    save, saves = trainer.save_checkpoint, []

    def save_then_stop(directory: Path, step: int, state: dict[str, Any]) -> None:
        save(directory, step, state)
        saves.append(step)
        if len(saves) in (7, 20):
            raise Stop

    monkeypatch.setattr(trainer, "save_checkpoint", save_then_stop)
    for _ in range(2):
        with pytest.raises(Stop):
            train(recipe, x, out=tmp_path / "parts", resume=bool(saves), **settings)
    resumed = train(recipe, x, out=tmp_path / "parts", resume=True, **settings)
    assert_same(whole, resumed)
    for tokens in ("1920", "4096"):
        kept = [load(tmp_path / name / "snapshots" / tokens) for name in ("whole", "parts")]
        assert_same(*kept)
        assert not torch.equal(kept[0].W_dec, whole.W_dec)
    steps = [row["step"] for row in read_log(tmp_path / "parts" / METRICS)]
    assert steps == [1, *range(5, 51, 5)]


def test_a_snapshot_is_what_a_run_of_that_length_gives(tmp_path: Path) -> None:
    x, half = activations(), FAST["tokens"] // 2
    settings = FAST | {"schedules": {}, "dead_after": 500}
    kept = train(RECIPE, x, out=tmp_path / "run", snapshots=(0.0, 0.5, 1.0), **settings)
    assert sorted(path.name for path in (tmp_path / "run" / "snapshots").iterdir()) == [str(half), str(2 * half)]
    assert_same(load(tmp_path / "run" / "snapshots" / str(half)), train(RECIPE, x, **(settings | {"tokens": half})))
    assert_same(load(tmp_path / "run" / "snapshots" / str(2 * half)), kept)
    assert_same(kept, train(RECIPE, x, **settings))
    assert load(tmp_path / "run" / "snapshots" / str(half)).provenance["tokens"] == half


@pytest.mark.parametrize("function", ["topk", "batch_topk", "jumprelu", "gated", "relu"])
def test_a_snapshot_leaves_what_is_trained_as_it_is(function: str, tmp_path: Path) -> None:
    kind = {"kind": function} | ({"k": 4} if "topk" in function else {})
    recipe: dict[str, Any] = {"wiring": RECIPE["wiring"], "function": kind}
    if "topk" not in function:
        recipe["terms"] = {"r": {"kind": "squared_error"}, "s": {"kind": "l0" if function == "jumprelu" else "l1"}}
    if function == "gated":
        recipe["terms"] = {"r": {"kind": "squared_error"}, "s": {"kind": "gate_l1"}, "a": {"kind": "gate_aux"}}
    x, settings = activations(), FAST | {"tokens": 1280}
    kept = train(recipe, x, out=tmp_path / "run", snapshots=(0.2, 0.5), **settings)
    assert_same(kept, train(recipe, x, **settings))


def test_snapshots_that_could_not_be_saved_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"after 6,401 tokens of a run that ends after 6,400"):
        train(RECIPE, activations(), out=tmp_path / "run", snapshots=(0.5, FAST["tokens"] + 1), **FAST)
    with pytest.raises(ConfigError, match="name one"):
        train(RECIPE, activations(), snapshots=(0.5,), **FAST)


def test_each_of_several_has_its_snapshots(tmp_path: Path) -> None:
    train([RECIPE, RECIPE], activations(), names=["a", "b"], out=tmp_path / "runs", snapshots=(1280,), **FAST)
    first, second = (load(tmp_path / "runs" / name / "snapshots" / "1280") for name in ("a", "b"))
    assert_same(first, second)


def test_resuming_a_finished_run_returns_it(tmp_path: Path) -> None:
    out = tmp_path / "run"
    first = train(RECIPE, activations(), out=out, **FAST)
    assert_same(first, train(RECIPE, activations(), out=out, resume=True, **FAST))


def test_resume_names_every_changed_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from monoscope.training import descent
    from monoscope.training import train as module  # noqa: F401

    def stop(*args: Any) -> None:
        raise KeyboardInterrupt

    x = activations()
    with monkeypatch.context() as patch:
        patch.setattr(descent.Descent, "update", stop)
        with pytest.raises(KeyboardInterrupt):
            train(RECIPE, x, out=tmp_path / "run", **FAST)
    changed = RECIPE | {"function": {"kind": "topk", "k": 5}}
    with pytest.raises(MismatchError, match=r"function\.k was 4, now 5.*seed was 0, now 3"):
        train(changed, x, out=tmp_path / "run", resume=True, **(FAST | {"seed": 3}))


def test_nothing_to_resume_says_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nothing to resume"):
        train(RECIPE, activations(), out=tmp_path / "run", resume=True, **FAST)


LONGER = FAST | {"tokens": FAST["tokens"] * 6, "checkpoint_every": 0.05}
SCRIPT = """
import sys, time, torch
from monoscope.training import train
from monoscope.training.descent import Descent
advance = Descent.advance
Descent.advance = lambda *given: (time.sleep(0.01), advance(*given))[1]  # so that it is not done before it is killed
sys.path.insert(0, {tests!r})
from small_training import RECIPE, activations
torch.set_num_threads(1)
try:
    train(RECIPE, activations(), out={out!r}, **{settings!r})
except KeyboardInterrupt:
    sys.exit(130)
"""


def _start(out: Path) -> subprocess.Popen[bytes]:
    code = SCRIPT.format(tests=str(Path(__file__).parents[2]), out=str(out), settings=LONGER)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    return subprocess.Popen([sys.executable, "-c", code], env=environment, stderr=subprocess.PIPE)


def _wait_for(out: Path, process: subprocess.Popen[bytes], at_least_step: int) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if any(_step(path) >= at_least_step for path in checkpoints(out)):
            return
        time.sleep(0.002)
    raise AssertionError(f"no checkpoint in time: {process.stderr.read() if process.poll() is not None else ''}")


def _step(path: Path) -> int:
    return int(path.name.split(".")[0].removeprefix("checkpoint-"))


@pytest.fixture(scope="module")
def whole() -> Dictionary:
    """What a process trains that nobody stops."""
    return train(RECIPE, activations(), **LONGER)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=["KILL", "TERM", "INT"])
def test_a_killed_process_resumes_to_the_same_bits(whole: Dictionary, number: int, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with _start(out) as process:
        _wait_for(out, process, 20)
        process.send_signal(number)
        code = process.wait(60)
    assert code == (-signal.SIGKILL if number == signal.SIGKILL else 130)
    assert load_checkpoint(out)["step"] < whole.provenance["training"]["tokens"] // 128
    assert_same(whole, train(RECIPE, activations(), out=out, resume=True, **LONGER))


def test_activations_that_are_not_finite_are_named() -> None:
    x = activations()
    x[1234, 3] = torch.nan
    with pytest.raises(DataError, match="row 1234"):
        train(RECIPE, x, **FAST)


def test_a_loss_that_is_not_finite_stops_the_run() -> None:
    with pytest.raises(DataError, match="the loss is NaN or infinite"):
        train(RECIPE, activations(), **FAST, optimizer={"kind": "adam", "lr": 1e30})


def test_bad_settings_are_refused_before_anything_runs(tmp_path: Path) -> None:
    x = activations()
    with pytest.raises(ConfigError, match="k is 99, more than the dictionary's 48 features"):
        train(RECIPE | {"function": {"kind": "topk", "k": 99}}, x, **FAST)
    with pytest.raises(ConfigError, match="unknown key 'batch'; did you mean 'batch_tokens'"):
        train(RECIPE, x, batch=3)
    with pytest.raises(ConfigError, match="no reconstruction term"):
        train(RECIPE | {"terms": {"a": {"kind": "auxk"}}}, x, **FAST)
    moving = {"function.k": {"kind": "anneal", "start": 4.0, "over": 0.5}}
    with pytest.raises(ConfigError, match="k of 'group_max' says how features are grouped"):
        train(RECIPE | {"function": {"kind": "group_max", "k": 4}}, x, **FAST, schedules=moving)
    with pytest.raises(ConfigError, match="has no k"):
        jump = {"kind": "jumprelu"}
        terms = {"r": {"kind": "fvu"}, "s": {"kind": "l0"}}
        train(
            RECIPE | {"function": jump, "terms": terms},
            x,
            **FAST,
            schedules={"function.k": {"kind": "anneal", "start": 4, "over": 0.5}},
        )
    with pytest.raises(MismatchError, match="no activations at"):
        train(RECIPE, x, reads=["2.resid_post"], **FAST)
    with pytest.raises(DataError, match="shape"):
        train(RECIPE, x[0], **FAST)


def test_a_sweep_shares_what_one_pass_must_share() -> None:
    each = [Training(tokens=100), Training(tokens=200)]
    with pytest.raises(ConfigError, match="share tokens"):
        train([RECIPE, RECIPE], activations(), training=each)


def test_schedules_move_k_and_the_rate(tmp_path: Path) -> None:
    schedules = {
        "optimizer.lr": {"kind": "trapezoid", "warmup": 0.1, "decay": 0.5},
        "function.k": {"kind": "anneal", "start": 4.0, "over": 0.5},
    }
    train(RECIPE, activations(), out=tmp_path / "run", **FAST, schedules=schedules)
    rows = {row["step"]: row for row in read_log(tmp_path / "run" / METRICS)}
    assert rows[1]["lr"] == pytest.approx(6e-3 / 5)
    assert rows[20]["lr"] == pytest.approx(6e-3)
    assert rows[50]["lr"] < 6e-4
    assert rows[1]["l0"] > 8
    assert rows[30]["l0"] <= 4


def test_a_log_cut_short_by_a_kill_is_read_to_its_last_whole_line(tmp_path: Path) -> None:
    path = tmp_path / METRICS
    path.write_text(json.dumps({"step": 1}) + "\n" + '{"step": 2, "lo')
    assert read_log(path) == [{"step": 1}]
