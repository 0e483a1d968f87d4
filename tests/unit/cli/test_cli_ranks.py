"""Verbs that several processes share, started by PyTorch's own launcher."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from command_line import Call

from monoscope.features import FeatureBundle


def torchrun(processes: int, *arguments: object) -> subprocess.CompletedProcess[str]:
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", processes, "-m", "monoscope")
    command = [sys.executable, *map(str, (*launcher, *arguments))]
    return subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)


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
