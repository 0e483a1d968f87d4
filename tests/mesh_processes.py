"""``mesh_run`` in some processes, and what their runs are compared with."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import mesh_run
import pytest
import torch

from monoscope.dictionaries import load


def environment() -> dict[str, str]:
    """Of a process that runs ``mesh_run``."""
    path = os.pathsep.join([str(Path(mesh_run.__file__).parent), *sys.path])
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}


def run(processes: int, out: object, features: int, *flags: object) -> str:
    """What ``mesh_run`` says in some processes; its activations come in two lanes."""
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", processes) if processes > 1 else ()
    command = [sys.executable, *map(str, (*launcher, mesh_run.__file__, out, features, 2, *flags))]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True)
    assert (done.returncode == 0) != ("--fail" in flags), done.stderr
    return done.stderr


def check_same(one: Path, other: Path) -> None:
    """Weights, and rows of the log but for times, up to rounding."""
    found, expected = (load(path).state_dict() for path in (one, other))
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-4, msg=name)
    logs = [[json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()] for path in (one, other)]
    assert [row["step"] for row in logs[0]] == [row["step"] for row in logs[1]] == list(range(1, 13))
    for a, b in zip(*logs, strict=True):
        for name in ("loss", "fvu", "l0", "dead"):
            assert a[name] == pytest.approx(b[name], rel=1e-3, abs=1e-5), (name, a["step"])
