"""Verbs that several processes share, started by PyTorch's own launcher."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import Call, launching, torchrun

from monoscope.dictionaries import load
from monoscope.features import FeatureBundle
from monoscope.harvest import ActivationStore


@pytest.mark.slow
def test_two_processes_analyze_one_text(call: Call, train_config: Path, tmp_path: Path) -> None:
    assert call("train", train_config, "--out", "sae").code == 0
    config = tmp_path / "examine.toml"
    config.write_text('dictionary = "sae"\nwindows_per_batch = 2\n')
    assert call("analyze", config, "--out", "alone.mono").code == 0
    done = torchrun(2, "analyze", config, "--out", "shared.mono", "--json")
    assert done.returncode == 0, done.stderr
    (result,) = (json.loads(line) for line in done.stdout.splitlines())  # the first process alone speaks
    alone, shared = (FeatureBundle.open(tmp_path / name) for name in ("alone.mono", "shared.mono"))
    assert result["features"] == len(alone) == 48
    for name in alone.features.column_names:
        np.testing.assert_allclose(shared.column(name), alone.column(name), rtol=1e-5, atol=1e-6, err_msg=name)
    assert shared.manifest["data"] == alone.manifest["data"]
    contexts = [
        [file["sha256"] for file in bundle.manifest["files"] if "contexts" in file["path"]]
        for bundle in (alone, shared)
    ]
    assert contexts[0] == contexts[1]
    assert not (tmp_path / "shared.mono.partial").exists()


@pytest.fixture
def small_shards(harvest_config: Path) -> Path:
    harvest_config.write_text(f"shard_tokens = 64\nwindows_per_batch = 2\n{harvest_config.read_text()}")
    return harvest_config


def stored(path: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens and activations of a store, in its order."""
    batches = list(ActivationStore(path))
    (site,) = batches[0].activations
    return torch.cat([batch.tokens for batch in batches]), torch.cat([batch.activations[site] for batch in batches])


@pytest.mark.slow
def test_processes_harvest_one_text_into_one_store(call: Call, small_shards: Path, tmp_path: Path) -> None:
    assert call("harvest", small_shards, "--out", "alone").code == 0
    expected = stored(tmp_path / "alone")
    for processes in (2, 3):
        done = torchrun(processes, "harvest", small_shards, "--out", f"by{processes}", "--json")
        assert done.returncode == 0, done.stderr
        (result,) = (json.loads(line) for line in done.stdout.splitlines())  # the first process alone speaks
        assert result["tokens"] == ActivationStore(tmp_path / "alone").n_tokens
        assert all(torch.equal(a, b) for a, b in zip(stored(tmp_path / f"by{processes}"), expected, strict=True))
        assert not (tmp_path / f"by{processes}.partial").exists()


@pytest.mark.slow
def test_a_killed_process_of_a_harvest_goes_on(call: Call, small_shards: Path, tmp_path: Path) -> None:
    """Killed as a machine that fails kills, in the midst of its part, and started again by the launcher."""
    assert call("harvest", small_shards, "--out", "alone").code == 0
    launched = launching(2, "harvest", small_shards, "--out", "acts", "--json", restarts=1)
    part = tmp_path / "acts.partial" / "part-00001-of-00002"
    while not (part / "shard-00002.safetensors").exists():
        assert launched.poll() is None, launched.communicate()
        time.sleep(0.01)
    kept = (part / "shard-00000.safetensors").stat().st_mtime_ns
    os.kill(int((part / ".lock").read_text().split()[0]), signal.SIGKILL)
    out, err = launched.communicate()
    assert launched.returncode == 0, err
    assert "exitcode: -9" in err
    assert len(out.splitlines()) == 1
    assert (tmp_path / "acts" / part.name / "shard-00000.safetensors").stat().st_mtime_ns == kept
    pairs = zip(stored(tmp_path / "acts"), stored(tmp_path / "alone"), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.slow
def test_two_processes_train_one_dictionary(call: Call, train_config: Path) -> None:
    exact = ("--set", "training.encode_dtype=fp32", "--set", "training.snapshots=[1000]")
    assert call("train", train_config, "--out", "alone", *exact).code == 0
    settings = (*exact, "--set", "parallel.features=2")
    done = torchrun(2, "train", train_config, "--out", "together", "--json", *settings)
    assert done.returncode == 0, done.stderr
    (result,) = (json.loads(line) for line in done.stdout.splitlines())
    assert list(result["dictionaries"]) == ["together"]
    for place in ("", "snapshots/1000"):
        alone, together = (load(Path(name) / place).state_dict() for name in ("alone", "together"))
        for name, value in alone.items():
            torch.testing.assert_close(together[name], value, rtol=1e-2, atol=2e-3, msg=name)
    assert not list(Path("together").glob("checkpoint*"))
    rows = [(Path(name) / "metrics.jsonl").read_text().splitlines() for name in ("alone", "together")]
    assert len(rows[0]) == len(rows[1])


@pytest.mark.slow
def test_processes_share_the_weights_of_the_model(call: Call, harvest_config: Path, train_config: Path) -> None:
    """What is harvested, trained and analyzed is what it is where each process holds the whole model."""
    shared = ("--set", "share_model=true")
    assert call("harvest", harvest_config, "--out", "acts").code == 0
    done = torchrun(2, "harvest", harvest_config, "--out", "by2", *shared)
    assert done.returncode == 0, done.stderr
    assert all(torch.equal(a, b) for a, b in zip(stored(Path("by2")), stored(Path("acts")), strict=True))

    for name, more in (("whole", ()), ("sae", shared)):
        done = torchrun(2, "train", train_config, "--out", name, *more)  # each reads text of its own
        assert done.returncode == 0, done.stderr
    whole, sae = (load(name).state_dict() for name in ("whole", "sae"))
    assert all(torch.equal(sae[name], value) for name, value in whole.items())

    Path("examine.toml").write_text('dictionary = "sae"\nwindows_per_batch = 2\nanalysis.tokens = 300\n')
    for name, more in (("whole.mono", ()), ("sae.mono", shared)):
        done = torchrun(2, "analyze", "examine.toml", "--out", name, *more)
        assert done.returncode == 0, done.stderr
    bundles = [FeatureBundle.open(name) for name in ("whole.mono", "sae.mono")]
    files = [{file["path"]: file["sha256"] for file in bundle.manifest["files"]} for bundle in bundles]
    assert files[0] == files[1]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (("model=bundled", "models.a=bundled", "models.b=bundled"), "the weights of one model can be shared"),
        (("recipe.terms.end_to_end.kind=end_to_end",), "which each process has to hold whole"),
    ],
)
def test_models_whose_weights_cannot_be_shared(
    call: Call, train_config: Path, changes: tuple[str, ...], says: str
) -> None:
    settings = [word for change in ("share_model=true", *changes) for word in ("--set", change)]
    refused = call("train", train_config, "--out", "sae", *settings)
    assert refused.code == 2
    assert says in refused.err


@pytest.mark.slow
def test_of_what_cannot_be_shared_one_process_says_so(call: Call, train_config: Path) -> None:
    done = torchrun(2, "train", train_config, "--out", "run", "--set", "parallel.features=3")
    assert done.returncode == 1
    assert done.stderr.count("error: ") == 1
    assert "parallel.features is 3, which does not divide 2 processes" in done.stderr
    done = torchrun(
        2, "train", train_config, "--out", "run", "--set", "parallel.features=2", "--set", "recipe.wiring.n_features=49"
    )
    assert done.stderr.count("error: ") == 1
    assert "49 features cannot be shared out equally among 2 processes" in done.stderr


@pytest.mark.parametrize(("rank", "ranks"), [("2", "2"), ("x", "2"), ("-1", "1")])
def test_an_environment_that_cannot_be_meant(
    call: Call, train_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rank: str, ranks: str
) -> None:
    config = tmp_path / "examine.toml"
    config.write_text('dictionary = "sae"\n')
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", ranks)
    done = call("analyze", config, "--out", "features.mono")
    assert done.code == 2
    assert f"RANK={rank} of WORLD_SIZE={ranks}" in done.err
